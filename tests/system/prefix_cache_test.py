"""What prompts have in common is computed once, and nobody can tell from the tokens."""

import json
import re
import unittest

from cluster import Cluster

QUESTIONS = ["Who was the Wolf?", "And the Lamb?", "Tell me the fable of the Crow And The Pitcher.", "Why?"]
FIELDS = {"max_tokens": 60, "temperature": 0.8, "seed": 11, "cache": "off"}
SYSTEM = "You tell fables. " + "Be short, be kind, and keep to what Aesop has said. " * 40


def talk(cluster, system=SYSTEM, headers=None):
    """A chat of several turns: the answers, and of each prompt the tokens and how many were cached."""
    messages, answers, usages = [{"role": "system", "content": system}], [], []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        status, body = cluster.post("/v1/chat/completions", {"messages": messages, **FIELDS}, headers)
        if status != 200:
            raise AssertionError(f"{status} {body}")
        answer = json.loads(body)
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        answers.append(messages[-1]["content"])
        usages.append((answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]))
    return answers, usages


def found(cluster):
    """By engine: the tokens of prompts that were found in its KV cache."""
    tokens = {}
    for row in cluster.ps()["processes"]:
        if row["kind"] == "engine":
            text = cluster.get("/metrics", row["ops_address"])[1]
            tokens[row["name"]] = float(re.search(r'^conclave_prefix_cache_tokens_total\{result="hit"\} (\S+)', text, re.MULTILINE).group(1))
    return tokens


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
            self.assertEqual(sum(found(cluster).values()), sum(cached for _, cached in usages))
            for (before, _), (prompt, cached) in zip(usages, usages[1:]):
                self.assertGreaterEqual(cached, before // 32 * 32)
                self.assertLess(cached, prompt)
            again, usages = talk(cluster)
            self.assertEqual(again, self.expected)
            self.assertEqual([cached for _, cached in usages], [(prompt - 1) // 32 * 32 for prompt, _ in usages])

    def test_a_chat_stays_with_the_engine_that_knows_it(self):
        with Cluster(engines=3) as cluster:
            for system in (SYSTEM, "Another one: " + SYSTEM):
                answers, usages = talk(cluster, system)
                if system == SYSTEM:
                    self.assertEqual(answers, self.expected)
                for (before, _), (_, cached) in zip(usages, usages[1:]):
                    self.assertGreaterEqual(cached, before // 32 * 32)


if __name__ == "__main__":
    unittest.main()
