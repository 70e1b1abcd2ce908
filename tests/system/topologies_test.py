"""The same tokens, however the experts and engines are laid out."""

import concurrent.futures
import json
import unittest

from cluster import MODEL, Cluster, has_ended, wait_until

QUESTIONS = ["What is the capital of France?", "Tell me a story.", "Spell the word wolf."]


def digests(cluster):
    return [cluster.run(question, "--temperature", "0.8", "--seed", "5", "--max-tokens", "40")["digest"]
            for question in QUESTIONS]


class Layouts(unittest.TestCase):
    expected = None

    @classmethod
    def setUpClass(cls):
        with Cluster(workers=0) as cluster:
            cls.expected = digests(cluster)

    def test_three_workers(self):
        with Cluster(workers=3) as cluster:
            self.assertEqual(digests(cluster), self.expected)
            held = [row["holds"] for row in cluster.ps()["processes"] if row["kind"] == "expert"]
            self.assertEqual(len(held), 3)
            self.assertTrue(all(not text.startswith("0 of") for text in held), held)

    def test_fewer_workers_than_before_start_anew(self):
        with Cluster(workers=3) as cluster:
            cluster.conclave("down")
            cluster.flags[cluster.flags.index("--workers") + 1] = "2"
            cluster.up()
            # Nobody waits for the third one, which may not come back: the experts are placed, not moved.
            placed = [line for line in cluster.conclave("events", "--last", "0").stdout.splitlines() if " placed " in line]
            self.assertNotIn("moved", placed[0], placed)
            self.assertEqual(digests(cluster), self.expected)

    def test_two_engines_share_the_requests(self):
        with Cluster(engines=2) as cluster:
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                together = [pool.submit(digests, cluster) for _ in range(3)]
                for future in together:
                    self.assertEqual(future.result(timeout=120), self.expected)
            steps = {}
            for row in cluster.ps()["processes"]:
                if row["kind"] == "engine":
                    _, text = cluster.get("/metrics", row["ops_address"])
                    steps[row["name"]] = sum(float(line.split()[-1]) for line in text.splitlines()
                                             if line.startswith("conclave_step_tokens_total{"))
            self.assertEqual(len(steps), 2)
            self.assertTrue(all(count > 0 for count in steps.values()), steps)

    def test_when_one_of_two_engines_dies_the_other_serves(self):
        with Cluster(engines=2) as cluster:
            pid = cluster.kill("engine-0")
            wait_until(lambda: has_ended(pid), "its end: until then its socket is open")
            for _ in range(3):
                done = cluster.conclave("run", QUESTIONS[0], "--temperature", "0.8", "--seed", "5", "--max-tokens", "40",
                                        "--expect", self.expected[0], check=False)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_numerics_class_serves_the_same_from_workers_and_without(self):
        for numerics in ("f32", "int8", "int4"):
            with self.subTest(numerics):
                with Cluster("--numerics", numerics) as cluster:
                    told = digests(cluster)
                    rows = [row for row in cluster.ps()["processes"] if row["kind"] == "engine"]
                    self.assertIn(f" {numerics}", rows[0]["holds"])
                with Cluster("--numerics", numerics, workers=0) as cluster:
                    self.assertEqual(digests(cluster), told)

    def test_the_same_settings_come_from_a_file(self):
        with Cluster() as cluster:
            path = cluster.state_dir.parent / "conclave.yaml"
            path.write_text(f"model: {MODEL}\nengine:\n  max_batch: 7\n")
            rows = json.loads(cluster.conclave("config", "show", "--json", "--config", str(path)).stdout)
            by_key = {row["key"]: row for row in rows}
            self.assertEqual(by_key["engine.max_batch"]["value"], "7")
            self.assertEqual(by_key["engine.max_batch"]["source"], f"file {path}:3")
            path.write_text("engine:\n  max_bach: 7\n")
            wrong = cluster.conclave("config", "show", "--config", str(path), check=False)
            self.assertEqual(wrong.returncode, 2)
            self.assertIn("max_batch", wrong.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
