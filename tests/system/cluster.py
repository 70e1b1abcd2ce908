"""A local cluster of the real programs, for the system tests: started by `conclave up`, on free ports, with a state
folder of its own. Standard library only."""

import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", SOURCE / "build"))
MODEL = pathlib.Path(os.environ.get("TEST_MODEL", SOURCE / "models" / "tales"))
CONCLAVE = BUILD / "conclave"
# Every wait ends after this long at the latest.
PATIENCE_S = 60


def has_ended(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def environment(extra=None):
    """The caller's environment without settings of its own."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("CONCLAVE_")}
    variables.update(extra or {})
    return variables


def wait_until(condition, what, timeout_s=PATIENCE_S):
    """Asks until `condition()` is true; fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not in {timeout_s} s: {what}")


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Cluster:
    """`with Cluster() as cluster:` starts it and ends it."""

    def __init__(self, *flags, workers=2, engines=1, model=MODEL, env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="conclave-system-")
        self.state_dir = pathlib.Path(self.folder.name) / "state"
        # Kept answers would hide what engines and workers do.
        self.env = environment({"CONCLAVE_GATEWAY_CACHE_MEMORY": "0", **(env or {})})
        # Far from the default ports and, most likely, from those of a test beside; --auto-ports does the rest.
        self.flags = ["--model", str(model), "--workers", str(workers), "--engines", str(engines),
                      "--base-port", str(random.randrange(10000, 30000, 50)), "--auto-ports", *flags]

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        self.conclave("down", check=False)
        self.folder.cleanup()

    def up(self):
        done = self.conclave("up", "-d", *self.flags, check=False, timeout=180)
        if done.returncode != 0:
            logs = self.conclave("logs", "--last", "40", check=False)
            raise AssertionError(f"up failed: {done.stdout}{done.stderr}\n{logs.stdout}")
        state = json.loads((self.state_dir / "cluster.json").read_text())
        self.http_address = state["http_address"]
        self.grpc_address = state["grpc_address"]
        self.ops_address = next(row["ops_address"] for row in state["processes"] if row["kind"] == "gateway")
        return done.stdout

    def conclave(self, *arguments, check=True, timeout=PATIENCE_S, stdin=None):
        """Runs one command to its end."""
        done = subprocess.run([str(CONCLAVE), *arguments, "--state-dir", str(self.state_dir)], env=self.env, timeout=timeout,
                              input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"conclave {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def start(self, *arguments):
        """Starts one command and returns it running, with pipes."""
        return subprocess.Popen([str(CONCLAVE), *arguments, "--state-dir", str(self.state_dir)], env=self.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_engine(self, num_running):
        """Until engine-0 is known to run so many sequences: what `ps` says is a report old."""
        wait_until(lambda: self.process("engine-0")["load"].startswith(f"{num_running} running"), f"{num_running} running")

    def start_answer(self, *arguments):
        """Starts a `run` and returns when the engine works at it. No other request may run."""
        self.wait_engine(0)
        running = self.start("run", *arguments)
        self.wait_engine(1)
        return running

    def run(self, prompt, *flags, check=True):
        """The JSON of `conclave run`."""
        done = self.conclave("run", prompt, "--json", *flags, check=check)
        return json.loads(done.stdout) if done.returncode == 0 else done

    def ps(self):
        return json.loads(self.conclave("ps", "--json").stdout)

    def process(self, name):
        return next(row for row in self.ps()["processes"] if row["name"] == name)

    def kill(self, name, number=signal.SIGKILL):
        """Sends a signal to a process of the cluster and returns its pid."""
        pid = self.process(name)["pid"]
        os.kill(pid, number)
        return pid

    def wait_restarted(self, name, old_pid):
        def again():
            row = self.process(name)
            return row["pid"] not in (0, old_pid) and row["state"] == "ready"
        wait_until(again, f"{name} ready again")
        if name != "controller":
            wait_until(self.is_ready, "the gateway ready again")

    def is_ready(self):
        try:
            return self.get("/readyz", self.ops_address)[0] == 200
        except OSError:
            return False

    def connection(self, address=None, timeout=PATIENCE_S):
        host, port = (address or self.http_address).rsplit(":", 1)
        return http.client.HTTPConnection(host, int(port), timeout=timeout)

    def get(self, path, address=None, headers=None):
        """Status and body of a GET."""
        connection = self.connection(address)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, path, body, headers=None):
        """Status and body of a POST; `body` is an object for JSON, or bytes."""
        connection = self.connection()
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def chat(self, content, **fields):
        """The parsed answer of a chat completion that shall succeed."""
        status, body = self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **fields})
        if status != 200:
            raise AssertionError(f"chat completion: {status} {body}")
        return json.loads(body)

    def logs(self):
        """All that all processes wrote."""
        return "".join(path.read_text(errors="replace") for path in (self.state_dir / "logs").iterdir())


class ClusterTest(unittest.TestCase):
    """Tests that share one cluster."""

    cluster_flags = ()
    cluster_options = {}

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(*cls.cluster_flags, **cls.cluster_options)
        cls.addClassCleanup(cls.cluster.__exit__)
        cls.cluster.up()
