"""`conclave bench machine` and `bench kernels`: what they print is complete and plausible."""

import json
import subprocess
import unittest

from cluster import CONCLAVE, environment


def bench(*flags, what="machine"):
    return subprocess.run([str(CONCLAVE), "bench", what, *flags], env=environment(), capture_output=True, text=True, timeout=120)


class BenchMachine(unittest.TestCase):
    def test_figures(self):
        done = bench("--seconds", "0.1", "--threads", "2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        figures = {figure["name"]: figure["value"] for figure in told["figures"]}
        self.assertEqual(told["threads"], 2)
        self.assertGreater(figures["memory read, 2 threads"], 0.1)
        self.assertGreater(figures["memory read, 1 thread"], 0.1)
        for way in ("Unix socket", "TCP"):
            self.assertGreater(figures[f"gRPC message there and back, {way}, P50"], 1)
            self.assertGreaterEqual(figures[f"gRPC message there and back, {way}, P99"],
                                    figures[f"gRPC message there and back, {way}, P50"])
        if told["cpu_level"] == "avx512_bf16":
            self.assertGreater(figures["int8 multiply-adds, 2 threads"], figures["f32 multiply-adds, 2 threads"])

    def test_table(self):
        done = bench("--seconds", "0.1", "--threads", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"memory read, 1 thread +\d+\.\d +GB/s")
        self.assertEqual(bench("--seconds", "0").returncode, 2)


class BenchKernels(unittest.TestCase):
    def test_figures(self):
        only = ["int4 6 of", "bf16 [10944, 2048] x 8", "norm", "gate", "after 2047", "temperature 0"]
        done = bench("--seconds", "0.1", "--json", *(word for name in only for word in ("--only", name)), what="kernels")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual(len(told["kernels"]), 6)
        for kernel in told["kernels"]:
            with self.subTest(kernel["name"]):
                self.assertGreater(kernel["seconds"], 0)
                if told["cpu_level"] != "reference":
                    self.assertEqual("of_the_bound" in kernel, kernel["bytes"] > 0)
                if "of_the_bound" in kernel:
                    self.assertGreater(kernel["of_the_bound"], 0)
                    bound = max(kernel["bytes"] / told["bytes_read_per_second"], kernel["operations"] / told["operations_per_second"]["bf16"])
                    self.assertLessEqual(kernel["of_the_bound"] * kernel["seconds"], bound * 1.001)

    def test_too_little_memory_is_told(self):
        # Beyond what the program needs, but not 1 GiB.
        done = subprocess.run(f"ulimit -v 900000; {CONCLAVE} bench machine --seconds 0.1 --threads 1", shell=True, env=environment(),
                              capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertIn("to read memory 1.0 GiB are needed", done.stderr)

    def test_a_level_can_be_chosen(self):
        done = bench("--seconds", "0.1", "--json", "--only", "norm", "--cpu-level", "reference", what="kernels")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["cpu_level"], "reference")
        done = bench("--cpu-level", "sse9", what="kernels")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--cpu-level is \"sse9\"", done.stderr)

    def test_an_unknown_kernel_is_named(self):
        done = bench("--only", "int5", what="kernels")
        self.assertEqual(done.returncode, 2)
        self.assertIn('"int5"', done.stderr)
        self.assertIn("matmul int8 [10944, 2048] x 1", done.stderr)


if __name__ == "__main__":
    unittest.main()
