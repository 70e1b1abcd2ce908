"""What a person does at a terminal besides asking: Ctrl-C, a closed pipe, a state folder deleted under way."""

import json
import os
import shutil
import signal
import subprocess
import unittest

from cluster import CONCLAVE, Cluster, ClusterTest, alive, wait_until


def interrupted(process):
    """Its exit code and what it said after a Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


class CtrlC(ClusterTest):
    def test_bench_tells_what_was_measured_until_then(self):
        bench = self.cluster.start("bench", "serve", "-c", "2", "-n", "1000000", "--max-tokens", "2")
        self.assertRegex(bench.stderr.readline(), r"^[1-9]\d* of 1000000 requests")
        code, out, errors = interrupted(bench)
        self.assertEqual(code, 130)
        self.assertIn("interrupted; this is what", errors)
        self.assertRegex(out, r"^[1-9]\d* requests? by 2 clients")

    def test_bench_says_that_nothing_was_measured(self):
        bench = self.cluster.start("bench", "serve", "-c", "1", "-n", "9", "--pace", "0.1", "--prompt", "Tell me a story.")
        wait_until(lambda: self.cluster.process("engine-0")["load"].startswith("1 running"), "the request in ps")
        code, out, errors = interrupted(bench)
        self.assertEqual((code, out), (130, ""))
        self.assertIn("nothing was measured", errors)

    def test_following_logs_is_ended_by_it(self):
        logs = self.cluster.start("logs", "-f", "--last", "1")
        self.assertTrue(logs.stdout.readline())
        self.assertEqual(interrupted(logs)[0], 0)

    def test_run_ends_with_130(self):
        run = self.cluster.start("run", "Tell me a story.", "--pace", "5")
        self.assertTrue(run.stdout.read(1))
        code, out, _ = interrupted(run)
        self.assertEqual(code, 130)
        self.assertIn("cancelled", out)


class ClosedPipe(ClusterTest):
    def test_following_logs_end_with_their_reader(self):
        logs = self.cluster.start("logs", "-f", "--last", "1")
        self.assertTrue(logs.stdout.readline())
        logs.stdout.close()
        # Nothing is written meanwhile that would tell.
        self.assertIn(logs.wait(timeout=30), (0, -signal.SIGPIPE))
        logs.stderr.close()

    def test_a_run_that_nobody_reads_is_cancelled(self):
        run = self.cluster.start("run", "Tell me a story.", "--pace", "5", "--ignore-eos")
        self.assertTrue(run.stdout.read(1))
        run.stdout.close()
        self.assertEqual(run.wait(timeout=30), -signal.SIGPIPE)
        run.stderr.close()
        wait_until(lambda: self.cluster.process("engine-0")["load"].startswith("0 running"), "the engine free again")


class Up(unittest.TestCase):
    def test_ctrl_c_while_it_starts_ends_everything(self):
        for detached in (True, False):
            with self.subTest(detached):
                cluster = Cluster()
                try:
                    up = cluster.start("up", *(["-d"] if detached else []), *cluster.flags)
                    state = cluster.state_dir / "cluster.json"
                    wait_until(state.exists, "the processes started")
                    code, out, errors = interrupted(up)
                    self.assertEqual(code, 130, out + errors)
                    self.assertIn("interrupted", out + errors)
                    self.assertEqual(cluster.conclave("ps", check=False).returncode, 3)
                finally:
                    cluster.conclave("down", check=False)
                    cluster.folder.cleanup()

    def test_clusters_that_start_at_once_find_ports_of_their_own(self):
        clusters = [Cluster() for _ in range(3)]
        try:
            for cluster in clusters:
                cluster.flags = clusters[0].flags
            starting = [cluster.start("up", "-d", *cluster.flags) for cluster in clusters]
            for up in starting:
                out, errors = up.communicate(timeout=120)
                self.assertEqual(up.returncode, 0, out + errors)
            addresses = [row["address"] for cluster in clusters for row in cluster.ps()["processes"]]
            self.assertEqual(len(set(addresses)), 15)
            self.assertEqual(len({cluster.run("Hello", "--temperature", "0")["digest"] for cluster in clusters}), 1)
        finally:
            for cluster in clusters:
                cluster.__exit__()

    def test_a_deleted_state_folder_is_made_again(self):
        with Cluster() as cluster:
            pids = [row["pid"] for row in cluster.ps()["processes"]]
            shutil.rmtree(cluster.state_dir)
            wait_until(lambda: cluster.conclave("ps", check=False).returncode == 0, "the folder made again")
            self.assertEqual([row["pid"] for row in cluster.ps()["processes"]], pids)
            self.assertIn("found the state folder deleted", cluster.conclave("events").stdout)
            # A second cluster in the same folder is still refused, and a restart finds its log.
            self.assertEqual(cluster.conclave("up", "-d", *cluster.flags, check=False).returncode, 3)
            old = cluster.kill("engine-0")
            cluster.wait_restarted("engine-0", old)
            self.assertIn("engine-0", cluster.conclave("logs", "engine-0").stdout)
            self.assertIn("5 processes ended", cluster.conclave("down").stdout)
            self.assertFalse(any(alive(pid) for pid in pids))

    def test_down_tells_the_drain_time_of_the_cluster(self):
        with Cluster("--drain-seconds", "4") as cluster:
            run = cluster.start("run", "Tell me a story.", "--pace", "0.1")
            wait_until(lambda: cluster.process("engine-0")["load"].startswith("1 running"), "the request in ps")
            down = subprocess.run([str(CONCLAVE), "down", "--state-dir", str(cluster.state_dir), "--drain-seconds", "700"],
                                  env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            self.assertIn("draining, at most 4 s for running requests", down.stdout)
            self.assertIn("1 request was running and was cut off", down.stdout)
            run.communicate(timeout=30)

    def test_a_second_down_cuts_nothing_off_and_ctrl_c_leaves_the_drain_going(self):
        with Cluster() as cluster:
            run = cluster.start("run", "Tell me a story.", "--pace", "20", "--max-tokens", "60", "--ignore-eos", "--json")
            wait_until(lambda: cluster.process("engine-0")["load"].startswith("1 running"), "the request in ps")
            first = cluster.start("down")
            wait_until(lambda: json.loads((cluster.state_dir / "cluster.json").read_text())["phase"] == "draining", "the drain")
            code, _, errors = interrupted(first)
            self.assertEqual(code, 130)
            self.assertIn("the cluster goes on ending", errors)
            self.assertIn("draining already", cluster.conclave("down").stdout)
            out, errors = run.communicate(timeout=30)
            self.assertEqual(run.returncode, 0, errors)
            self.assertEqual(json.loads(out)["completion_tokens"], 60)

    def test_down_drains_processes_without_a_supervisor(self):
        with Cluster() as cluster:
            run = cluster.start("run", "Tell me a story.", "--pace", "20", "--max-tokens", "40", "--ignore-eos", "--json")
            wait_until(lambda: cluster.process("engine-0")["load"].startswith("1 running"), "the request in ps")
            os.kill(cluster.ps()["supervisor_pid"], signal.SIGKILL)
            wait_until(lambda: cluster.ps()["supervisor_pid"] == 0, "the supervisor gone")
            self.assertIn("had died ended, 1 request was running\n", cluster.conclave("down").stdout)
            out, errors = run.communicate(timeout=30)
            self.assertEqual(run.returncode, 0, errors)
            self.assertIn('"completion_tokens": 40', out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
