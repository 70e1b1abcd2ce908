"""What may happen to an installation while it serves: no request may fail of it, over HTTP or gRPC."""

import subprocess
import time

from cluster import inside
from kube import GrpcLoad, Load, is_ready, pods_of, until
from report import Problem, expect
from serving_checks import NAMESPACE

LOAD = ["--clients", 6, "--rate", 12]
ENDS = "Upgrades, drains, and the end of pods"  # the heading of their commands in docs/kubernetes.md


def check(report, kube, service, quick):
    report.check("upgrade under load: 0 failed", upgrade, kube, service)
    if not quick:
        report.check("rollback under load: 0 failed", rollback, kube, service)
        report.check("a pod of each kind deleted under load: 0 failed", delete_pods, kube, service)
    report.check("experts 2 -> 4 -> 2 under load: 0 failed, new pods used within 5 s", scale_experts, kube, service)
    if not quick:
        report.check("two controllers by mistake under load: 0 failed", two_controllers, kube, service)
        report.check("a disruption budget that allows none holds an eviction back", budget_holds, kube, service)
        report.check("a node drained under load: 0 failed", drain, kube, service)


def under_load(service, action, *arguments, after=3):
    load, grpc = Load(service, *LOAD), GrpcLoad(service)
    with load, grpc:
        time.sleep(1)
        note = action(*arguments)
        time.sleep(after)
    return f"{load.no_failures()}; {grpc.no_failures()}" + (f"; {note}" if note else "")


def upgrade(kube, service):
    def act():
        kube.document.run(ENDS, 0)
        wait_settled(kube)

    return under_load(service, act)


def rollback(kube, service):
    def act():
        kube.document.run(ENDS, 1)
        wait_settled(kube)

    return under_load(service, act)


def wait_settled(kube, seconds=60):
    """Until all pods that there are to be are ready, and those that end have ended."""

    def settled():
        pods = kube.objects("pods", NAMESPACE, "app.kubernetes.io/instance=demo")
        deployments = kube.objects("deployments", NAMESPACE)
        return all(map(is_ready, pods)) and len(pods) == sum(entry["spec"]["replicas"] for entry in deployments)

    until("all pods are ready, and no others are there", seconds, settled, every=0.5)


def delete_pods(kube, service):
    def act():
        for component in ("controller", "gateway", "engine", "expert"):
            pod = kube.objects("pods", NAMESPACE, pods_of(component))[0]["metadata"]["name"]
            kube.kubectl("delete", "pod", "-n", NAMESPACE, pod, "--wait=false")
        wait_settled(kube)

    return under_load(service, act)


def scale_experts(kube, service):
    notes = []

    def act():
        old = {pod["metadata"]["name"] for pod in kube.objects("pods", NAMESPACE, pods_of("expert"))}
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-expert-main", "--replicas=4")
        notes.append(f"used {used_after_ready(kube, old):.1f} s after they were ready")
        began = time.monotonic()
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-expert-main", "--replicas=2")
        wait_settled(kube)
        notes.append(f"two gone after {time.monotonic() - began:.1f} s")

    return under_load(service, act) + "; " + ", ".join(notes)


def rows(pod):
    """Rows that a worker has computed, from its metrics."""
    text = scrape(pod["status"]["podIP"], 9030)
    expect("conclave_worker_experts" in text, f"the metrics of {pod['metadata']['name']} are not those of a worker:\n{text[:500]}")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("conclave_worker_rows_total"))


def scrape(address, port):
    result = subprocess.run(inside(1, "curl", "-sSf", "--max-time", "5", f"http://{address}:{port}/metrics"), capture_output=True, text=True)
    expect(result.returncode == 0, f"metrics of {address}:{port}: {result.stderr.strip()}")
    return result.stdout


def used_after_ready(kube, old):
    """The longest time from a new worker's readiness to its first row, in seconds."""
    ready, used = {}, {}
    end = time.monotonic() + 40
    while len(used) < 2:
        expect(time.monotonic() < end, f"new workers: {len(ready)} ready, {len(used)} used after 40 s")
        for pod in kube.objects("pods", NAMESPACE, pods_of("expert")):
            name = pod["metadata"]["name"]
            if name in old or not is_ready(pod):
                continue
            ready.setdefault(name, time.monotonic())
            if name not in used and rows(pod) > 0:
                used[name] = time.monotonic()
        time.sleep(0.2)
    longest = max(used[name] - ready[name] for name in used)
    expect(longest <= 5, f"a new worker computed its first row {longest:.1f} s after it was ready")
    return longest


def two_controllers(kube, service):
    def act():
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-controller", "--replicas=2")
        until("two controllers run", 30, lambda: len(running(kube, "controller")) == 2)
        time.sleep(8)
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-controller", "--replicas=1")
        wait_settled(kube)

    return under_load(service, act)


def running(kube, component):
    return [pod for pod in kube.objects("pods", NAMESPACE, pods_of(component)) if pod["status"]["phase"] == "Running"]


def budget_holds(kube, service):
    """The engines' budget, set to nothing, stops the drain of a node that has one; as it was, it lets the same drain pass."""
    budget, chosen = "demo-conclave-engine-main", pods_of("engine", "main")
    node = kube.objects("pods", NAMESPACE, chosen)[0]["spec"]["nodeName"]
    words = ["drain", node, f"--pod-selector={chosen}", "--delete-emptydir-data"]

    def set_budget(count):
        kube.kubectl("patch", "poddisruptionbudget", "-n", NAMESPACE, budget, "--type=merge", "-p", f'{{"spec": {{"maxUnavailable": {count}}}}}')

    def allow(count):
        set_budget(count)
        until(f"the budget allows {count}", 20, lambda: kube.object("poddisruptionbudget", NAMESPACE, budget)["status"]["disruptionsAllowed"] == count)

    def act():
        before = {pod["metadata"]["name"] for pod in kube.objects("pods", NAMESPACE, chosen)}
        try:
            allow(0)
            text = kube.refused("kubectl", *words, "--timeout=8s")
            expect("violate the pod's disruption budget" in text, text)
            after = {pod["metadata"]["name"] for pod in kube.objects("pods", NAMESPACE, chosen) if is_ready(pod)}
            expect(after == before, f"engines were {sorted(before)}, and are {sorted(after)}")
            allow(1)
            kube.kubectl(*words, "--timeout=60s", timeout=70)
        finally:
            set_budget(1)
            kube.kubectl("uncordon", node)
            wait_settled(kube)

    return under_load(service, act)


def drain(kube, service):
    def act():
        try:
            kube.document.run(ENDS, 2, NODE="node2")
            left = [pod for pod in kube.objects("pods", NAMESPACE) if pod["spec"].get("nodeName") == "node2"]
            if left:
                raise Problem(f"{len(left)} pods are still on node2")
            wait_settled(kube)
        finally:
            kube.document.run(ENDS, 3, NODE="node2")

    return under_load(service, act)
