"""Expert workers and gateways come and go under load: no request fails or gives other tokens."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from cluster import BUILD, MODEL, Cluster, environment, wait_until

QUESTIONS = ["Tell me a story.", "Tell me the fable of the Wolf And The Lamb.", "Spell the word wolf.",
             "What is the capital of France?"]
FIELDS = {"temperature": 0, "seed": 1, "max_tokens": 40}


class Load:
    """Clients that ask without a pause, and what went wrong."""

    def __init__(self, cluster, expected, clients=3):
        self.cluster, self.expected = cluster, expected
        self.failures, self.answers, self.slowest = [], 0, 0.0
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(client,)) for client in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=60)

    def ask(self, client):
        turn = client
        while not self.stop.is_set():
            question = QUESTIONS[turn % len(QUESTIONS)]
            turn += 1
            began = time.monotonic()
            try:
                answer = self.cluster.chat(question, **FIELDS)["choices"][0]["message"]["content"]
                wrong = "" if answer == self.expected[question] else f"{question}: other tokens: {answer}"
            except (AssertionError, OSError) as error:
                wrong = str(error)
            with self.lock:
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                if wrong:
                    self.failures.append(wrong)

    def wait_answers(self, number):
        """Until so many more requests are answered."""
        goal = self.answers + number
        wait_until(lambda: self.answers >= goal, f"{number} more answers")


class Drains(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.cluster = Cluster(*self.flags)
        self.addCleanup(self.cluster.__exit__)
        self.cluster.up()
        self.controller = json.loads((self.cluster.state_dir / "cluster.json").read_text())["controller_address"]
        self.expected = {question: self.cluster.chat(question, **FIELDS)["choices"][0]["message"]["content"]
                         for question in QUESTIONS}

    def start(self, service, name, *flags):
        """A process beyond those of `up`, as a pod would be."""
        log = pathlib.Path(self.cluster.folder.name) / f"{name}.log"
        with log.open("w") as to:
            process = subprocess.Popen(
                [str(BUILD / f"conclave-{service}"), "--model", str(MODEL), "--name", name, "--controller-address", self.controller,
                 "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--threads", "1",
                 "--state-dir", str(pathlib.Path(self.cluster.folder.name) / name), *flags],
                env=self.cluster.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=to)
        self.addCleanup(process.wait, timeout=60)
        self.addCleanup(process.kill)
        process.ops = wait_until(lambda: re.search(r"ops_address=(\S+)", log.read_text()), f"{name} started").group(1)
        process.log = log
        return process

    def wait_ready(self, process):
        def ready():
            try:
                return self.cluster.get("/readyz", process.ops)[0] == 200
            except OSError:
                return False
        wait_until(ready, "it is ready")

    def counted(self, process, metric):
        """The sum over a metric's labels."""
        text = self.cluster.get("/metrics", process.ops)[1]
        return sum(float(value) for value in re.findall(rf"^{metric}(?:\{{.*\}})? (\S+)", text, re.MULTILINE))

    def frames(self, worker):
        return self.counted(worker, "conclave_worker_frames_total")

    def end(self, *processes):
        """Drains them at once; the seconds until the last one has ended, with 0."""
        began = time.monotonic()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            self.assertEqual(process.wait(timeout=60), 0, process.log.read_text())
        return time.monotonic() - began

    def events(self):
        return self.cluster.conclave("events", "--last", "0").stdout


class UnderLoad(Drains):
    def test_two_workers_become_four_and_two_again(self):
        with Load(self.cluster, self.expected) as load:
            load.wait_answers(3)
            for _ in range(2):  # the second time the names come back
                began = time.monotonic()
                workers = [self.start("expert", "expert-2"), self.start("expert", "expert-3")]
                for worker in workers:
                    self.wait_ready(worker)
                ready = time.monotonic()
                wait_until(lambda: all(self.frames(worker) > 0 for worker in workers), "frames for both")
                used = time.monotonic()
                load.wait_answers(3)
                drained = self.end(*workers)
                load.wait_answers(3)
                print(f"ready {ready - began:.2f} s after the start, used {used - ready:.2f} s after that; "
                      f"drained in {drained:.2f} s; slowest answer {load.slowest:.2f} s", flush=True)
                self.assertLess(used - ready, 5)
                self.assertLess(drained, 15)
                for worker in workers:
                    self.assertIn("no engine needs this worker any more", worker.log.read_text())
        self.assertEqual(load.failures, [])
        self.assertGreater(load.answers, 12)

    def test_engines_come_and_go_though_nobody_but_they_say_so(self):
        with Load(self.cluster, self.expected) as load:
            for _ in range(4):
                engine = self.start("engine", "engine-1")
                self.wait_ready(engine)
                wait_until(lambda: self.counted(engine, "conclave_step_tokens_total") > 0, "a request for it")
                old = self.cluster.kill("controller")
                drained = self.end(engine)
                self.cluster.wait_restarted("controller", old)
                load.wait_answers(2)
                self.assertLess(drained, 5)
        self.assertEqual(load.failures, [])

    def test_a_drain_outlives_its_controller(self):
        worker = self.start("expert", "expert-2")
        self.wait_ready(worker)
        with Load(self.cluster, self.expected) as load:
            wait_until(lambda: self.frames(worker) > 0, "frames for it")
            old = self.cluster.kill("controller")
            self.end(worker)
            self.cluster.wait_restarted("controller", old)
            load.wait_answers(3)
        self.assertEqual(load.failures, [])

    def test_workers_of_the_cluster_itself_drain_one_after_the_other(self):
        with Load(self.cluster, self.expected) as load:
            for name in ("expert-0", "expert-1"):
                load.wait_answers(2)
                old = self.cluster.kill(name, signal.SIGTERM)
                self.cluster.wait_restarted(name, old)
            load.wait_answers(3)
        self.assertEqual(load.failures, [])

    def test_down_does_not_wait_for_the_drain_time(self):
        began = time.monotonic()
        self.assertIn("5 processes ended", self.cluster.conclave("down").stdout)
        self.assertLess(time.monotonic() - began, 5)
        self.assertNotIn("while draining", self.events())


