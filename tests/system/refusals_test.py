"""What `up` refuses to start with: said once, with the reason, and the same by `doctor`."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, MODEL, Cluster


class Checkpoint:
    """A copy of the bundled model with some files changed; the weights are linked."""

    def __init__(self, changes):
        self.folder = tempfile.TemporaryDirectory(prefix="conclave-checkpoint-")
        self.path = pathlib.Path(self.folder.name)
        for source in MODEL.iterdir():
            if source.name in changes:
                continue
            (self.path / source.name).symlink_to(source)
        for name, change in changes.items():
            source = MODEL / name
            (self.path / name).write_text(change(source.read_text() if source.exists() else ""))

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        self.folder.cleanup()


def with_field(field, value):
    def change(text):
        fields = json.loads(text)
        fields[field] = value
        return json.dumps(fields)
    return change


# File, change, and what both commands must say.
CASES = {
    "an end token beyond the vocabulary": ("generation_config.json", with_field("eos_token_id", 999999),
                                           ["generation_config.json", "eos_token_id", "999999", "the vocabulary ends at"]),
    "one of several end tokens": ("config.json", with_field("eos_token_id", [1, 70000]), ["config.json", "eos_token_id", "70000"]),
    "a temperature that is no number": ("generation_config.json", with_field("temperature", "hot"),
                                        ["generation_config.json", "temperature", "a number"]),
    "a tokenizer that is cut off": ("tokenizer.json", lambda text: text[:1000], ["tokenizer.json"]),
    "a tokenizer nested without end": ("tokenizer.json", lambda text: "[" * 200000, ["tokenizer.json"]),
    "a template that does not compile": ("chat_template.jinja", lambda text: "{% for x in %}", ["chat_template.jinja"]),
    "an architecture that is not served": ("config.json", with_field("model_type", "llama"), ["config.json", "llama"]),
}


class BadCheckpoints(unittest.TestCase):
    def test_doctor_and_up_refuse_the_same_and_up_says_it_once(self):
        for name, (file, change, wanted) in CASES.items():
            with self.subTest(name), Checkpoint({file: change}) as model:
                cluster = Cluster(model=model)
                try:
                    doctor = cluster.conclave("doctor", "--json", "--model", str(model), check=False)
                    self.assertEqual(doctor.returncode, 1, doctor.stdout)
                    failed = [check for check in json.loads(doctor.stdout)
                              if check["verdict"] == "FAIL" and check["check"] in ("model", "text")]
                    self.assertEqual(len(failed), 1, doctor.stdout)
                    for foreground in (False, True):
                        up = cluster.conclave("up", *([] if foreground else ["-d"]), *cluster.flags, check=False)
                        said = up.stdout + up.stderr
                        self.assertEqual(up.returncode, 1, said)
                        for part in wanted:
                            self.assertIn(part, failed[0]["found"])
                            self.assertIn(part, said)
                        self.assertEqual(said.count(failed[0]["found"]), 1, said)
                    self.assertEqual(cluster.conclave("ps", check=False).returncode, 3)
                finally:
                    cluster.folder.cleanup()

    def test_the_unchanged_copy_is_served(self):
        with Checkpoint({}) as model:
            cluster = Cluster(model=model)
            try:
                doctor = cluster.conclave("doctor", "--json", "--model", str(model), check=False)
                verdicts = {check["check"]: check["verdict"] for check in json.loads(doctor.stdout)}
                self.assertEqual((verdicts["model"], verdicts["text"]), ("ok", "ok"), doctor.stdout)
                cluster.up()
            finally:
                cluster.__exit__()


class BadSettings(unittest.TestCase):
    def test_doctor_and_up_refuse_the_same_before_anything_starts(self):
        cluster = Cluster()
        try:
            for flags, wanted in ((["--engine-cpu-level", "avx9"], "engine.cpu_level is \"avx9\""),
                                  (["--engine-threads", "-1"], "engine.threads is -1"),
                                  (["--expert-listen", "0.0.0.0:8030"], "expert.listen is 0.0.0.0:8030"),
                                  (["--cluster-secret-file", "/nowhere"], "/nowhere cannot be read"),
                                  (["--up-start-timeout-s", "0"], "up.start_timeout_s is 0")):
                with self.subTest(flags):
                    up = cluster.conclave("up", "-d", *cluster.flags, *flags, check=False)
                    self.assertIn(up.returncode, (1, 2), up.stderr)
                    self.assertIn(wanted, up.stderr)
                    self.assertNotIn("ended with exit code", up.stderr)
                    doctor = cluster.conclave("doctor", "--json", *flags, check=False)
                    self.assertEqual(doctor.returncode, 1, doctor.stdout)
                    settings = next(check for check in json.loads(doctor.stdout) if check["check"] == "settings")
                    self.assertEqual(settings["verdict"], "FAIL")
                    self.assertIn(wanted, settings["found"])
                    self.assertTrue(settings["do"])
        finally:
            cluster.folder.cleanup()


class Room(unittest.TestCase):
    """What does not fit is found by the services' own computation, before anything is started."""

    def memory(self, cluster, *flags):
        doctor = cluster.conclave("doctor", "--json", *cluster.flags, *flags, check=False)
        return next(check for check in json.loads(doctor.stdout) if check["check"] == "memory")

    def test_experts_that_fit_nowhere_end_up_at_once(self):
        cluster = Cluster()
        try:
            up = cluster.conclave("up", "-d", *cluster.flags, "--expert-memory", "1", check=False)
            self.assertEqual((up.returncode, up.stdout), (1, ""))
            self.assertIn("64 of the 64 experts", up.stderr)
            memory = self.memory(cluster, "--expert-memory", "1")
            self.assertEqual(memory["verdict"], "FAIL")
            self.assertIn(memory["found"], up.stderr)
            enough = re.search(r"--expert-memory (\d+) is enough", up.stderr).group(1)
            cluster.flags += ["--expert-memory", enough]
            cluster.up()
            self.assertEqual(self.memory(cluster)["verdict"], "ok")
        finally:
            cluster.__exit__()

    def test_a_kv_cache_beyond_the_memory_is_refused_by_doctor_as_by_the_engine(self):
        cluster = Cluster()
        try:
            for size in ("900000GiB", "1000"):
                with self.subTest(size):
                    memory = self.memory(cluster, "--engine-kv-memory", size)
                    self.assertEqual(memory["verdict"], "FAIL")
                    self.assertIn("engine.kv_memory is", memory["found"])
                    up = cluster.conclave("up", "-d", *cluster.flags, "--engine-kv-memory", size, check=False)
                    self.assertEqual(up.returncode, 1)
                    self.assertIn("engine.kv_memory is", up.stderr)
        finally:
            cluster.folder.cleanup()


