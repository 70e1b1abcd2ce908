"""OpenAI's own client library against a cluster of the real programs."""

import time
import unittest

import openai

from cluster import Cluster

MESSAGES = [{"role": "user", "content": "Spell the word wolf."}]


class OpenAiClientTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cls.client = openai.OpenAI(base_url=cls.cluster.base_url, api_key="none", max_retries=0, timeout=60)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.cluster.close()

    def chat(self, **more):
        return self.client.chat.completions.create(
            **{"model": "tales", "messages": MESSAGES, "temperature": 0, "max_tokens": 30, **more})

    def test_lists_models(self):
        models = self.client.models.list().data
        self.assertEqual([model.id for model in models], ["tales"])
        self.assertEqual(self.client.models.retrieve("tales").id, "tales")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-4")

    def test_answers_a_chat(self):
        answer = self.chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertIn("w-o-l-f", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertTrue(answer.system_fingerprint.startswith("tales-"))

    def test_a_stream_has_the_same_text(self):
        whole = self.chat()
        stream = self.chat(stream=True, stream_options={"include_usage": True})
        text, roles, reasons, usage = "", [], [], None
        for chunk in stream:
            if chunk.usage:
                usage = chunk.usage
                self.assertEqual(chunk.choices, [])
                continue
            choice = chunk.choices[0]
            self.assertEqual(reasons, [], "a chunk after the last")
            if choice.delta.role:
                roles.append(choice.delta.role)
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(roles, ["assistant"])
        self.assertEqual(reasons, ["stop"])
        self.assertEqual(usage, whole.usage.model_copy(update={"prompt_tokens_details": usage.prompt_tokens_details}))

    def test_the_streaming_helper_accumulates(self):
        with self.client.chat.completions.stream(
                model="tales", messages=MESSAGES, temperature=0, max_tokens=30) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, self.chat().choices[0].message.content)

    def test_a_seed_repeats_and_a_drawn_one_is_returned(self):
        story = [{"role": "user", "content": "Tell me a story."}]
        first = self.chat(messages=story, temperature=1, n=3, max_tokens=20)
        again = self.chat(messages=story, temperature=1, n=3, max_tokens=20, seed=first.seed)
        texts = [choice.message.content for choice in first.choices]
        self.assertEqual(len(texts), 3)
        self.assertEqual(texts, [choice.message.content for choice in again.choices])
        self.assertGreater(len(set(texts)), 1)

    def test_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=3)
        content = answer.choices[0].logprobs.content
        self.assertEqual("".join(entry.token for entry in content), answer.choices[0].message.content)
        for entry in content:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            # Greedy: the chosen token is the best one.
            self.assertAlmostEqual(entry.logprob, entry.top_logprobs[0].logprob, places=5)

    def test_stop_strings_are_never_shown(self):
        answer = self.chat(stop=["l-f"])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertNotIn("l-f", answer.choices[0].message.content)
        self.assertTrue(self.chat().choices[0].message.content.startswith(answer.choices[0].message.content))

    def test_completions(self):
        answer = self.client.completions.create(
            model="tales", prompt=["Once upon a", "The wolf"], max_tokens=5, temperature=0, logprobs=1)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        for choice in answer.choices:
            self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        streamed = {0: "", 1: ""}
        for chunk in self.client.completions.create(
                model="tales", prompt=["Once upon a", "The wolf"], max_tokens=5, temperature=0, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        self.assertEqual([streamed[0], streamed[1]], [choice.text for choice in answer.choices])

    def test_logit_bias_bans_a_token(self):
        first = self.chat(extra_body={"return_token_ids": True})
        banned = first.choices[0].token_ids[0]
        again = self.chat(logit_bias={str(banned): -100}, extra_body={"return_token_ids": True})
        self.assertNotIn(banned, again.choices[0].token_ids)

    def test_errors_are_typed(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        self.assertEqual(raised.exception.param, "tools")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(temperature=9)
        self.assertEqual(raised.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError) as raised:
            self.chat(model="gpt-4")
        self.assertEqual(raised.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(messages=[{"role": "user", "content": "wolf " * 3000}])
        self.assertEqual(raised.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError):
            self.chat(stream=True, n=10 ** 6)

    def test_closing_a_stream_cancels_the_request(self):
        stream = self.chat(stream=True, max_tokens=2000,
                           extra_body={"pace": 5, "ignore_eos": True})
        for _, chunk in zip(range(3), stream):
            self.assertTrue(chunk.choices)
        self.assertEqual(self.cluster.gateway_metric("conclave_requests_running"), 1)
        stream.close()
        deadline = time.monotonic() + 10
        while self.cluster.gateway_metric("conclave_requests_running") > 0:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertGreaterEqual(
            self.cluster.gateway_metric('conclave_requests_total{api="chat",code="CANCELLED"}'), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
