"""One cluster as people use it: start, look, ask, stream, stop."""

import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import tempfile
import termios
import time
import unittest

from cluster import CONCLAVE, MODEL, Cluster, ClusterTest, alive, environment, wait_until


class Serving(ClusterTest):
    def test_ps_shows_every_process_and_what_it_holds(self):
        table = self.cluster.conclave("ps").stdout.splitlines()
        self.assertEqual(table[0].split(), ["NAME", "PID", "PORT", "STATE", "HOLDS", "MEMORY", "LOAD"])
        names = [line.split()[0] for line in table[1:6]]
        self.assertEqual(names, ["controller", "gateway", "engine-0", "expert-0", "expert-1"])
        self.assertEqual(table[-1], "1 replica: a worker's death fails requests until it restarts")
        rows = self.cluster.ps()["processes"]
        self.assertEqual({row["state"] for row in rows}, {"ready"})
        held = [re.match(r"(\d+) of (\d+) experts", row["holds"]).groups() for row in rows if row["kind"] == "expert"]
        self.assertEqual(sum(int(own) for own, _ in held), int(held[0][1]))

    def test_run_ends_with_a_digest_that_can_be_expected(self):
        flags = ["--temperature", "0.8", "--seed", "7", "--max-tokens", "40"]
        first = self.cluster.conclave("run", "Tell me a story.", *flags).stdout
        summary = first.splitlines()[-1]
        match = re.fullmatch(r"\d+ tokens, first after \d+ ms(, [\d.]+ tokens/s)?, (stop|length), seed 7, digest ([0-9a-f]{8})",
                             summary)
        self.assertTrue(match, summary)
        digest = match[3]
        again = self.cluster.conclave("run", "Tell me a story.", *flags, "--expect", digest).stdout
        self.assertTrue(again.splitlines()[-1].endswith(": as expected"), again)
        self.assertEqual(first.splitlines()[:-1], again.splitlines()[:-1])
        wrong = self.cluster.conclave("run", "Tell me a story.", *flags, "--expect", "00000000", check=False)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn(digest, wrong.stderr)

    def test_a_drawn_seed_repeats_the_answer(self):
        first = self.cluster.run("Tell me a story.", "--temperature", "1", "--max-tokens", "20")
        again = self.cluster.run("Tell me a story.", "--temperature", "1", "--max-tokens", "20", "--seed", str(first["seed"]))
        self.assertEqual(first["ids"], again["ids"])
        self.assertEqual(first["digest"], again["digest"])

    def test_grpc_and_http_give_the_same_text(self):
        by_grpc = self.cluster.run("What is the capital of France?", "--temperature", "0", "--max-tokens", "30")
        by_http = self.cluster.chat("What is the capital of France?", temperature=0, max_tokens=30)
        self.assertEqual(by_http["choices"][0]["message"]["content"], by_grpc["text"])
        self.assertEqual(by_http["usage"]["completion_tokens"], len(by_grpc["ids"]))
        self.assertEqual(by_http["system_fingerprint"], by_grpc["fingerprint"])

    def test_pace_holds_the_speed_down_and_leaves_the_answer(self):
        fast = self.cluster.run("Tell me a story.", "--temperature", "0", "--max-tokens", "12", "--ignore-eos")
        slow = self.cluster.run("Tell me a story.", "--temperature", "0", "--max-tokens", "12", "--ignore-eos", "--pace", "20")
        self.assertEqual(fast["digest"], slow["digest"])
        plain = self.cluster.conclave("run", "Tell me a story.", "--temperature", "0", "--max-tokens", "12", "--ignore-eos").stdout
        self.assertRegex(plain.splitlines()[-1], rf"length, greedy, digest {fast['digest']}$")
        self.assertGreater(slow["seconds"], 0.4)

    def test_the_stream_comes_in_pieces_and_ends_with_done(self):
        connection = self.cluster.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps({
            "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True, "max_tokens": 20,
            "temperature": 0}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        self.assertIn("text/event-stream", response.getheader("Content-Type"))
        events = [line[6:] for line in response.read().decode().split("\n") if line.startswith("data: ")]
        connection.close()
        self.assertEqual(events[-1].strip(), "[DONE]")
        chunks = [json.loads(event) for event in events[:-1]]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        whole = self.cluster.chat("Tell me a story.", max_tokens=20, temperature=0)
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertGreater(len(chunks), 5)
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        self.assertEqual(reasons[:-1], [None] * (len(reasons) - 1))

    def test_closing_the_connection_frees_the_engine(self):
        connection = self.cluster.connection()
        connection.request("POST", "/v1/completions", json.dumps({
            "prompt": "Once upon a time", "stream": True, "max_tokens": 1500, "pace": 20, "ignore_eos": True}),
            {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        response.read(20)
        self.cluster.wait_engine(1)
        response.close()
        connection.close()
        self.cluster.wait_engine(0)

    def test_ctrl_c_stops_the_answer_and_frees_the_engine(self):
        running = self.cluster.start_answer("Tell me a story.", "--raw", "--ignore-eos", "--max-tokens", "1500", "--pace", "20")
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=20)
        self.assertEqual(running.returncode, 130)
        self.assertIn("cancelled", out.splitlines()[-1])
        self.cluster.wait_engine(0)

    def test_chat_keeps_its_history_and_obeys(self):
        script = "/set temperature 0\n/set max_tokens 20\nWhat is the capital of France?\n/set\n/set colour 3\n/clear\n/quit\n"
        out = self.cluster.conclave("chat", stdin=script).stdout
        self.assertIn("temperature 0, max_tokens 20", out)
        self.assertIn("\"colour\" is not a parameter", out)
        self.assertIn("(anew)", out)

    def test_ctrl_c_in_chat_stops_the_answer_and_not_the_program(self):
        self.cluster.wait_engine(0)
        controller, terminal = pty.openpty()
        chat = subprocess.Popen([str(CONCLAVE), "chat", "--pace", "10", "--ignore-eos", "--max-tokens", "1000", "--state-dir",
                                 str(self.cluster.state_dir)], env=self.cluster.env, stdin=terminal, stdout=terminal,
                                stderr=terminal, start_new_session=True,
                                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(terminal)
        seen = b""

        def read_until(text):
            nonlocal seen
            deadline = time.monotonic() + 30
            while text not in seen:
                self.assertLess(time.monotonic(), deadline, seen)
                if select.select([controller], [], [], 0.1)[0]:
                    seen += os.read(controller, 4096)
        try:
            read_until(b"> ")
            os.write(controller, b"Tell me a story.\n")
            self.cluster.wait_engine(1)
            os.write(controller, b"\x03")  # as the key does it: the terminal sends the signal
            read_until(b"(stopped)")
            self.cluster.wait_engine(0)
            os.write(controller, b"\x03")
            read_until(b"(Ctrl-D or /quit ends)")
            seen = b""
            os.write(controller, b"And another one.\n")
            self.cluster.wait_engine(1)
            os.write(controller, b"\x03")
            read_until(b"(stopped)")
            os.write(controller, b"\x04")
            self.assertEqual(chat.wait(timeout=20), 0)
        finally:
            chat.kill()
            chat.wait()
            os.close(controller)

    def test_bench_measures_and_counts(self):
        measured = json.loads(self.cluster.conclave("bench", "serve", "-c", "4", "-n", "8", "--max-tokens", "8", "--json").stdout)
        self.assertEqual(measured["requests"], 8)
        self.assertEqual(measured["failed"], 0)
        self.assertGreater(measured["output_tokens_per_second"], 0)
        self.assertLessEqual(measured["end_to_end_seconds"]["p50"], measured["end_to_end_seconds"]["max"])

    def test_bench_holds_chats_and_begins_them_at_a_rate(self):
        def bench(*flags):
            return json.loads(self.cluster.conclave("bench", "serve", "--max-tokens", "8", "--json", *flags).stdout)

        system = pathlib.Path(self.cluster.folder.name) / "system.txt"
        system.write_text("You tell fables. " * 40)
        chats = bench("-c", "2", "-n", "7", "--turns", "3", "--system", str(system))
        self.assertEqual((chats["requests"], chats["failed"], chats["turns"]), (7, 0, 3))
        self.assertGreater(chats["cached_tokens"], 0)
        self.assertGreater(chats["time_to_first_token_later_turns_seconds"]["p50"], 0)
        rate = bench("--rate", "20", "-n", "6", "--first-token-ms", "60000")
        self.assertEqual((rate["requests"], rate["good_requests"]), (6, 6))
        self.assertGreaterEqual(rate["seconds"], 5 / 20)
        none = bench("--rate", "20", "-n", "2", "--first-token-ms", "0.001")
        self.assertEqual((none["requests"], none["good_requests"]), (2, 0))
        done = self.cluster.conclave("bench", "serve", "--raw", "--turns", "2", check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--turns", done.stderr)

    def test_every_process_has_its_operations_port(self):
        self.cluster.chat("Hello", max_tokens=3)
        for row in self.cluster.ps()["processes"]:
            with self.subTest(row["name"]):
                self.assertEqual(self.cluster.get("/livez", row["ops_address"])[0], 200)
                self.assertEqual(self.cluster.get("/readyz", row["ops_address"])[0], 200)
                status, text = self.cluster.get("/metrics", row["ops_address"])
                self.assertEqual(status, 200)
                self.assertRegex(text, r"(?m)^conclave_\w+")

    def test_a_second_up_says_what_runs(self):
        done = self.cluster.conclave("up", "-d", *self.cluster.flags, check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn("runs here already", done.stderr)
        self.assertIn(self.cluster.http_address, done.stderr)

    def test_a_busy_port_is_named_with_its_owner(self):
        with_other_state = [str(CONCLAVE), "up", "-d", "--model", str(MODEL), "--state-dir", str(self.cluster.state_dir) + "-other",
                            "--gateway-http-listen", self.cluster.http_address]
        done = subprocess.run(with_other_state, env=self.cluster.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn(self.cluster.http_address.rsplit(":", 1)[1], done.stderr)
        self.assertIn(str(self.cluster.process("gateway")["pid"]), done.stderr)
        self.assertIn("--auto-ports", done.stderr)

    def test_logs_and_events_are_there(self):
        self.assertTrue(self.cluster.conclave("logs", "engine-0").stdout)
        unknown = self.cluster.conclave("logs", "engine-7", check=False)
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("engine-0", unknown.stderr)
        self.assertIn("ready", self.cluster.conclave("events").stdout)

    def test_doctor_is_content_with_this_cluster(self):
        checks = {check["check"]: check for check in json.loads(self.cluster.conclave("doctor", "--json").stdout)}
        self.assertEqual(checks["ports"]["verdict"], "ok")
        self.assertIn(self.cluster.http_address, checks["ports"]["found"])


class Caching(unittest.TestCase):
    def test_an_equal_request_gets_the_kept_answer(self):
        with Cluster(env={"CONCLAVE_GATEWAY_CACHE_MEMORY": "16MiB"}) as cluster:
            def ask(**more):
                connection = cluster.connection()
                connection.request("POST", "/v1/chat/completions", json.dumps({
                    "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0,
                    "max_tokens": 20, **more}), {"Content-Type": "application/json"})
                response = connection.getresponse()
                return response.getheader("x-cache"), json.loads(response.read())["choices"]
            first = ask()
            self.assertEqual(first[0], "miss")
            self.assertEqual(ask(), ("hit", first[1]))
            self.assertEqual(ask(cache="off"), (None, first[1]))
            # The command line asks the model.
            self.assertEqual(cluster.run("What is the capital of France?", "--temperature", "0", "--max-tokens", "20")["text"],
                             first[1][0]["message"]["content"])
            _, metrics = cluster.get("/metrics", cluster.ops_address)
            self.assertIn('conclave_cache_requests_total{result="hit"} 1\n', metrics)


class Keys(unittest.TestCase):
    def test_keys_are_made_asked_for_and_revoked(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, "keys.json")
            secret = os.path.join(folder, "acme.key")
            settings = {"CONCLAVE_GATEWAY_KEYS_FILE": keys}

            def key(*arguments):
                return subprocess.run([str(CONCLAVE), "key", *arguments], env=environment(settings), timeout=60,
                                      stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            missing = key("list")
            self.assertEqual(missing.returncode, 1)
            self.assertIn("keys.json", missing.stderr)
            made = json.loads(key("create", "--tenant", "acme", "--expires", "1d", "--json").stdout)
            with open(secret, "w", encoding="utf-8") as file:
                file.write(made["key"] + "\n")
            with open(keys, encoding="utf-8") as file:
                self.assertNotIn(made["key"].split("-")[2], file.read())
            with Cluster(env=settings) as cluster:
                refused = cluster.conclave("run", "Hello", check=False)
                self.assertEqual(refused.returncode, 1)
                self.assertIn("an API key is needed", refused.stderr)
                self.assertTrue(cluster.run("Hello", "--api-key-file", secret, "--max-tokens", "3")["ids"])
                self.assertEqual(key("revoke", made["id"]).returncode, 0)
                wait_until(lambda: cluster.conclave("run", "Hello", "--api-key-file", secret, check=False).returncode == 1,
                           "the key revoked")
            self.assertEqual(key("tenant", "beta", "--weight", "2.5", "--top-class", "batch", "--max-running", "7", "--shares-cache", "true").returncode, 0)
            listed = json.loads(key("list", "--json").stdout)
            self.assertEqual([(each["tenant"], each["state"]) for each in listed["keys"]], [("acme", "revoked")])
            self.assertEqual(listed["tenants"], [
                {"name": "acme", "weight": 1.0, "top_class": "realtime", "max_running": 0, "shares_cache": False},
                {"name": "beta", "weight": 2.5, "top_class": "batch", "max_running": 7, "shares_cache": True}])
            table = key("list").stdout
            self.assertRegex(table, r"\nacme +1 +realtime +any number +own\n")
            self.assertRegex(table, r"\nbeta +2.5 +batch +7 +shared\n")


class Stopping(unittest.TestCase):
    def test_down_ends_all_and_says_so(self):
        with Cluster() as cluster:
            pids = [row["pid"] for row in cluster.ps()["processes"]]
            out = cluster.conclave("down").stdout
            told = re.fullmatch(r"5 processes ended in ([\d.]+) s, no request was running\n", out)
            self.assertTrue(told, out)
            self.assertLess(float(told[1]), 1.5)  # about 0.2 s where nothing else runs
            for pid in pids:
                self.assertFalse(alive(pid), pid)
            again = cluster.conclave("ps", check=False)
            self.assertEqual(again.returncode, 3)
            self.assertIn("conclave up", again.stderr)
            self.assertEqual(cluster.conclave("run", "Hello", check=False).returncode, 3)
            cluster.up()  # and up again, on the same folder

    def test_a_running_request_is_finished_before_the_end(self):
        with Cluster() as cluster:
            running = cluster.start_answer("Tell me a story.", "--raw", "--ignore-eos", "--max-tokens", "40", "--pace", "20",
                                           "--json")
            down = cluster.conclave("down").stdout
            self.assertIn("1 request was running", down)
            out, errors = running.communicate(timeout=20)
            self.assertEqual(running.returncode, 0, errors)
            self.assertEqual(len(json.loads(out)["ids"]), 40)

    def test_the_drain_time_is_a_limit(self):
        with Cluster("--drain-seconds", "1") as cluster:
            running = cluster.start_answer("Tell me a story.", "--raw", "--ignore-eos", "--max-tokens", "1500", "--pace", "5")
            began = time.monotonic()
            down = cluster.conclave("down").stdout
            self.assertLess(time.monotonic() - began, 15)
            self.assertIn("1 request was running and was cut off", down)
            _, errors = running.communicate(timeout=20)
            self.assertEqual(running.returncode, 1)
            self.assertIn("error: ", errors)

    def test_ctrl_c_ends_a_cluster_in_the_foreground(self):
        cluster = Cluster()
        try:
            up = cluster.start("up", *cluster.flags)
            line = ""
            while "Ready in" not in line:
                line = up.stdout.readline()
                self.assertTrue(line, "up ended early")
            pids = [row["pid"] for row in cluster.ps()["processes"]]
            up.send_signal(signal.SIGINT)
            out, _ = up.communicate(timeout=40)
            self.assertEqual(up.returncode, 0)
            self.assertRegex(out, r"5 processes ended in [\d.]+ s, no request was running")
            self.assertFalse(any(alive(pid) for pid in pids))
        finally:
            cluster.folder.cleanup()


if __name__ == "__main__":
    unittest.main(verbosity=2)
