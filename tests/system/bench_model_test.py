"""`conclave bench model`: measures a packed model in one process and through workers, and what it prints is complete."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, MODEL, environment

CONFIG = {
    "model_type": "qwen3_moe", "torch_dtype": "bfloat16", "vocab_size": 515, "hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 4096, "rms_norm_eps": 1e-06,
    "rope_theta": 10000, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False,
}
SMALL = ["--seconds", "0.3", "--rounds", "1", "--prefill", "16,70", "--batch", "1,3", "--context", "0,64"]


def conclave(*words):
    return subprocess.run([str(CONCLAVE), *map(str, words)], env=environment(), capture_output=True, text=True, timeout=120, check=False)


class BenchModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="conclave-bench-model-")
        cls.addClassCleanup(folder.cleanup)
        shape = pathlib.Path(folder.name) / "config.json"
        shape.write_text(json.dumps(CONFIG))
        cls.file = pathlib.Path(folder.name) / "tiny.conclave"
        done = conclave("pack", "--random", shape, "--format", "int8", "--out", cls.file)
        assert done.returncode == 0, done.stderr

    def test_figures(self):
        done = conclave("bench", "model", self.file, *SMALL, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual((told["model"], told["formats"], told["num_workers"], told["complete"]), ("tiny", "int8", 2, True))
        self.assertEqual([(row["what"], row.get("tokens"), row.get("batch"), row.get("context")) for row in told["rows"]],
                         [("prefill", 16, None, None), ("prefill", 70, None, None)] + [("decode", None, batch, context) for context in (0, 64) for batch in (1, 3)])
        for row in told["rows"]:
            for cluster in ("in_process", "workers"):
                speed = row[cluster]
                self.assertGreater(speed["tokens_per_second"], 0)
                self.assertAlmostEqual(speed["share_of_bound"], speed["tokens_per_second"] / speed["bound_tokens_per_second"], places=6)
            if row["what"] == "decode":
                # Two of eight experts a row.
                self.assertIsNotNone(row["active_expert_ratio"], "the engine's metric was not read")
                self.assertGreaterEqual(row["active_expert_ratio"], 0.25)
                self.assertLessEqual(row["active_expert_ratio"], min(1, 0.25 * row["batch"]))
        for cluster in ("in_process", "workers"):
            self.assertGreater(told[cluster]["start_seconds"], 0)
            self.assertGreater(told[cluster]["resident_bytes"], told[cluster]["private_bytes"])

    def test_table_of_a_checkpoint_in_one_process(self):
        done = conclave("bench", "model", MODEL, "--numerics", "int4", "--expert-workers", "0", "--seconds", "0.1", "--rounds", "1",
                        "--prefill", "16,2048", "--batch", "2", "--context", "0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("tales: int4, ", done.stdout)
        self.assertTrue(re.search(r"^decode, batch 2, context 0 +\d[\d.]* +(memory|arithmetic) +\d[\d.]* +[\d.]+ %$", done.stdout, re.MULTILINE), done.stdout)
        self.assertNotIn("workers", done.stdout)
        self.assertIn("prefill 2048 is left out: the model's context is 2048 tokens", done.stderr)

    def test_bad_input_is_named(self):
        for words, expected in ((["bench", "model", "/nowhere/at/all"], "/nowhere/at/all"),
                                (["bench", "model", self.file, "--batch", "0"], "--batch"), (["bench", "machine", self.file], "FILE"),
                                (["bench", "model", self.file, "--numerics", "int4"], "int8")):
            done = conclave(*words)
            self.assertIn(done.returncode, (1, 2), words)
            self.assertIn(expected, done.stderr, words)
            self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    unittest.main()