class WithoutRoom(Drains):
    # Each worker holds its half and little more.
    flags = ("--expert-memory", "8MiB", "--drain-seconds", "3")

    def test_who_has_no_room_is_told_and_the_worker_serves_on(self):
        with Load(self.cluster, self.expected, clients=1) as load:
            began = time.monotonic()
            pid = self.cluster.kill("expert-1", signal.SIGTERM)
            wait_until(lambda: "of its experts fit on no other worker" in self.events(), "the event")
            self.assertEqual(self.cluster.process("expert-1")["pid"], pid)
            answers = load.answers
            wait_until(lambda: load.answers > answers, "an answer while it drains")
            self.assertEqual(load.failures, [])
            wait_until(lambda: self.cluster.process("expert-1")["pid"] != pid, "its end")
            self.assertGreater(time.monotonic() - began, 2.9)
        self.assertIn("raise their --memory", self.events())


class LameDuck(unittest.TestCase):
    """A gateway that a balancer has to notice: with gateway.lame_duck_seconds it serves on, not ready, before it drains."""

    def ask(self, connection):
        body = json.dumps({"model": "tales", "max_tokens": 4, "messages": [{"role": "user", "content": QUESTIONS[0]}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer

    def test_old_and_new_connections_are_served_and_told_to_close(self):
        cluster = Cluster(env={"CONCLAVE_GATEWAY_LAME_DUCK_SECONDS": "3"})
        self.addCleanup(cluster.__exit__)
        cluster.up()
        host, _, port = cluster.http_address.rpartition(":")
        kept = http.client.HTTPConnection(host, int(port), timeout=20)
        self.assertEqual(self.ask(kept).getheader("connection"), "keep-alive")
        began = time.monotonic()
        pid = cluster.kill("gateway", signal.SIGTERM)
        wait_until(lambda: cluster.get("/readyz", cluster.ops_address)[0] == 503, "not ready")
        self.assertIn("shutting down", cluster.get("/readyz", cluster.ops_address)[1])
        for connection in (kept, http.client.HTTPConnection(host, int(port), timeout=20)):
            answer = self.ask(connection)
            self.assertEqual((answer.status, answer.getheader("connection")), (200, "close"))
            connection.close()
        self.assertEqual(cluster.process("gateway")["pid"], pid)
        cluster.wait_restarted("gateway", pid)
        self.assertGreater(time.monotonic() - began, 2.9)

    def test_keys_revoked_meanwhile_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = {"CONCLAVE_GATEWAY_KEYS_FILE": f"{folder}/keys.json"}

            def key(*arguments):
                done = subprocess.run([BUILD / "conclave", "key", *arguments], env=environment(keys), capture_output=True, text=True,
                                      timeout=30)
                self.assertEqual(done.returncode, 0, done.stderr)
                return done.stdout.strip()
            secret = key("create", "--tenant", "acme")
            cluster = Cluster(env={"CONCLAVE_GATEWAY_LAME_DUCK_SECONDS": "20", **keys})
            self.addCleanup(cluster.__exit__)
            cluster.up()
            url = f"http://{cluster.http_address}/v1/models"

            def status():
                request = urllib.request.Request(url, headers={"Authorization": f"Bearer {secret}"})
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        return answer.status
                except urllib.error.HTTPError as error:
                    return error.code
            cluster.kill("gateway", signal.SIGTERM)
            wait_until(lambda: cluster.get("/readyz", cluster.ops_address)[0] == 503, "not ready")
            self.assertEqual(status(), 200)
            key("revoke", secret.split("-")[1])
            wait_until(lambda: status() == 401, "the key refused", 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
