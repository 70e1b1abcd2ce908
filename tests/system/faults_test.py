"""Each process is killed in turn: what a client sees, and how the cluster comes back."""

import json
import os
import re
import signal
import time
import unittest

from cluster import CONCLAVE, Cluster, ClusterTest, alive, wait_until

STORY = ["Tell me a story.", "--temperature", "0", "--seed", "1", "--max-tokens", "60", "--ignore-eos"]


class Deaths(ClusterTest):
    # Many deaths in a row in one cluster: five a minute are restarted at once, so each process dies at most twice.

    def setUp(self):
        wait_until(self.cluster.is_ready, "the cluster ready")

    def expected(self):
        return self.cluster.run(*STORY)["digest"]

    def test_a_killed_worker_restarts_and_the_answer_is_the_same(self):
        digest = self.expected()
        running = self.cluster.start_answer(*STORY, "--pace", "30", "--json")
        old = self.cluster.kill("expert-0")
        out, errors = running.communicate(timeout=60)
        if running.returncode == 0:
            self.assertEqual(json.loads(out)["digest"], digest)
        else:
            # The worker was not back within the two seconds that a request waits.
            self.assertIn("UNAVAILABLE", errors)
            self.assertRegex(errors, r"layer \d+ expert \d+")
        self.cluster.wait_restarted("expert-0", old)
        self.assertEqual(self.expected(), digest)
        events = self.cluster.conclave("events", "--last", "0").stdout
        self.assertIn(f"expert-0 ({old}) ended by SIGKILL", events)
        self.assertRegex(events, r"expert-0 restarted as \d+ \(1 of at most 5 a minute\)")

    def test_run_tells_of_the_pause_that_a_death_made(self):
        running = self.cluster.start("run", *STORY, "--pace", "30")
        wait_until(lambda: self.cluster.process("engine-0")["load"].startswith("1 running"), "the request in ps")
        old = self.cluster.kill("expert-1")
        out, errors = running.communicate(timeout=60)
        if running.returncode == 0:
            self.assertRegex(out, rf"\n  token \d+: expert-1 \({old}\) ended by SIGKILL, longest gap \d+ ms \(usual \d+ ms\)\n$")
        else:
            self.assertIn(f"  expert-1 ({old}) ended by SIGKILL; what has ended is started again", errors)
        self.cluster.wait_restarted("expert-1", old)
        self.assertNotIn("  token", self.cluster.conclave("run", *STORY).stdout)

    def test_without_workers_a_request_gets_a_typed_error(self):
        digest = self.expected()
        # Stopped, not killed: a killed one would be back too soon.
        pids = [self.cluster.process(name)["pid"] for name in ("expert-0", "expert-1")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not self.cluster.is_ready(), "the gateway not ready")
            status, body = self.cluster.get("/readyz")
            self.assertEqual(status, 503)
            self.assertIn("expert", body)
            began = time.monotonic()
            failed = self.cluster.conclave("run", *STORY, check=False)
            self.assertLess(time.monotonic() - began, 30)
            self.assertEqual(failed.returncode, 1)
            self.assertIn("error: UNAVAILABLE: ", failed.stderr)
            status, body = self.cluster.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})
            self.assertEqual(status, 503)
            self.assertIn("error", json.loads(body))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        wait_until(self.cluster.is_ready, "the workers back")
        self.assertEqual(self.expected(), digest)

    def test_a_worker_that_hangs_costs_a_request_two_seconds_and_not_more(self):
        digest = self.expected()
        pid = self.cluster.process("expert-0")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            # The first is on its way when nobody knows yet; the second finds the worker known as silent.
            for number in range(2):
                began = time.monotonic()
                status, body = self.cluster.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 5,
                                                                     "temperature": 0})
                took = time.monotonic() - began
                with self.subTest(number):
                    self.assertEqual(status, 503, body)
                    self.assertRegex(json.loads(body)["error"]["message"], r"layer \d+ expert \d+")
                    self.assertGreater(took, 1.5)
                    self.assertLess(took, 3.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(self.cluster.is_ready, "the worker back")
        self.assertEqual(self.expected(), digest)

    def test_a_killed_engine_fails_its_requests_and_restarts(self):
        digest = self.expected()
        running = self.cluster.start_answer(*STORY, "--pace", "10")
        old = self.cluster.kill("engine-0")
        _, errors = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 1)
        self.assertIn("error: UNAVAILABLE: ", errors)
        self.cluster.wait_restarted("engine-0", old)
        self.assertEqual(self.expected(), digest)

    def test_a_killed_controller_is_not_missed(self):
        digest = self.expected()
        running = self.cluster.start_answer(*STORY, "--pace", "30", "--json")
        old = self.cluster.kill("controller")
        self.assertEqual(self.cluster.run(*STORY)["digest"], digest)
        out, errors = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 0, errors)
        self.assertEqual(json.loads(out)["digest"], digest)
        self.cluster.wait_restarted("controller", old)
        wait_until(self.all_with_the_controller, "all members with the new controller")
        self.assertEqual(self.expected(), digest)

    def test_an_engine_that_hangs_makes_the_gateway_unready(self):
        pid = self.cluster.process("engine-0")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            body = wait_until(lambda: not self.cluster.is_ready() and self.cluster.get("/readyz")[1], "the gateway not ready")
            self.assertLess(time.monotonic() - stopped, 10)
            self.assertIn("engine-0 has not stepped for", body)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(self.cluster.is_ready, "the engine back")

    def ready_until(self, condition, what):
        """Waits, and meanwhile the gateway must always be ready: requests are served."""
        def holds():
            status, body = self.cluster.get("/readyz")
            self.assertEqual(status, 200, body)
            return condition()
        wait_until(holds, what)

    def test_the_gateway_stays_ready_while_controllers_come_and_go(self):
        old = self.cluster.kill("controller")
        # The second one dies while it hears of its members.
        self.ready_until(lambda: self.cluster.process("controller")["pid"] not in (0, old), "the second controller")
        self.ready_until(lambda: self.cluster.ps()["controller_answers"], "its first words")
        second = self.cluster.kill("controller")
        self.ready_until(lambda: self.cluster.process("controller")["pid"] not in (0, second), "the third controller")
        self.ready_until(self.all_with_the_controller, "all members with it")

    def test_the_gateway_stays_ready_while_the_controller_sleeps(self):
        pid = self.cluster.process("controller")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            asleep = time.monotonic()
            self.ready_until(lambda: time.monotonic() - asleep > 4, "twice a lease")
        finally:
            os.kill(pid, signal.SIGCONT)
        awake = time.monotonic()
        self.ready_until(lambda: self.all_with_the_controller() and time.monotonic() - awake > 3, "some time awake")
        events = self.cluster.conclave("events", "--last", "0").stdout
        self.assertNotIn("its lease ran out", events)

    def all_with_the_controller(self):
        return sum(row["state"] == "ready" for row in self.cluster.ps()["processes"]) == 5

    def test_a_killed_gateway_restarts(self):
        digest = self.expected()
        running = self.cluster.start_answer(*STORY, "--pace", "10")
        old = self.cluster.kill("gateway")
        _, errors = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 1)
        self.assertIn("error: UNAVAILABLE: the connection to the gateway at ", errors)
        self.assertIn(f"  gateway ({old}) ended by SIGKILL; what has ended is started again", errors)
        self.cluster.wait_restarted("gateway", old)
        self.cluster.wait_engine(0)
        self.assertEqual(self.expected(), digest)


