"""A cluster of the real programs on free ports, for tests of clients."""

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.environ.get("BUILD_DIR", os.path.join(SOURCE, "build"))
MODEL = os.path.join(SOURCE, "models", "tales")
START_SECONDS = 60
# The settings of whoever runs the tests are not the cluster's.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONCLAVE_")}


class Cluster:
    """Controller, two expert workers, one engine, one gateway. Ended by close()."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="conclave-openai-")
        self.processes = []
        try:
            address = self._start("controller", [], r"serving grpc=(\S+)")
            common = ["--model", MODEL, "--controller-address", address]
            for i in range(2):
                self._start("expert", common + ["--name", f"expert-{i}"])
            self._start("engine", common + ["--name", "engine-0"])
            http = self._start("gateway", common, r"serving http=(\S+)")
            self.base_url = f"http://{http}/v1"
            self.ops_address = self._wait_log(self.log_path, r" ops=(\S+)")
            self._wait_ready(f"http://{http}/readyz")
        except BaseException:
            self.close()
            raise

    def _start(self, kind, arguments, pattern=None):
        """Starts a program; the group that `pattern` finds in its log."""
        ports = ["--http-listen", "--grpc-listen"] if kind == "gateway" else ["--listen"]
        listen = [f"{port}=127.0.0.1:0" for port in [*ports, "--ops-listen"]]
        log_path = os.path.join(self.dir.name, f"{kind}-{len(self.processes)}.log")
        with open(log_path, "w") as log:
            self.processes.append(subprocess.Popen(
                [os.path.join(BUILD, f"conclave-{kind}"), *arguments, *listen,
                 "--state-dir", self.dir.name],
                stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT))
        self.log_path = log_path
        return self._wait_log(log_path, pattern) if pattern else None

    def _wait_log(self, path, pattern):
        deadline = time.monotonic() + START_SECONDS
        text = ""
        while time.monotonic() < deadline:
            with open(path) as log:
                text = log.read()
            if found := re.search(pattern, text):
                return found.group(1)
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"no {pattern!r} in {path}: {text}")

    def _wait_ready(self, url):
        deadline = time.monotonic() + START_SECONDS
        body = ""
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if json.load(answer)["ready"]:
                        return
            except urllib.error.HTTPError as error:
                body = error.read().decode()
            time.sleep(0.05)
        raise RuntimeError(f"not ready after {START_SECONDS} s: {body}")

    def gateway_metric(self, line):
        """The value of one line of the gateway's metrics."""
        url = f"http://{self.ops_address}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            for text in answer.read().decode().splitlines():
                if text.startswith(line + " "):
                    return float(text.rsplit(" ", 1)[1])
        return 0.0

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.dir.cleanup()
