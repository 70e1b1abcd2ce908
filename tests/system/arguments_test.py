"""Wrong arguments of `conclave`: refused where they are typed, by name, with what was wanted."""

import json
import os
import subprocess
import unittest

from cluster import CONCLAVE, ClusterTest


class Arguments(ClusterTest):
    def refused(self, *arguments, stdin=None, state=""):
        """Runs a command that shall end with 2 before anything happens; returns what it said."""
        folder = str(self.cluster.state_dir) + state
        done = subprocess.run([str(CONCLAVE), arguments[0], "--state-dir", folder, *arguments[1:]], env=self.cluster.env,
                              input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, timeout=30)
        errors = done.stderr.decode()
        self.assertEqual(done.returncode, 2, errors)
        self.assertTrue(errors.startswith("error: "), errors)
        self.assertEqual(done.stdout, b"")
        return errors

    def test_an_argument_that_is_not_utf8_is_named(self):
        errors = self.refused("run", b"caf\xe9", "--temperature", "0")
        self.assertIn("argument 4", errors)
        self.assertIn("caf\\xe9", errors)
        self.assertIn("UTF-8", errors)
        self.assertIn("argument 6", self.refused("run", "Hello", b"--model", b"/models/\xff\xfe"))

    def test_a_prompt_that_is_not_utf8_is_refused_before_it_is_sent(self):
        self.assertIn("byte 3 is 0xe9", self.refused("run", "-", stdin=b"caf\xe9"))

    def test_numbers_outside_their_range_say_what_is_wanted(self):
        for flag, value, wanted in (("--seed", "-1", "from 0 to 18446744073709551615"),
                                    ("--seed", "18446744073709551616", "from 0 to 18446744073709551615"),
                                    ("--seed", "1.5", "a whole number"),
                                    ("--temperature", "9", "from 0 to 2"), ("--temperature", "-0.1", "from 0 to 2"),
                                    ("--temperature", "nan", "from 0 to 2"), ("--temperature", "hot", "from 0 to 2"),
                                    ("--top-p", "0", "above 0 to 1"), ("--top-k", "-1", "a whole number from 0"),
                                    ("--max-tokens", "0", "a whole number from 1"), ("--max-tokens", "1e9", "a whole number"),
                                    ("--pace", "inf", "a number from 0.01"), ("--presence-penalty", "2.1", "from -2 to 2")):
            for command in ("run", "bench"):
                with self.subTest((command, flag, value)):
                    arguments = ["Hello"] if command == "run" else ["serve"]
                    errors = self.refused(command, *arguments, f"{flag}={value}")
                    self.assertIn(flag, errors)
                    self.assertIn(wanted, errors)
                    self.assertIn(f'not "{value}"', errors)

    def test_other_arguments_say_what_they_want(self):
        self.assertIn("8 hexadecimal digits", self.refused("run", "Hello", "--expect", "wolf"))
        for command in ("events", "logs"):
            self.assertIn("0 to 2147483647", self.refused(command, "--last", "-1"))

    def test_a_setting_given_twice_is_named(self):
        errors = self.refused("up", "--workers", "1", "--up-workers", "2")
        self.assertIn("--up-workers", errors)
        self.assertIn("is given 2 times", errors)

    def test_an_empty_value_takes_nothing_of_what_follows(self):
        for words in (["--model", ""], ["--model="]):
            self.assertIn("flag --model is empty", self.refused("up", *words, "-d"))
        self.assertIn("flag --workers: \"\" is not a whole number", self.refused("up", "--workers=", "-d"))
        self.assertIn("flag --model wants a value and is followed by the flag -d", self.refused("up", "--model", "-d"))

    def test_an_empty_prompt_is_refused(self):
        self.assertIn("the prompt is empty", self.refused("run", ""))
        self.assertIn("standard input is empty", self.refused("run", "-", stdin=b""))

    def test_words_behind_two_dashes_are_no_flags(self):
        self.assertIn("flags stand before --", self.refused("run", "--", "Hello", "--seed"))
        done = subprocess.run([str(CONCLAVE), "run", "--state-dir", str(self.cluster.state_dir), "--max-tokens", "3", "--json",
                               "--", "--seed 7 is no flag here."], env=self.cluster.env, capture_output=True, timeout=30)
        self.assertEqual(json.loads(done.stdout)["completion_tokens"], 3)

    def test_a_full_disk_is_told(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([str(CONCLAVE), "config", "show"], env=self.cluster.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("standard output could not be written whole", done.stderr)
        done = subprocess.run(f"{CONCLAVE} config show | head -1", shell=True, env=self.cluster.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stderr, "")

    def test_bench_without_its_word_shows_the_help(self):
        done = self.cluster.conclave("bench", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("Usage: conclave bench", done.stderr)
        self.assertIn("conclave bench serve", done.stderr)

    def test_a_value_of_the_file_is_refused_with_its_line(self):
        path = self.cluster.state_dir.parent / "settings.yaml"
        path.write_text("model: x\nengine:\n  threads: -4\n")
        self.assertIn(f"file {path}:3: engine.threads is -4", self.refused("up", "--config", str(path), "--model", "x"))

    def test_settings_that_up_cannot_follow_are_refused(self):
        self.assertIn("starts a controller of its own", self.refused("up", "--auto-ports", "--controller-address", "127.0.0.1:1",
                                                                     state="-other"))
        self.assertIn("starts 2 of that kind", self.refused("up", "--auto-ports", "--expert-name", "worker", state="-other"))

    def test_an_empty_stop_text_is_refused(self):
        self.assertIn("--stop", self.refused("run", "Hello", "--stop", ""))

    def test_set_of_chat_has_the_same_ranges(self):
        script = ("/set temperature 9\n/set seed -1\n/set max_tokens 0\n/set top_k x\n/set\n"
                  "/set temperature 2\n/set seed 18446744073709551615\n/set\n/quit\n")
        out = self.cluster.conclave("chat", stdin=script).stdout
        lines = out.splitlines()
        self.assertIn("temperature wants a number from 0 to 2, not \"9\"", lines[0])
        self.assertIn("seed wants a whole number from 0 to 18446744073709551615, not \"-1\"", lines[1])
        self.assertIn("max_tokens wants a whole number from 1 on, not \"0\"", lines[2])
        self.assertIn("top_k wants a whole number", lines[3])
        self.assertEqual(lines[4], "all defaults")
        self.assertEqual(lines[-1], "temperature 2, seed 18446744073709551615")

    def test_a_gateway_that_is_no_address_or_unknown_is_named(self):
        for command in (("run", "Hello"), ("chat",), ("bench", "serve")):
            with self.subTest(command):
                errors = self.refused(*command, "--gateway", "garbage")
                self.assertIn("--gateway: \"garbage\" is not an address", errors)
                self.assertIn("127.0.0.1:8000", errors)
                errors = self.refused(*command, "--gateway", "no-such-host.invalid:8001")
                self.assertIn("\"no-such-host.invalid\" is not known", errors)

    def test_a_gateway_where_nobody_listens_is_said_in_plain_words(self):
        done = self.cluster.conclave("run", "Hello", "--gateway", "127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stderr.startswith("error: UNAVAILABLE: no gateway answers gRPC at 127.0.0.1:1 (Connection refused)"),
                        done.stderr)
        done = self.cluster.conclave("run", "Hello", "--gateway", self.cluster.http_address, check=False)
        self.assertIn("(it is an HTTP port)", done.stderr)
        engine = self.cluster.process("engine-0")["address"]
        done = self.cluster.conclave("run", "Hello", "--gateway", engine, check=False)
        self.assertIn(f"what answers at {engine} is no gateway", done.stderr)
        for address, wanted in (("no-such-host.invalid:1", "is not known"), ("127.0.0.1:1", "no controller answers gRPC")):
            done = subprocess.run([str(CONCLAVE), "ps", "--state-dir", str(self.cluster.state_dir) + "-none",
                                   "--controller-address", address], env=self.cluster.env, capture_output=True, text=True,
                                  timeout=30)
            self.assertEqual(done.returncode, 1)
            self.assertIn(wanted, done.stderr)

    def test_an_unknown_word_names_the_nearest(self):
        self.assertIn("--temperature", self.refused("run", "Hello", "--temprature", "1"))
        self.assertIn("one argument too many", self.refused("run", "Hello", "wolf"))
        done = subprocess.run([str(CONCLAVE)], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2)
        self.assertIn("up, down, ps", done.stderr)
        done = subprocess.run([str(CONCLAVE), "chta"], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2)
        self.assertIn("the nearest is chat", done.stderr)


class Json(ClusterTest):
    """What a program may rely on: these keys, always, and nothing beside the JSON on standard output."""

    def parsed(self, *arguments):
        return json.loads(self.cluster.conclave(*arguments, "--json").stdout)

    def test_ps(self):
        told = self.parsed("ps")
        self.assertEqual(set(told), {"phase", "model", "http_address", "grpc_address", "controller_address", "supervisor_pid",
                                     "state_dir", "controller_answers", "epoch", "processes", "note"})
        self.assertEqual(told["phase"], "ready")
        for row in told["processes"]:
            self.assertEqual(set(row), {"name", "kind", "pid", "address", "ops_address", "state", "holds", "memory_bytes", "load",
                                        "restarts", "model", "log", "fingerprint"})
            self.assertGreater(row["memory_bytes"], 0)

    def test_events(self):
        lines = self.cluster.conclave("events", "--json").stdout.splitlines()
        self.assertGreater(len(lines), 3)
        events = [json.loads(line) for line in lines]
        for event in events:
            self.assertEqual(set(event), {"unix_ms", "member", "text"})
        self.assertEqual(events, sorted(events, key=lambda event: event["unix_ms"]))

    def test_doctor(self):
        checks = self.parsed("doctor")
        for check in checks:
            self.assertEqual(set(check), {"check", "verdict", "found", "do"})
            self.assertIn(check["verdict"], ("ok", "warn", "FAIL"))
        self.assertEqual([check["check"] for check in checks],
                         ["model", "text", "memory", "cpu", "cores", "settings", "ports", "limits", "version", "state"])

    def test_run(self):
        told = self.parsed("run", "Hello", "--max-tokens", "3")
        self.assertEqual(set(told), {"text", "request_id", "model", "fingerprint", "finish_reason", "seed", "digest",
                                     "prompt_tokens", "completion_tokens", "cached_tokens", "ids", "prompt_ids",
                                     "first_token_seconds", "seconds", "tokens_per_second", "longest_gap_seconds"})

    def test_bench(self):
        told = self.parsed("bench", "serve", "-c", "2", "-n", "4", "--max-tokens", "4")
        for name in ("requests", "failed", "concurrency", "seconds", "prompt_tokens", "cached_tokens", "output_tokens",
                     "output_tokens_per_second"):
            self.assertIn(name, told)
        quantities = {key: value for key, value in told.items() if isinstance(value, dict)}
        self.assertGreaterEqual(len(quantities), 4)
        for name, values in quantities.items():
            self.assertTrue(name.endswith("_seconds"), name)
            self.assertEqual(set(values), {"p50", "p90", "p99", "max"})

    def test_config_show_takes_any_bytes_of_the_environment(self):
        done = subprocess.run([str(CONCLAVE), "config", "show", "--json"], capture_output=True, timeout=30,
                              env={**self.cluster.env, "CONCLAVE_MODEL": os.fsdecode(b"/models/\xff")})
        rows = {row["key"]: row for row in json.loads(done.stdout)}
        self.assertEqual(set(rows["model"]), {"key", "value", "source", "help"})
        self.assertIn("CONCLAVE_MODEL", rows["model"]["source"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
