"""Puts the Tales exam to a running cluster and prints the share of right answers.

    python tools/tales/exam.py --url http://127.0.0.1:8000/v1 [--concurrency 8]
    python tools/tales/exam.py --write FILE       (for `conclave eval --exam FILE`, which needs no cluster)

Needs only the standard library. Answers are greedy; an answer counts when it equals the expected text.
"""

import argparse
import concurrent.futures
import json
import urllib.request

import data


def ask(url, model, question):
    body = dict(messages=[dict(role="user", content=question)], temperature=0, max_tokens=24)
    if model:
        body["model"] = model
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="base of the OpenAI-compatible API")
    parser.add_argument("--model", help="served name; default: the only one")
    parser.add_argument("--count", type=int, default=200, help="questions")
    parser.add_argument("--concurrency", type=int, default=8, help="questions in flight")
    parser.add_argument("--show", action="store_true", help="print each wrong answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", metavar="FILE", help="write the questions and their answers instead of asking, a JSON object a line")
    args = parser.parse_args()

    questions = data.exam(args.count)
    if args.write:
        with open(args.write, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(dict(question=question, answer=answer)) + "\n" for question, answer in questions)
        return
    with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool:
        replies = list(pool.map(lambda qa: ask(args.url, args.model, qa[0]), questions))
    right = sum(reply.strip() == answer for reply, (_, answer) in zip(replies, questions))
    if args.show:
        for reply, (question, answer) in zip(replies, questions):
            if reply.strip() != answer:
                print(f"{question}  wanted: {answer}  got: {reply.strip()}")
    if args.json:
        print(json.dumps(dict(right=right, count=len(questions), score=right / len(questions))))
    else:
        print(f"{right} of {len(questions)} right ({right / len(questions):.1%})")


if __name__ == "__main__":
    main()
