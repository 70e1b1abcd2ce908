"""A local cluster with two expert pools of unlike workers, watched by a real Prometheus that has the chart's rules with shortened
windows."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import rules

sys.path.insert(0, str(rules.SOURCE / "tests" / "system"))
from cluster import BUILD, MODEL, Cluster, wait_until  # noqa: E402
from tls_test import Authority  # noqa: E402, F401: what live_test issues certificates by

PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
NAMESPACE = "test"
SCRAPE_S = 1
# Windows of minutes and hours become these of seconds: 5 min 5 s, 1 h 30 s, 1 d 12 min; what is pending for 5 min is for 3 s.
WINDOW_DIVISOR, SHORTEST_S, WAIT_DIVISOR = 120, 5, 100
SMALL_WORKER = "expert-small"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prometheus:
    def __init__(self, folder, targets):
        """`targets`: (address, labels) of each process."""
        self.folder = pathlib.Path(folder)
        self.address = f"127.0.0.1:{free_port()}"
        for path in (rules.ALERTS, rules.RECORDING):
            groups = rules.shortened(rules.load(path)["groups"], WINDOW_DIVISOR, SHORTEST_S, WAIT_DIVISOR)
            (self.folder / path.name).write_text(json.dumps({"groups": groups}))  # JSON is YAML
        # What Kubernetes' pod labels become by relabelling; PodMonitors of the chart do the same.
        scraped = [{"targets": [address], "labels": {"namespace": NAMESPACE, **labels}} for address, labels in targets]
        every = f"{SCRAPE_S}s"
        config = {"global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
                  "rule_files": [rules.ALERTS.name, rules.RECORDING.name],
                  "scrape_configs": [{"job_name": "conclave", "static_configs": scraped}]}
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        with (self.folder / "prometheus.log").open("w") as log:
            self.process = subprocess.Popen(
                [PROMETHEUS, f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address={self.address}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.is_ready, "Prometheus ready")

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "prometheus.log").read_text()[-2000:])
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def ask(self, query):
        """[(labels, value)] of an instant query."""
        data = self.get("query", query=query)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class MonitoredCluster(Cluster):
    """Two workers: expert-0, which `conclave up` keeps, and one of its own that has room for a few experts only."""

    def __init__(self, *flags, env=None, small_memory):
        super().__init__(*flags, workers=1, env={"CONCLAVE_GATEWAY_CACHE_MEMORY": "16MiB", **(env or {})})
        self.small_memory = small_memory
        self.small = None
        self.prometheus = None

    def up(self):
        super().up()
        state = json.loads((self.state_dir / "cluster.json").read_text())
        ops = free_port()
        with (self.state_dir / "logs" / f"{SMALL_WORKER}.log").open("w") as log:
            self.small = subprocess.Popen(
                [str(BUILD / "conclave-expert"), "--name", SMALL_WORKER, "--model", str(MODEL), "--memory", self.small_memory,
                 "--controller-address", state["controller_address"], "--listen", f"127.0.0.1:{free_port()}",
                 "--ops-listen", f"127.0.0.1:{ops}", "--state-dir", str(self.state_dir)],
                env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        targets = [(row["ops_address"], self.labels(row["kind"], row["name"])) for row in state["processes"]]
        targets.append((f"127.0.0.1:{ops}", self.labels("expert", SMALL_WORKER)))
        wait_until(lambda: self.holdings(SMALL_WORKER) > 0, f"{SMALL_WORKER} holding experts")
        self.prometheus = Prometheus(self.folder.name, targets)

    @staticmethod
    def labels(kind, name):
        pool = {"pool": "cpu"} if kind in ("engine", "expert") else {}
        return {"component": kind, "pod": name, **pool}

    def holdings(self, name):
        return next((int(row["holds"].split(" ")[0]) for row in self.ps()["processes"]
                     if row["name"] == name and row["state"] == "ready"), 0)

    def workers(self):
        return [self.small.pid, self.process("expert-0")["pid"]]

    def __exit__(self, *exception):
        if self.prometheus:
            self.prometheus.end()
        if self.small:
            self.small.send_signal(signal.SIGCONT)
            self.small.kill()
            self.small.wait(timeout=30)
        super().__exit__(*exception)
