"""docs/two-machines.md as a test: an expert worker joins from a second host by one command. The hosts are two network
namespaces joined by a cable; needs the right to make them (root) and `ip`, says so and skips otherwise."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from cluster import BUILD, CONCLAVE, MODEL, environment, wait_until

SKIPPED = 77  # ctest shows the test as skipped
HOST_A, HOST_B = f"conclave-a-{os.getpid()}", f"conclave-b-{os.getpid()}"
ADDRESS_A, ADDRESS_B = "10.77.0.1", "10.77.0.2"
STORY = ["Tell me a story.", "--temperature", "0", "--seed", "1", "--max-tokens", "60", "--ignore-eos", "--json"]


def ip(*arguments):
    return subprocess.run(["ip", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def make_hosts():
    """Why not, or an empty string."""
    if shutil.which("ip") is None:
        return "no `ip` (package iproute2)"
    for host in (HOST_A, HOST_B):
        made = ip("netns", "add", host)
        if made.returncode != 0:
            return made.stdout.strip()
    made = ip("link", "add", "eth0", "netns", HOST_A, "type", "veth", "peer", "name", "eth0", "netns", HOST_B)
    if made.returncode != 0:
        return made.stdout.strip()
    for host, address in ((HOST_A, ADDRESS_A), (HOST_B, ADDRESS_B)):
        for command in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
            done = ip("-n", host, *command)
            if done.returncode != 0:
                return done.stdout.strip()
    return ""


def remove_hosts():
    for host in (HOST_A, HOST_B):
        ip("netns", "del", host)


class TwoMachines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="conclave-two-")
        cls.addClassCleanup(cls.folder.cleanup)
        folder = pathlib.Path(cls.folder.name)
        cls.secret = folder / "cluster.secret"
        cls.secret.write_text("a secret of the two machines\n")
        cls.secret.chmod(0o600)
        cls.state_a, cls.state_b = folder / "a", folder / "b"
        # The same files under another path: weights are matched by fingerprint.
        cls.model_b = folder / "elsewhere"
        shutil.copytree(MODEL, cls.model_b)
        cls.addClassCleanup(lambda: cls.on_a("down", check=False))
        cls.on_a("up", "-d", "--model", str(MODEL), "--cluster-secret-file", str(cls.secret),
                 "--controller-listen", f"{ADDRESS_A}:8010", "--engine-listen", f"{ADDRESS_A}:8020",
                 "--expert-listen", f"{ADDRESS_A}:8030")

    @classmethod
    def on_a(cls, *arguments, check=True):
        done = subprocess.run(["ip", "netns", "exec", HOST_A, str(CONCLAVE), *arguments, "--state-dir", str(cls.state_a)],
                              env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(f"conclave {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def start_worker(self, *flags, secret=True, model=None):
        """Starts conclave-expert on host B; its log is in self.log."""
        self.log = pathlib.Path(self.folder.name) / f"{self._testMethodName}.log"
        command = ["ip", "netns", "exec", HOST_B, str(BUILD / "conclave-expert"), "--model", str(model or self.model_b),
                   "--name", "expert-9", "--controller-address", f"{ADDRESS_A}:8010", "--listen", f"{ADDRESS_B}:8030",
                   "--state-dir", str(self.state_b), *flags]
        if secret is not None:
            command += ["--cluster-secret-file", str(self.secret)] if secret else ["--insecure"]
        with self.log.open("w") as log:
            worker = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=log)

        def end():
            worker.terminate()
            worker.wait(timeout=60)
        self.addCleanup(end)
        return worker

    def members(self):
        return {row["name"]: row for row in json.loads(self.on_a("ps", "--json").stdout)["processes"]}

    def digest(self):
        return json.loads(self.on_a("run", *STORY).stdout)["digest"]

    def test_a_worker_on_another_host_takes_its_share_and_the_tokens_stay(self):
        digest = self.digest()
        self.start_worker()
        wait_until(lambda: self.members().get("expert-9", {}).get("holds", "").split(" ")[0] in ("21", "22"),
                   "expert-9 holding a third of the experts")
        wait_until(lambda: sum(int(row["holds"].split(" ")[0]) for name, row in self.members().items()
                               if name.startswith("expert-")) == 64, "each expert in one place")
        self.assertEqual(self.digest(), digest)

    def test_a_worker_without_the_secret_is_told_so(self):
        self.start_worker(secret=False)
        wait_until(lambda: "carries no cluster secret" in self.log.read_text(), "the refusal in the worker's log")
        self.assertNotIn("expert-9", {name for name, row in self.members().items() if row["state"] == "ready"})

    def test_another_secret_is_told_from_none(self):
        other = pathlib.Path(self.folder.name) / "other.secret"
        other.write_text("a secret of other machines\n")
        other.chmod(0o640)
        worker = self.start_worker("--cluster-secret-file", str(other), secret=None)
        self.assertEqual(worker.wait(timeout=60), 1)
        self.assertIn("the call carries another cluster secret", self.log.read_text())
        self.assertIn("can be read by its group on this machine; chmod 600", self.log.read_text())
        for command in ("ps", "events"):
            done = self.on_a(command, "--cluster-secret-file", str(other), check=False)
            self.assertIn(f"has another cluster secret than {other} holds", done.stderr)
            self.assertEqual(done.returncode, 1 if command == "ps" else 0)
        self.assertIn("engine-0", self.on_a("ps", "--cluster-secret-file", str(other), check=False).stdout)

    def test_a_worker_of_other_weights_gets_no_work(self):
        digest = self.digest()
        worker = self.start_worker("--numerics", "f32")
        wait_until(lambda: "gets no work until an engine serves the same checkpoint" in self.on_a("events", "--last", "0").stdout,
                   "the event")
        self.assertEqual(self.digest(), digest)
        self.assertEqual(self.members()["expert-9"]["holds"].split(" ")[0], "0")
        worker.terminate()
        worker.wait(timeout=60)
        wait_until(lambda: self.members()["expert-9"]["state"] == "left", "its leaving")
        self.assertNotIn("have no live worker", self.on_a("ps").stdout)


if __name__ == "__main__":
    why_not = make_hosts()
    try:
        if why_not:
            print(f"skipped: no network namespaces here: {why_not}")
            sys.exit(SKIPPED)
        unittest.main(verbosity=2)
    finally:
        remove_hosts()