class Supervision(unittest.TestCase):
    def test_a_killed_supervisor_leaves_processes_that_serve_and_that_down_ends(self):
        with Cluster() as cluster:
            told = cluster.ps()
            pids = [row["pid"] for row in told["processes"]]
            digest = cluster.run(*STORY)["digest"]
            os.kill(told["supervisor_pid"], signal.SIGKILL)
            wait_until(lambda: cluster.ps()["supervisor_pid"] == 0, "the supervisor gone")
            told = cluster.ps()
            self.assertEqual(told["phase"], "unsupervised")
            self.assertEqual([row["pid"] for row in told["processes"]], pids)
            self.assertEqual({row["state"] for row in told["processes"]}, {"ready"})
            said = cluster.conclave("ps").stdout
            self.assertRegex(said, r"The supervisor \(\d+\) is dead: these processes go on")
            # The command that it names works when pasted.
            down = re.search(r"(\S+conclave down --state-dir \S+) ends them", said).group(1).split()
            self.assertEqual(down, [str(CONCLAVE), "down", "--state-dir", str(cluster.state_dir)])
            self.assertEqual(cluster.run(*STORY)["digest"], digest)
            self.assertTrue(cluster.conclave("chat", stdin="Hello\n").stdout)
            self.assertIn("request ended", cluster.conclave("logs", "gateway").stdout)
            self.assertIn("cluster ready", cluster.conclave("events").stdout)
            self.assertIn("2 requests", cluster.conclave("bench", "serve", "-n", "2", "-c", "1", "--max-tokens", "4").stdout)
            ports = next(check for check in json.loads(cluster.conclave("doctor", "--json").stdout) if check["check"] == "ports")
            self.assertEqual(ports["verdict"], "warn")
            self.assertIn("is dead", ports["found"])
            os.kill(cluster.process("expert-0")["pid"], signal.SIGKILL)
            wait_until(lambda: cluster.process("expert-0")["pid"] == 0, "the worker gone")
            self.assertEqual(cluster.process("expert-0")["state"], "ended")
            out = cluster.conclave("down").stdout
            self.assertIn("4 processes of a cluster whose supervisor had died ended", out)
            self.assertFalse(any(alive(pid) for pid in pids))

    def test_a_model_that_is_not_there_ends_up_with_its_name(self):
        cluster = Cluster(model="/nowhere/model")
        done = cluster.conclave("up", "-d", *cluster.flags, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/model", done.stderr)
        self.assertEqual(cluster.conclave("ps", check=False).returncode, 3)
        cluster.folder.cleanup()


if __name__ == "__main__":
    unittest.main(verbosity=2)
