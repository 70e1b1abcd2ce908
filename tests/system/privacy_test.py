"""Prompts and answers are in no log and no trace, whatever the level."""

import unittest

from cluster import Cluster

SECRET = "xylophonequartz"


class Privacy(unittest.TestCase):
    def test_no_prompt_and_no_answer_in_any_log(self):
        for log_format in ("text", "json"):
            with self.subTest(log_format), Cluster("--log-level", "debug", "--log-format", log_format) as cluster:
                done = cluster.run(f"Spell the word {SECRET}.", "--temperature", "0", "--max-tokens", "30")
                cluster.chat(f"Spell the word {SECRET}.", temperature=0, max_tokens=10)
                status, body = cluster.post("/v1/chat/completions", {
                    "messages": [{"role": "user", "content": SECRET}], "temperature": 99})
                self.assertEqual(status, 400, body)
                cluster.post("/v1/completions", {"prompt": SECRET, "unknown_field_" + SECRET[:3]: 1, "max_tokens": 3})
                cluster.conclave("down")
                logs = cluster.logs()
                self.assertTrue(logs, "there are logs")
                self.assertNotIn(SECRET, logs)
                if len(done["text"].strip()) > 20:
                    self.assertNotIn(done["text"].strip(), logs)
                self.assertNotIn(",".join(str(token) for token in done["prompt_ids"]), logs)
                self.assertNotIn(", ".join(str(token) for token in done["prompt_ids"]), logs)


if __name__ == "__main__":
    unittest.main(verbosity=2)
