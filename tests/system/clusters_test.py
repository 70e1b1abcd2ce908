"""Two clusters on one machine: one that takes a dead process' port of the other does not get its members."""

import json
import os
import signal
import unittest

from cluster import Cluster, wait_until

STORY = ["Tell me a story.", "--temperature", "0", "--seed", "1", "--max-tokens", "30", "--ignore-eos"]


def cluster_id(cluster):
    return json.loads((cluster.state_dir / "cluster.json").read_text())["cluster_id"]


class TwoClusters(unittest.TestCase):
    def test_a_cluster_on_the_port_of_a_dead_controller_gets_none_of_its_members(self):
        with Cluster() as first:
            digest = first.run(*STORY)["digest"]
            state = json.loads((first.state_dir / "cluster.json").read_text())
            supervisor, controller = state["supervisor_pid"], state["controller_address"]
            os.kill(supervisor, signal.SIGSTOP)  # so that the port is free for long enough
            resumed = False
            try:
                os.kill(first.process("controller")["pid"], signal.SIGKILL)
                with Cluster("--controller-listen", controller, workers=1) as second:
                    self.assertNotEqual(cluster_id(first), cluster_id(second))
                    status, body = wait_until(lambda: self.noted(first), "the first gateway saying whom it found")
                    self.assertEqual(status, 200, body)
                    note = json.loads(body)["notes"][0]
                    self.assertIn(cluster_id(first), note)
                    self.assertIn(cluster_id(second), note)
                    # Every member of the first has found the second's controller by now, and none has joined it.
                    for name in ("engine-0", "expert-0", "expert-1"):
                        ops = next(row["ops_address"] for row in state["processes"] if row["name"] == name)
                        wait_until(lambda: "notes" in json.loads(first.get("/readyz", ops)[1]), f"the note of {name}")
                    members = [row for row in second.ps()["processes"] if row["kind"] != "controller"]
                    self.assertEqual(sorted(row["name"] for row in members), ["engine-0", "expert-0", "gateway"])
                    self.assertTrue(all(row["state"] == "ready" for row in members), members)
                    self.assertNotIn("belongs to process", second.logs())
                    self.assertEqual(second.run(*STORY)["digest"], digest)
                    self.assertEqual(first.run(*STORY)["digest"], digest)
                    self.assertIn("is another cluster's", first.conclave("ps").stdout)
                os.kill(supervisor, signal.SIGCONT)
                resumed = True
                # The port is free again: the first cluster's own controller, and nothing to note any more.
                wait_until(lambda: first.ps()["controller_answers"], "the first cluster's controller")
                wait_until(lambda: not self.noted(first) and first.is_ready(), "nothing to note")
                self.assertEqual(first.run(*STORY)["digest"], digest)
            finally:
                if not resumed:
                    os.kill(supervisor, signal.SIGCONT)

    def test_a_cluster_keeps_its_id_in_its_folder(self):
        with Cluster(workers=0) as cluster:
            drawn = cluster_id(cluster)
            self.assertEqual(len(drawn), 16)
            cluster.conclave("down")
            self.assertEqual(cluster_id(cluster), drawn)
            cluster.up()
            self.assertEqual(cluster_id(cluster), drawn)
            kept = json.loads((cluster.state_dir / "controller.json").read_text())
            self.assertEqual(kept["cluster_id"], drawn)

    def noted(self, cluster):
        status, body = cluster.get("/readyz")
        return (status, body) if "notes" in json.loads(body) else None

if __name__ == "__main__":
    unittest.main(verbosity=2)
