"""kubectl, helm and load from inside the test cluster's network."""

import copy
import json
import pathlib
import signal
import subprocess
import sys
import time

from cluster import inside, until
from report import Problem

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm" / "conclave"


class Kube:
    def __init__(self, cluster, document):
        self.cluster, self.document = cluster, document
        self.tools = cluster.tools
        self.environment = {
            "KUBECONFIG": str(cluster.kubeconfig), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(cluster.folder),
            "HELM_CACHE_HOME": str(cluster.folder / "helm"),
        }  # fmt: skip

    def run(self, tool, *words, stdin=None, timeout=60, check=True):
        """The standard output of a tool; a Problem with its standard error when it fails."""
        command = inside(1, self.tools / tool, *words)
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, env=self.environment)
        if check and result.returncode != 0:
            shown = " ".join(map(str, words))
            raise Problem(f"{tool} {shown[:200]}: {result.stderr.strip()[:3000]}")
        return result.stdout

    def kubectl(self, *words, **options):
        return self.run("kubectl", *words, **options)

    def helm(self, *words, **options):
        return self.run("helm", *words, **options)

    def refused(self, tool, *words, **options):
        """What a tool says when it refuses; a Problem when it does not."""
        command = inside(1, self.tools / tool, *words)
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.environment, **options)
        if result.returncode == 0:
            raise Problem(f"{tool} {' '.join(map(str, words))[:300]} was not refused")
        return result.stderr + result.stdout

    def in_namespace(self, namespace):
        """A kubeconfig whose objects lie in `namespace` unless they say otherwise."""
        path = self.cluster.kubeconfig.with_name(f"{namespace}.kubeconfig")
        path.write_text(self.cluster.kubeconfig.read_text().replace("user: admin}", f"user: admin, namespace: {namespace}}}"))
        return path

    def apply(self, text, *words):
        return self.kubectl("apply", *words, "-f", "-", stdin=text)

    def objects(self, kind, namespace, selector=""):
        words = ["get", kind, "-n", namespace, "-o", "json"] + (["-l", selector] if selector else [])
        return json.loads(self.kubectl(*words))["items"]

    def object(self, kind, namespace, name):
        return json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))

    def wait_rollout(self, namespace, deployment, seconds):
        self.kubectl("rollout", "status", "-n", namespace, f"deployment/{deployment}", f"--timeout={seconds}s", timeout=seconds + 5)

    def logs(self, namespace, pod, *words):
        return self.kubectl("logs", "-n", namespace, pod, *words, check=False)


def pods_of(component, pool=None, release="demo"):
    selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component={component}"
    return selector + (f",conclave.dev/pool={pool}" if pool else "")


def is_ready(pod):
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


class Service:
    """The gateway's Service of a release: its address, and how to ask it from node 1's network."""

    def __init__(self, kube, namespace, name, ca=None, key=None):
        self.kube, self.namespace, self.name, self.ca, self.key = kube, namespace, name, ca, key
        self.address = kube.object("service", namespace, name)["spec"]["clusterIP"]
        self.host = f"{name}.{namespace}.svc"

    def curl(self, path, *words, key="own", timeout=30):
        """(status, text)"""
        scheme = "https" if self.ca else "http"
        command = ["curl", "-sS", "-N", "--max-time", str(timeout), "--resolve", f"{self.host}:8000:{self.address}", "-w", "\n%{http_code}"]
        if self.ca:
            command += ["--cacert", str(self.ca)]
        key = self.key if key == "own" else key
        if key:
            command += ["-H", f"Authorization: Bearer {key}"]
        result = subprocess.run(
            inside(1, *command, *words, f"{scheme}://{self.host}:8000{path}"), capture_output=True, text=True, timeout=timeout + 5
        )
        if result.returncode != 0:
            raise Problem(f"curl {path}: {result.stderr.strip()}")
        text, _, status = result.stdout.rpartition("\n")
        return int(status), text

    def chat(self, content="Spell the word wolf.", stream=False, **fields):
        options = {key: fields.pop(key) for key in ("key", "timeout") if key in fields}
        body = {"model": "tales", "temperature": 0, "stream": stream, "messages": [{"role": "user", "content": content}], **fields}
        return self.curl("/v1/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(body), **options)

    def at(self, address):
        """The same, asked at one gateway's own address."""
        one = copy.copy(self)
        one.address = address
        return one

    def answers(self):
        try:
            return self.chat(max_tokens=4, cache="off", timeout=5)[0] == 200
        except Problem:
            return False


class Load:
    """load.py in the background, as a context manager; `result` afterwards."""

    def __init__(self, service, *words):
        self.service, self.words, self.result = service, words, None

    def __enter__(self):
        service = self.service
        words = [service.address, "8000", service.host, *map(str, self.words)]
        words += ["--ca", str(service.ca)] if service.ca else []
        words += ["--key", service.key] if service.key else []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            inside(1, sys.executable, HERE / "load.py", *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def second(self):
        return time.monotonic() - self.started

    def __exit__(self, kind, error, trace):
        try:
            output, _ = self.process.communicate("", timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.result = json.loads(output)

    def no_failures(self, at_least=20):
        """A line for the report; a Problem when a request failed or hardly any were made."""
        result = self.result
        if result["failures"]:
            shown = "\n".join(
                f"{time.strftime('%H:%M:%S', time.gmtime(f['at']))}.{int(f['at'] % 1 * 1000):03} {'kept' if f['keeps'] else 'new'} connection: {f['error']}"
                for f in result["failures"][:8]
            )
            raise Problem(f"{len(result['failures'])} of {result['requests'] + len(result['failures'])} requests failed:\n{shown}")
        if result["requests"] < at_least:
            raise Problem(f"only {result['requests']} requests in {result['seconds']} s")
        return f"{result['requests']} requests, 0 failed, p99 {result['p99'] * 1000:.0f} ms, longest {result['longest'] * 1000:.0f} ms"


class GrpcLoad:
    """Two gRPC clients on one kept connection to the Service, `conclave bench`; `result` afterwards."""

    def __init__(self, service):
        self.service, self.result = service, None

    def __enter__(self):
        service, folder = self.service, self.service.kube.document.folder
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{service.address} {service.host}\n")
        words = ["--gateway", f"{service.host}:8001", "--api-ca-file", service.ca, "--api-key-file", "acme.key", "--json", "--temperature", "0"]
        words += ["-c", "2", "-n", "1000000", "--max-tokens", "8", "--pace", "20", "--prompt", "Tell me the fable of the Wolf And The Lamb."]
        shell = 'mount --bind hosts /etc/hosts && exec build/conclave bench serve "$@"'
        self.process = subprocess.Popen(
            inside(1, "unshare", "--mount", "bash", "-c", shell, "bench", *words), cwd=folder, env=service.kube.document.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, kind, error, trace):
        self.process.send_signal(signal.SIGINT)
        try:
            output, said = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        try:
            self.result = json.loads(output)
        except ValueError:
            raise Problem(f"conclave bench: {output}{said}") from None

    def no_failures(self, at_least=10):
        """A line for the report; a Problem when a request failed or hardly any were made."""
        finished, failed = self.result["requests"], self.result["failed"]
        if failed:
            raise Problem(f"{failed} of {finished + failed} gRPC requests failed, the first with {self.result['first_error']}")
        if finished < at_least:
            raise Problem(f"only {finished} gRPC requests: {self.result}")
        return f"{finished} gRPC requests, 0 failed"


__all__ = ["CHART", "HERE", "ROOT", "GrpcLoad", "Kube", "Load", "Service", "is_ready", "pods_of", "until"]
