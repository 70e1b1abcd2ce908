"""Installation, the first request, and uninstallation."""

import json
import subprocess
import sys
import time

from chart_checks import EXAMPLES
from cluster import inside, work_folder
from kube import CHART, HERE, Service, is_ready, pods_of, until
from report import Problem, expect

NAMESPACE = "ai"
NAME = "demo-conclave-gateway"
DOCUMENT = work_folder() / "document"  # where the commands of docs/kubernetes.md leave their files
BASE = ["-f", CHART / "examples" / "laptop.yaml", "-f", DOCUMENT / "secure.yaml"]
VALUES = [*BASE, "-f", HERE / "values.yaml"]


def dry_runs(report, kube):
    """Every example's objects are taken by the API server, the pods' under the restricted standard."""
    for name in ("dry", "dry-free", "dry-install", "monitoring"):
        kube.kubectl("create", "namespace", name)
    kube.kubectl("label", "namespace", "dry", "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
    for name in ("dry", "dry-free"):
        kube.kubectl("create", "serviceaccount", "-n", name, "demo-conclave")  # a pod, such as that of `helm test`, wants it to be there
    for example in EXAMPLES:
        report.check(f"server-side dry run of {example.name}", dry_run, kube, "dry", "-f", example)
    report.check("server-side dry run of a model on the nodes (hostPath)", host_path, kube)


def dry_run(kube, namespace, *values):
    text = kube.helm("template", "demo", CHART, "-n", namespace, "--kube-version", "1.33.13", *values)
    # Objects without a namespace of their own belong to that of the release. A pod template that the namespace's standard would
    # refuse is only warned of.
    words = ["--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", f"--kubeconfig={kube.in_namespace(namespace)}"]
    answer = kube.apply(text, *words)
    kube.helm("install", "demo", CHART, "-n", "dry-install", "--dry-run=server", *values)
    return f"{len(answer.splitlines())} objects"


def host_path(kube):
    """Taken where no standard is enforced, and by no restricted namespace, as docs/kubernetes.md says."""
    values = ["--set", "model.delivery=hostPath,model.hostPath.path=/srv/model"]
    note = dry_run(kube, "dry-free", *values)
    try:
        dry_run(kube, "dry", *values)
    except Problem as problem:
        expect('restricted volume type "hostPath"' in str(problem), str(problem))
        return f"{note}; a restricted namespace refuses it"
    raise Problem("a restricted namespace takes pods with a hostPath volume")


def install(report, kube):
    """The release that the other checks work on, or None."""
    if not report.check("namespace, Secrets with keys and certificates", make_secrets, kube):
        return None
    if not report.check("helm install --wait of the laptop example within 60 s", laptop, kube):
        return None
    service = service_of(kube)
    report.check("a streamed answer through the Service, with TLS and key", streamed, service)
    report.check("the documented first request", first_answer, kube)
    report.check("the first request of NOTES.txt", noted_request, kube)
    report.check("the headless Service names every gateway, and each answers", headless, kube, service)
    report.check("helm test", helm_test, kube)
    report.check("a key made later is taken", later_key, kube, service)
    report.check("without TLS, without a key, with a wrong one: refused", refuses_strangers, kube, service)
    report.check("a wrong upgrade is refused, and changes nothing", wrong_upgrade, kube, service)
    if not report.check("two of everything", two_of_everything, kube, service):
        return None
    return service


def laptop(kube):
    kube.document.run("Installation")


def make_secrets(kube):
    for heading in ("Namespace", "Keys", "Certificates"):
        kube.document.run(heading)


def service_of(kube):
    return Service(kube, NAMESPACE, NAME, DOCUMENT / "ca.crt", (DOCUMENT / "acme.key").read_text().strip())


def helm_test(kube):
    try:
        kube.document.run("Test")
    except Problem as problem:
        said = kube.logs(NAMESPACE, "demo-conclave-doctor")
        kube.kubectl("delete", "pod", "-n", NAMESPACE, "demo-conclave-doctor", "--ignore-not-found")
        raise Problem(f"{problem}\n{said}") from None
    left = [pod["metadata"]["name"] for pod in kube.objects("pods", NAMESPACE, pods_of("doctor"))]
    expect(not left, f"its pod is still there: {left}")


def noted_request(kube):
    """The commands that `helm install` ends with, as they stand there."""
    notes = kube.helm("get", "notes", "demo", "-n", NAMESPACE)
    commands = [line for line in notes.splitlines() if line.startswith("  ")]
    expect(len(commands) == 4, notes)
    answer = kube.document.shell("\n".join(commands) + "\nkill %1", "the notes", KEY=(DOCUMENT / "acme.key").read_text().strip())
    expect("[DONE]" in answer, f"the stream does not end with [DONE]: {answer[-500:]}")


def headless(kube, service):
    name = f"{NAME}-headless.{NAMESPACE}.svc.cluster.local"
    code = f"import socket; print(*sorted({{entry[4][0] for entry in socket.getaddrinfo('{name}', 8001, socket.AF_INET)}}))"
    shell = f"mount --bind {kube.cluster.run}/resolv.conf /etc/resolv.conf && exec {sys.executable} -c \"$1\""
    found = subprocess.run(inside(1, "unshare", "--mount", "bash", "-c", shell, "ask", code), capture_output=True, text=True, timeout=30)
    expect(found.returncode == 0, f"{name}: {found.stderr.strip()}")
    ready = sorted(pod["status"]["podIP"] for pod in kube.objects("pods", NAMESPACE, pods_of("gateway")) if is_ready(pod))
    expect(found.stdout.split() == ready, f"{name} is {found.stdout.split()}, the gateways are {ready}")
    for address in ready:
        status, text = service.at(address).chat(max_tokens=4)
        expect(status == 200, f"{address}: status {status}: {text}")
    return f"{len(ready)} addresses"


def first_answer(kube):
    expect("[DONE]" in kube.document.run("First answer"), "the stream does not end with [DONE]")


def later_key(kube, service):
    """kubelet writes a changed Secret into the pods within about a minute: here the gateway's own part, that it reads it again."""
    kube.document.run("Keys", 1)
    key = (DOCUMENT / "beta.key").read_text().strip()
    began = time.monotonic()
    look_at_secrets(kube, "gateway")
    until("the new key is taken", 90, lambda: service.chat(key=key, max_tokens=4)[0] == 200, every=0.5)
    return f"{time.monotonic() - began:.1f} s after the Secret was changed"


def look_at_secrets(kube, component):
    """A changed pod makes kubelet read its Secrets at once."""
    touch = json.dumps({"metadata": {"annotations": {"read-secrets": str(time.time())}}})
    for pod in kube.objects("pods", NAMESPACE, pods_of(component)):
        kube.kubectl("patch", "pod", "-n", NAMESPACE, pod["metadata"]["name"], "-p", touch)


def refuses_strangers(kube, service):
    for key in (None, "sk-wrong"):
        status, text = service.chat(key=key)
        expect(status == 401, f"with the key {key}: status {status}: {text}")
    try:
        Service(kube, NAMESPACE, NAME).chat(key=None)
    except Problem:
        return  # the gateway ends what is no TLS handshake
    raise Problem("plain HTTP was answered")


def streamed(service):
    began = time.monotonic()
    status, text = service.chat(stream=True)
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    expect(status == 200 and events and events[-1] == "[DONE]", f"status {status}: {text[-500:]}")
    words = "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"])
    expect(words == "w-o-l-f.", f"the answer is {words!r}")
    return f"{len(events)} events in {(time.monotonic() - began) * 1000:.0f} ms"


