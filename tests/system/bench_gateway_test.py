"""`conclave bench gateway`: each row on clusters of its own, for moments only: what it prints, and that it is plausible."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, MODEL, alive, environment, wait_until


class BenchGateway(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="conclave-system-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.env = environment({"TMPDIR": folder.name, "CONCLAVE_MODEL": str(MODEL)})

    def bench(self, *flags, timeout=150):
        return subprocess.run([str(CONCLAVE), "bench", "gateway", *flags], env=self.env, timeout=timeout,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def measure(self, row, *flags, seconds="0.3"):
        """The figures of one row by name; checks their form, and that nothing is left behind."""
        done = self.bench("--rows", row, "--seconds", seconds, "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertIn(f"{row}: ", done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual(set(told), {"cores", "seconds", "rows"})
        self.assertEqual(list(told["rows"]), [row])
        self.assertEqual((told["cores"], told["seconds"]), (os.cpu_count(), float(seconds)))
        figures = told["rows"][row]
        for figure in figures:
            self.assertLessEqual({"name", "value", "unit"}, set(figure))
            bounds = {"least", "most"} & set(figure)
            self.assertEqual("reached" in figure, bool(bounds), figure)
            if bounds:
                inside = figure["value"] >= figure.get("least", figure["value"]) and figure["value"] <= figure.get("most", figure["value"])
                self.assertEqual(figure["reached"], inside, figure)
        self.assertEqual(len({figure["name"] for figure in figures}), len(figures))
        return {figure["name"]: figure["value"] for figure in figures}

    def test_hits(self):
        figures = self.measure("hits")
        for shape in ("unary calls", "Session", "HTTP", "SSE"):
            # More than a tenth of a millisecond of processor time for a kept answer would be a computed one.
            self.assertGreater(figures[f"{shape}"], 2000)
            self.assertGreater(figures[f"{shape}, echo"], 2000)
            self.assertGreater(figures[f"{shape}, gateway's rate"], 100)
            self.assertAlmostEqual(figures[f"{shape}, of the echo's"], 100 * figures[shape] / figures[f"{shape}, echo"], places=3)

    def test_latency(self):
        figures = self.measure("latency")
        for shape in ("unary calls", "HTTP", "SSE"):
            for who in ("echo", "gateway"):
                self.assertGreater(figures[f"{shape}, {who} P50"], 1)
                self.assertGreaterEqual(figures[f"{shape}, {who} P99"], figures[f"{shape}, {who} P50"])
            self.assertAlmostEqual(figures[f"{shape}, added P50"],
                                   figures[f"{shape}, gateway P50"] - figures[f"{shape}, echo P50"], places=3)

    def test_streams(self):
        figures = self.measure("streams", "--streams", "300")
        self.assertGreater(figures["memory with 300 streams"], figures["memory before"])
        # Outside of these bounds something else than streams would have been counted.
        self.assertGreater(figures["memory for each stream"], 1)
        self.assertLess(figures["memory for each stream"], 500)

    def test_overload(self):
        figures = self.measure("overload", seconds="0.5")
        self.assertGreater(figures["capacity, before"], 1)
        self.assertGreater(figures["capacity, after"], 1)
        self.assertGreater(figures["sent in overload"], 2 * figures["capacity, before"])
        self.assertGreater(figures["refused"] + figures["out of time after waiting"], 20)
        self.assertGreater(figures["goodput"], 1)
        self.assertEqual(figures["realtime requests that failed"], 0)

    def test_fairness(self):
        figures = self.measure("fairness", seconds="1")
        # The modest tenant gets far more than its part of the requests, which is a twentieth.
        self.assertGreater(figures["weight 1 beside 1, share"], 25)
        self.assertLess(figures["weight 1 beside 1, share"], 75)
        self.assertGreater(figures["weight 3 beside 1, share"], figures["weight 1 beside 1, share"])

    def test_realtime(self):
        figures = self.measure("realtime", seconds="1.5")
        for who in ("alone", "beside"):
            self.assertGreater(figures[f"token P50, {who}"], 0)
            self.assertGreaterEqual(figures[f"token P99, {who}"], figures[f"token P50, {who}"])
        self.assertAlmostEqual(figures["token P99, beside over alone"],
                               figures["token P99, beside"] / figures["token P99, alone"], places=6)

    def test_isolation(self):
        figures = self.measure("isolation")
        self.assertEqual(figures["the other's answers not computed for it"], 0)
        self.assertEqual(figures["its own questions again, kept"], 100)
        # With 240 of each kind the standard deviation is 0.026.
        self.assertAlmostEqual(figures["AUC of times, known to one or new"], 0.5, delta=0.2)
        self.assertGreater(figures["AUC of times, its own kept answers or new"], 0.8)

    def test_table(self):
        done = self.bench("--rows", "hits", "--seconds", "0.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r"^hits: .* MEASURED +UNIT +REACH +REACHED$")
        self.assertTrue(any(">= 45000" in line for line in lines), done.stdout)

    def test_wrong_arguments(self):
        for flags, words in ((("--rows", "hit"), '"hit" is no row of conclave bench gateway; the nearest is hits'),
                             (("--seconds", "0"), "--seconds"),
                             (("--seconds", "soon"), "--seconds"),
                             (("--gateway", "127.0.0.1:1"), "--gateway is for conclave bench serve"),
                             (("--model", "/nowhere"), "/nowhere"),
                             (("--streams", "0"), "--streams"),
                             (("serve",), "")):
            with self.subTest(flags):
                done = self.bench(*flags)
                self.assertIn(done.returncode, (1, 2), done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertIn(words, done.stderr)
        done = subprocess.run([str(CONCLAVE), "bench", "serve", "--rows", "hits"], env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("--rows is for conclave bench gateway", done.stderr)

    def test_interrupted(self):
        bench = subprocess.Popen([str(CONCLAVE), "bench", "gateway", "--rows", "hits", "--seconds", "600"], env=self.env,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertIn("hits: starts a cluster", bench.stderr.readline())
        self.assertIn("hits: unary calls", bench.stderr.readline())
        state = wait_until(lambda: next(self.folder.glob("conclave-bench-*/state/cluster.json"), None), "the cluster's state")
        pids = [process["pid"] for process in json.loads(state.read_text())["processes"]]
        bench.send_signal(signal.SIGINT)
        out, errors = bench.communicate(timeout=60)
        self.assertEqual((bench.returncode, out), (130, ""), errors)
        self.assertIn("interrupted", errors)
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertFalse([pid for pid in pids if alive(pid)])


if __name__ == "__main__":
    unittest.main()
