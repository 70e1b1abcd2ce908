"""Installation, the first request, and uninstallation."""

import json
import time

from chart_checks import EXAMPLES
from kube import CHART, HERE, Service, is_ready, until
from report import expect

NAMESPACE = "ai"
EXAMPLE = CHART / "examples" / "laptop.yaml"
VALUES = ["-f", EXAMPLE, "-f", HERE / "values.yaml"]


def dry_runs(report, kube):
    """Every example's objects are taken by the API server, the pods' under the restricted standard."""
    for name in ("dry", "monitoring", NAMESPACE):
        kube.kubectl("create", "namespace", name)
    for name in ("dry", NAMESPACE):
        kube.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    for example in EXAMPLES:
        report.check(f"server-side dry run of {example.name}", dry_run, kube, example)


def dry_run(kube, example):
    text = kube.helm("template", "demo", CHART, "-n", "dry", "--kube-version", "1.33.13", "-f", example)
    # Objects without a namespace of their own belong to that of the release.
    answer = kube.apply(text, "--server-side", "--dry-run=server", "--validate=strict", f"--kubeconfig={kube.in_namespace('dry')}")
    expect("would violate PodSecurity" not in answer, answer)
    kube.helm("install", "demo", CHART, "-n", "dry", "--dry-run=server", "-f", example)
    return f"{len(answer.splitlines())} objects"


def install(report, kube):
    """The release that the other checks work on, or None."""
    began = time.monotonic()

    def laptop():
        kube.helm("install", "demo", CHART, "-n", NAMESPACE, "-f", EXAMPLE, "--wait", "--timeout", "60s", timeout=70)
        return f"{time.monotonic() - began:.1f} s"

    if not report.check("helm install --wait of the laptop example within 60 s", laptop):
        return None
    service = Service(kube, NAMESPACE, "demo-conclave-gateway")
    report.check("a streamed answer through the Service", streamed, service)
    report.check("a wrong upgrade is refused, and changes nothing", wrong_upgrade, kube, service)
    if not report.check("two of everything", two_of_everything, kube, service):
        return None
    return service


def streamed(service):
    began = time.monotonic()
    status, text = service.chat(stream=True)
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    expect(status == 200 and events and events[-1] == "[DONE]", f"status {status}: {text[-500:]}")
    words = "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"])
    expect(words == "w-o-l-f.", f"the answer is {words!r}")
    return f"{len(events)} events in {(time.monotonic() - began) * 1000:.0f} ms"


def wrong_upgrade(kube, service):
    text = kube.refused("helm", "upgrade", "demo", CHART, "-n", NAMESPACE, "-f", EXAMPLE, "--set", "gateway.replica=3")
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


def uninstalled(kube):
    kube.helm("uninstall", "demo", "-n", NAMESPACE, "--wait", "--timeout", "60s", timeout=70)
    kinds = kube.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith(("events", "pods.metrics")) and "custom.metrics" not in kind]
    end = time.monotonic() + 60
    while True:
        text = kube.kubectl("get", ",".join(kinds), "-A", "-o", "name", "--ignore-not-found", "-l", "app.kubernetes.io/instance=demo")
        text += "".join(
            f"{entry['kind']}/{entry['metadata']['name']}\n"
            for kind in ("secrets", "configmaps", "leases", "pods")
            for entry in kube.objects(kind, NAMESPACE)
            if entry["metadata"]["name"] != "kube-root-ca.crt"
        )
        if not text.strip():
            return
        expect(time.monotonic() < end, f"left after 60 s:\n{text}")
        time.sleep(0.5)