def wrong_upgrade(kube, service):
    text = kube.refused("helm", "upgrade", "demo", CHART, "-n", NAMESPACE, *BASE, "--set", "gateway.replica=3")
    expect("/gateway" in text and "replica" in text, text)
    expect(json.loads(kube.helm("list", "-n", NAMESPACE, "-o", "json"))[0]["revision"] == "1", "there is a second revision")
    expect(service.answers(), "the gateway does not answer")


def two_of_everything(kube, service):
    kube.helm("upgrade", "demo", CHART, "-n", NAMESPACE, *VALUES, "--wait", "--timeout", "90s", timeout=100)
    pods = [pod for pod in kube.objects("pods", NAMESPACE, "app.kubernetes.io/name=conclave") if is_ready(pod)]
    nodes = {}
    for pod in pods:
        nodes.setdefault(pod["metadata"]["labels"]["app.kubernetes.io/component"], set()).add(pod["spec"]["nodeName"])
    for component in ("gateway", "engine", "expert"):
        expect(len(nodes[component]) == 2, f"{component} pods are on {nodes[component]} only")
    until("the gateway answers", 30, service.answers)
    return f"{len(pods)} pods, spread over both nodes"


def uninstall(report, kube):
    report.check("helm uninstall leaves nothing", uninstalled, kube)


OURS = ("kube-root-ca.crt", "conclave-api-keys", "conclave-doctor-key", "conclave-clients-tls", "conclave-services-tls", "conclave-authority")


def uninstalled(kube):
    kube.document.run("End", 0)
    kinds = kube.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith(("events", "pods.metrics")) and "custom.metrics" not in kind]
    end = time.monotonic() + 60
    while True:
        text = kube.kubectl("get", ",".join(kinds), "-A", "-o", "name", "--ignore-not-found", "-l", "app.kubernetes.io/instance=demo")
        text += "".join(
            f"{entry['kind']}/{entry['metadata']['name']}\n"
            for kind in ("secrets", "configmaps", "leases", "pods")
            for entry in kube.objects(kind, NAMESPACE)
            if entry["metadata"]["name"] not in OURS
        )
        if not text.strip():
            break
        expect(time.monotonic() < end, f"left after 60 s:\n{text}")
        time.sleep(0.5)
    kube.document.run("End", 1)