class Limits(unittest.TestCase):
    def test_limits_that_are_too_small_are_said_before_anything_starts(self):
        cluster = Cluster()
        try:
            for limit, wanted in (("-v 100000", "the address space of a process is limited to 98 MiB"),
                                  ("-v 300000", "the address space of a process is limited to 293 MiB"),
                                  ("-n 10", "a process may have 10 files open")):
                with self.subTest(limit):
                    done = subprocess.run(["sh", "-c", f'ulimit {limit} && exec "$0" "$@"', str(CONCLAVE), "up", "-d", *cluster.flags,
                                           "--state-dir", str(cluster.state_dir)], env=cluster.env, stdin=subprocess.DEVNULL,
                                          capture_output=True, text=True, timeout=60)
                    self.assertEqual((done.returncode, done.stdout), (1, ""))
                    self.assertIn(wanted, done.stderr)
                    self.assertIn("; ulimit -", done.stderr)
                    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            limited = subprocess.run(["sh", "-c", 'ulimit -S -n 64 && exec "$0" "$@"', str(CONCLAVE), "doctor", "--json", "--state-dir",
                                      str(cluster.state_dir)], env=cluster.env, capture_output=True, text=True, timeout=60)
            limits = next(check for check in json.loads(limited.stdout) if check["check"] == "limits")
            self.assertNotEqual(limits["verdict"], "FAIL")
        finally:
            cluster.folder.cleanup()


class FullDisk(unittest.TestCase):
    def test_up_says_that_there_is_no_space(self):
        unshare = shutil.which("unshare")
        if unshare is None:
            self.skipTest("no unshare here")
        prefix = [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--mount", "--map-root-user"]
        with tempfile.TemporaryDirectory(prefix="conclave-full-") as folder:
            mount = f"mount -t tmpfs -o size=64k tmpfs {folder}"
            if subprocess.run([*prefix, "sh", "-c", mount], capture_output=True, timeout=30).returncode != 0:
                self.skipTest("no right to mount a small file system in a namespace of its own")
            cluster = Cluster()
            try:
                for command in (["up", "-d", *cluster.flags], ["up", *cluster.flags], ["doctor"]):
                    with self.subTest(command[:2]):
                        done = subprocess.run(
                            [*prefix, "sh", "-c", mount + ' && exec "$0" "$@"', str(CONCLAVE), *command, "--state-dir", folder],
                            env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
                        self.assertEqual(done.returncode, 1, done.stderr)
                        self.assertIn(f"no space left on {folder}: ", done.stdout + done.stderr)
                        self.assertIn("wanted at least 1", done.stdout + done.stderr)
            finally:
                cluster.folder.cleanup()


if __name__ == "__main__":
    unittest.main(verbosity=2)
