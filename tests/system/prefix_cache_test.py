"""What prompts have in common is computed once, and nobody can tell from the tokens."""

import json
import re
import signal
import unittest

from cluster import Cluster, wait_until

QUESTIONS = ["Who was the Wolf?", "And the Lamb?", "Tell me the fable of the Crow And The Pitcher.", "Why?"]
FIELDS = {"max_tokens": 60, "temperature": 0.8, "seed": 11, "cache": "off"}
SYSTEM = "You tell fables. " + "Be short, be kind, and keep to what Aesop has said. " * 40


def turn(cluster, messages, question, headers=None):
    """One more question and its answer: the tokens of the prompt, and how many of them were cached."""
    messages.append({"role": "user", "content": question})
    status, body = cluster.post("/v1/chat/completions", {"messages": messages, **FIELDS}, headers)
    if status != 200:
        raise AssertionError(f"{status} {body}")
    answer = json.loads(body)
    messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    return answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def answers_of(messages):
    return [message["content"] for message in messages if message["role"] == "assistant"]


def talk(cluster):
    """A chat of several turns: the answers, and of each prompt the tokens and how many were cached."""
    messages = [{"role": "system", "content": SYSTEM}]
    usages = [turn(cluster, messages, question) for question in QUESTIONS]
    return answers_of(messages), usages


def prompt_tokens(cluster, result):
    """By engine: the tokens of prompts that were in its KV cache ("hit") or were computed ("miss")."""
    tokens = {}
    for row in cluster.ps()["processes"]:
        if row["kind"] == "engine":
            text = cluster.get("/metrics", row["ops_address"])[1]
            tokens[row["name"]] = float(re.search(r'^conclave_prefix_cache_tokens_total\{result="%s"\} (\S+)' % result, text, re.MULTILINE).group(1))
    return tokens


def goes_to(cluster, name):
    """Whether one more request without a beginning that any engine knows is computed by this one."""
    before = prompt_tokens(cluster, "miss")[name]
    status, body = cluster.post("/v1/completions", {"prompt": "Why?", "max_tokens": 1, "cache": "off"})
    if status != 200:
        raise AssertionError(f"{status} {body}")
    return prompt_tokens(cluster, "miss")[name] > before


class PrefixCache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Cluster("--engine-prefix-cache=false") as cluster:
            cls.expected, usages = talk(cluster)
            assert all(cached == 0 for _, cached in usages), usages

    def test_each_turn_computes_only_what_is_new(self):
        with Cluster() as cluster:
            answers, usages = talk(cluster)
            self.assertEqual(answers, self.expected)
            self.assertEqual(usages[0][1], 0)
            self.assertEqual(sum(prompt_tokens(cluster, "hit").values()), sum(cached for _, cached in usages))
            for (before, _), (prompt, cached) in zip(usages, usages[1:]):
                self.assertGreaterEqual(cached, before // 32 * 32)
                self.assertLess(cached, prompt)
            again, usages = talk(cluster)
            self.assertEqual(again, self.expected)
            self.assertEqual([cached for _, cached in usages], [(prompt - 1) // 32 * 32 for prompt, _ in usages])

    def test_a_chat_stays_with_the_engine_that_knows_it(self):
        with Cluster(engines=3) as cluster:
            # engine-0, which gets what any could take, has an answer to give while the chat begins: another gets that.
            busy = cluster.start_answer("Tell me a story.", "--raw", "--ignore-eos", "--max-tokens", "1500", "--pace", "20")
            messages = [{"role": "system", "content": SYSTEM}]
            usages = [turn(cluster, messages, QUESTIONS[0])]
            busy.send_signal(signal.SIGINT)
            busy.communicate(timeout=20)
            computed = {name for name, tokens in prompt_tokens(cluster, "miss").items() if tokens >= usages[0][0]}
            self.assertEqual(len(computed), 1)
            self.assertNotIn("engine-0", computed)
            for question in QUESTIONS[1:]:
                # Others' requests go to engine-0 again: only what the cache holds speaks against it.
                wait_until(lambda: goes_to(cluster, "engine-0"), "a request to engine-0")
                usages.append(turn(cluster, messages, question))
            self.assertEqual(answers_of(messages), self.expected)
            for (before, _), (_, cached) in zip(usages, usages[1:]):
                self.assertGreaterEqual(cached, before // 32 * 32)
            hits = prompt_tokens(cluster, "hit")
            self.assertEqual({name for name, tokens in hits.items() if tokens > 0}, computed)
            self.assertEqual(sum(hits.values()), sum(cached for _, cached in usages))


if __name__ == "__main__":
    unittest.main()
