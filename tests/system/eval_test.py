"""`conclave eval` on the bundled model: what the formats do to it, in the order that theory demands, and wrong use.

The text, fables.txt, is from Aesop's Fables, translated by George Fyler Townsend (1867, public domain).
"""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

from cluster import CONCLAVE, MODEL, SOURCE, Cluster, environment

TEXT = pathlib.Path(__file__).with_name("fables.txt")
KINDS = ["embedding", "attention", "ffn", "experts", "lm_head"]


def conclave(*words):
    return subprocess.run([str(CONCLAVE), *map(str, words)], env=environment(), capture_output=True, text=True, timeout=120, check=False)


def evaluate(*words):
    done = conclave("eval", MODEL, *words, "--json")
    if done.returncode:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


class Eval(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="conclave-eval-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)

    def errors(self, told):
        kinds = told["weights"]["kinds"]
        self.assertEqual([kind["kind"] for kind in kinds], KINDS)
        for kind in kinds:
            self.assertGreaterEqual(kind["worst_relative_error"], kind["relative_error"])
            own = [tensor["relative_error"] for tensor in told["weights"]["tensors"] if tensor["kind"] == kind["kind"]]
            self.assertEqual((len(own), max(own)), (kind["tensors"], kind["worst_relative_error"]))
        return {kind["kind"]: kind["relative_error"] for kind in kinds}

    def test_the_reference_is_no_distance_from_itself(self):
        told = evaluate("--format", "bf16", "--text", TEXT, "--tokens", "1000")
        text = told["text"]
        self.assertEqual((told["model"], told["format"], told["reference"]), ("tales", "bf16", "bf16"))
        self.assertEqual((text["windows"], text["context"], text["tokens"]), (2, 512, 998))
        self.assertEqual((text["mean_kl_nats"], text["p99_kl_nats"], text["perplexity_ratio"], text["same_argmax_ratio"]), (0, 0, 1, 1))
        self.assertEqual(text["perplexity"], text["reference_perplexity"])
        # The model knows the fables; by chance it would be 4096.
        self.assertGreater(text["perplexity"], 1.5)
        self.assertLess(text["perplexity"], 10)
        # Its checkpoint is stored in bf16.
        self.assertEqual(set(self.errors(told).values()), {0})

    def test_formats_are_as_far_as_their_bits_are_few(self):
        int8, mixed, int4 = (evaluate("--text", TEXT, *words) for words in (["--format", "int8"], ["--format", "int8", "--experts", "int4"],
                                                                          ["--format", "int4"]))
        self.assertEqual(mixed["format"], "int8+int4")
        for told in (int8, mixed, int4):
            self.assertAlmostEqual(told["text"]["perplexity_ratio"], told["text"]["perplexity"] / told["text"]["reference_perplexity"], places=9)
            self.assertGreater(told["text"]["p99_kl_nats"], told["text"]["mean_kl_nats"])
        self.assertLess(abs(int8["text"]["perplexity_ratio"] - 1), 0.005)
        self.assertGreater(int4["text"]["perplexity_ratio"], 1.01)
        self.assertLess(int4["text"]["perplexity_ratio"], 1.15)
        kl = [told["text"]["mean_kl_nats"] for told in (int8, mixed, int4)]
        self.assertTrue(0.001 < kl[0] < kl[1] < kl[2] < 0.3, kl)
        self.assertLess(2 * kl[0], kl[2])
        same = [told["text"]["same_argmax_ratio"] for told in (int8, mixed, int4)]
        self.assertTrue(1 > same[0] > same[1] > same[2] > 0.7, same)
        # Rounding to 255 and to 15 steps of a group: half a per cent and 9 %.
        of_int8, of_mixed, of_int4 = self.errors(int8), self.errors(mixed), self.errors(int4)
        for kind in ("attention", "ffn", "experts"):
            self.assertTrue(0.003 < of_int8[kind] < 0.01, of_int8)
            self.assertTrue(0.05 < of_int4[kind] < 0.15, of_int4)
        self.assertEqual((of_mixed["attention"], of_mixed["experts"]), (of_int8["attention"], of_int4["experts"]))
        # Beside int4 the LM head is int8.
        self.assertEqual(of_int4["lm_head"], of_int8["lm_head"])
        self.assertIn(int4["weights"]["worst_tensor"], {kind["worst_tensor"] for kind in int4["weights"]["kinds"]})

    def test_smaller_groups_are_nearer(self):
        coarse, fine = (evaluate("--format", "int4", "--group", group) for group in (128, 32))
        self.assertIsNone(fine["text"])
        self.assertEqual((coarse["format"], fine["format"]), ("int4:128", "int4:32"))
        self.assertLess(self.errors(fine)["experts"], 0.95 * self.errors(coarse)["experts"])

    def test_the_same_each_time(self):
        words = ["--format", "int4", "--text", TEXT, "--tokens", "600", "--context", "100"]
        told = evaluate(*words)
        self.assertEqual(evaluate(*words, "--threads", "1"), told)
        self.assertEqual(told["text"]["windows"], 6)
        self.assertEqual(told["text"]["tokens"], 594)

    def test_a_packed_file_with_its_checkpoint_and_without(self):
        file = self.folder / "tales.conclave"
        self.assertEqual(conclave("pack", MODEL, "--format", "int4", "--out", file).returncode, 0)
        words = ["--text", TEXT, "--tokens", "600", "--json"]
        of_checkpoint = evaluate("--format", "int4", *words[:-1])
        alone = json.loads(conclave("eval", file, *words).stdout)
        self.assertEqual((alone["format"], alone["reference"], alone["weights"]), ("int4", None, None))
        self.assertEqual(alone["text"]["perplexity"], of_checkpoint["text"]["perplexity"])
        self.assertIsNone(alone["text"]["mean_kl_nats"])
        self.assertEqual(json.loads(conclave("eval", file, *words, "--checkpoint", MODEL).stdout), of_checkpoint)
        table = conclave("eval", file, *words[:-1])
        self.assertIn("without a reference: --checkpoint names it", table.stdout)
        for flags, said in ((["--format", "int8"], "is packed already: leave out --format"), ([], "nothing to say"),
                            (["--checkpoint", file], "is a packed file")):
            done = conclave("eval", file, *flags)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(said, done.stderr)

    def test_the_table_says_the_same(self):
        told = evaluate("--format", "int8", "--text", TEXT, "--tokens", "600")
        done = conclave("eval", MODEL, "--format", "int8", "--text", TEXT, "--tokens", "600")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("tales in int8 against bf16", done.stdout)
        self.assertIn("598 tokens predicted in 2 windows of 512", done.stdout)
        rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
        self.assertEqual(rows["int8"][:2], [f"{told['text']['perplexity']:.4f}", f"{told['text']['perplexity_ratio']:.5f}"])
        self.assertEqual(rows["bf16"][0], f"{told['text']['reference_perplexity']:.4f}")
        self.assertEqual(rows["lm_head"][-1], "lm_head.weight")

    def test_wrong_use_is_told(self):
        short, empty, latin1 = (self.folder / name for name in ("short.txt", "empty.txt", "latin1.txt"))
        short.write_text("a")
        empty.write_text("")
        latin1.write_bytes(b"caf\xe9 " * 100)
        for words, code, told in ((["--text", "/nowhere/x.txt"], 1, "/nowhere/x.txt"), (["--text", self.folder], 2, str(self.folder)),
                                  (["--text", short], 2, "a single token"), (["--text", empty], 2, "no tokens"),
                                  (["--text", latin1], 2, "latin1.txt"), (["--format", "int3"], 2, '"int3"'),
                                  (["--format", "int8:33"], 2, "--format"), (["--format", "bf16", "--group", "32"], 2, "--group"),
                                  (["--experts", "f32"], 2, "--experts"), (["--against", "int8"], 2, "--against"),
                                  (["--text", TEXT, "--context", "2049"], 2, "the model's 2048"), (["--text", TEXT, "--context", "1"], 2, "--context"),
                                  (["--context", "64"], 2, "--text"), (["--checkpoint", MODEL], 2, "--checkpoint"),
                                  (["--engine-cpu-level", "sse9"], 2, "sse9")):
            done = conclave("eval", MODEL, *words)
            self.assertEqual((done.returncode, done.stdout), (code, ""), (words, done.stderr))
            self.assertTrue(done.stderr.startswith("error: "), done.stderr)
            self.assertIn(told, done.stderr, words)
        done = conclave("eval", "/nowhere/at/all")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/at/all", done.stderr)

    def test_the_exam_is_that_of_a_cluster(self):
        exam = SOURCE / "tools" / "tales" / "exam.py"
        file = self.folder / "exam.jsonl"
        subprocess.run([sys.executable, exam, "--count", "60", "--write", file], check=True, timeout=60)
        told = evaluate("--format", "int4", "--exam", file)["exam"]
        self.assertEqual(told["questions"], 60)
        for format, right in (("int4", told["right"]), ("bf16", told["reference_right"])):
            with Cluster("--numerics", format) as cluster:
                asked = subprocess.run([sys.executable, exam, "--count", "60", "--url", f"http://{cluster.http_address}/v1", "--json"],
                                       capture_output=True, text=True, check=True, timeout=120)
            self.assertEqual(json.loads(asked.stdout)["right"], right, format)
            self.assertGreater(right, 5)
        table = conclave("eval", MODEL, "--format", "int4", "--exam", file).stdout
        self.assertIn(f"exam: {told['right']} of 60 answers right in int4, {told['reference_right']} in bf16", table)
        # Neither right nor wrong depends on the questions beside it.
        lines = file.read_text().splitlines()
        file.write_text("\n".join(lines[::-1]) + "\n\n")
        self.assertEqual(evaluate("--format", "int4", "--exam", file)["exam"], told)

    def test_a_bad_exam_is_told(self):
        file = self.folder / "bad.jsonl"
        good = '{"question": "a", "answer": "b"}\n'
        for text, told in (("", "no questions"), (good + "nonsense\n", "bad.jsonl, line 2"), (good + '{"question": "a"}\n', "bad.jsonl, line 2"),
                           ('["a", "b"]\n', "bad.jsonl, line 1"), ('{"question": "a", "answer": 5}\n', "bad.jsonl, line 1"),
                           (json.dumps({"question": "wolf " * 3000, "answer": "b"}), "question 1 of the exam")):
            file.write_text(text)
            done = conclave("eval", MODEL, "--exam", file)
            self.assertEqual((done.returncode, done.stdout), (2, ""), (text[:40], done.stderr))
            self.assertIn(told, done.stderr)
        done = conclave("eval", MODEL, "--exam", "/nowhere/exam.jsonl")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/exam.jsonl", done.stderr)

    def metric(self, cluster):
        """conclave_quantization_error_ratio by process and kind of tensor."""
        found = {}
        for row in cluster.ps()["processes"]:
            with urllib.request.urlopen(f"http://{row['ops_address']}/metrics", timeout=10) as answer:
                for kind, value in re.findall(r'^conclave_quantization_error_ratio{kind="(\w+)"} (\S+)$', answer.read().decode(), re.MULTILINE):
                    found[row["name"], kind] = float(value)
        return found

    def test_processes_tell_the_error_of_what_they_quantised(self):
        of_all = self.errors(evaluate("--format", "int4"))
        with Cluster("--numerics", "int4") as cluster:
            told = self.metric(cluster)
        engine = {("engine-0", kind) for kind in KINDS if kind != "experts"}
        self.assertEqual(set(told), engine | {("expert-0", "experts"), ("expert-1", "experts")})
        for (_, kind), ratio in told.items():
            # They look at a row in 64.
            self.assertLess(abs(ratio - of_all[kind]), 0.1 * of_all[kind] + 1e-9, (kind, told, of_all))
        with Cluster("--numerics", "int8", workers=0) as cluster:
            self.assertEqual({kind for _, kind in self.metric(cluster)}, set(KINDS))
        file = self.folder / "metric.conclave"
        self.assertEqual(conclave("pack", MODEL, "--format", "int4", "--out", file).returncode, 0)
        with Cluster(model=file) as cluster:
            packed = self.metric(cluster)
        self.assertEqual(set(packed), set(told))
        for (name, kind), ratio in packed.items():
            self.assertAlmostEqual(ratio, told[name, kind], delta=0.02 * of_all[kind] + 1e-9, msg=(kind, packed, told))

    def test_a_missing_engine_is_told(self):
        alone = self.folder / "conclave"
        shutil.copy(CONCLAVE, alone)
        done = subprocess.run([str(alone), "eval", str(MODEL)], env=environment(), capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(f"cannot start {self.folder}/conclave-engine", done.stderr)

    def test_progress_and_interrupts(self):
        text = self.folder / "long.txt"
        text.write_text(TEXT.read_text() * 200)
        running = subprocess.Popen([str(CONCLAVE), "eval", str(MODEL), "--text", str(text), "--tokens", "200000", "--threads", "1"],
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = running.stderr.readline()
        self.assertRegex(first, r"^(loading|computing in) bf16: \d+ %$")
        running.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, errors = running.communicate(timeout=60)
        self.assertEqual((running.returncode, output), (130, ""), errors)
        self.assertTrue(errors.endswith("interrupted\n"), errors)
        self.assertLess(time.monotonic() - began, 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
