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
        for way in ("shared memory", "gRPC, Unix socket", "gRPC, TCP"):
            self.assertGreater(figures[f"message there and back, {way}, P50"], 0)
            self.assertGreaterEqual(figures[f"message there and back, {way}, P99"], figures[f"message there and back, {way}, P50"])
        rates = [name for name in figures if "multiply-adds" in name]
        if told["cpu_level"] == "avx512_bf16":
            self.assertEqual(rates, [f"{kind} multiply-adds, 2 threads" for kind in ("f32", "bf16", "int8")])
        for name in rates:
            self.assertGreater(figures[name], 0)

    def test_table(self):
        done = bench("--seconds", "0.1", "--threads", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"memory read, 1 thread +\d+\.\d +GB/s")
        self.assertEqual(bench("--seconds", "0").returncode, 2)


# Of each kind of kernel one that is bounded by memory or instructions, and those that are not.
BOUNDED = ["int4 6 of", "bf16 [10944, 2048] x 8", "latent attention after 2047", "grouped attention after 2047", "queries to latent int8 16 of [512, 128] x 1",
           "latent to values bf16 16 of [128, 512] x 1"]
UNBOUNDED = ["norm", "gate", "rope", "combine", "rows to bf16", "rows to int8", "temperature 0"]


class BenchKernels(unittest.TestCase):
    def kernels(self, names, *flags):
        done = bench("--seconds", "0.1", "--json", *flags, *(word for name in names for word in ("--only", name)), what="kernels")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        return told, {name: [kernel for kernel in told["kernels"] if name in kernel["name"]] for name in names}

    def test_figures(self):
        told, kernels = self.kernels(BOUNDED + UNBOUNDED)
        for name, found in kernels.items():
            with self.subTest(name):
                self.assertGreaterEqual(len(found), 1)
                for kernel in found:
                    self.assertGreater(kernel["seconds"], 0)
                    if told["cpu_level"] == "avx512_bf16":
                        self.assertEqual("of_the_bound" in kernel, name in BOUNDED)
                    if "of_the_bound" in kernel:
                        self.assertGreater(kernel["bytes"], 0)
                        self.assertGreater(kernel["of_the_bound"], 0)
                        bound = max(kernel["bytes"] / told["bytes_read_per_second"], kernel["operations"] / told["operations_per_second"]["bf16"])
                        self.assertLessEqual(kernel["of_the_bound"] * kernel["seconds"], bound * 1.001)

    def test_another_level(self):
        told, kernels = self.kernels(["gate", "rows to int8"], "--cpu-level", "reference")
        self.assertEqual((told["cpu_level"], len(told["kernels"])), ("reference", 2))
        self.assertEqual(bench("--seconds", "0.1", "--threads", "1", "--cpu-level", "reference").returncode, 0)
        done = bench("--cpu-level", "avx1024", what="kernels")
        self.assertEqual(done.returncode, 2)
        self.assertIn('--cpu-level is "avx1024"; it may be auto, ', done.stderr)

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
