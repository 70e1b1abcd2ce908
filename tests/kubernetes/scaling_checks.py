"""Pods that follow the load: HorizontalPodAutoscalers on the metrics of Prometheus, through prometheus-adapter.

The load is of paced streams, 20 tokens at 10 a second: each lasts two seconds and costs little, so that two cores carry the step.
"""

import json
import time
import urllib.parse

import yaml
from kube import CHART, HERE, ROOT, Load, is_ready, pods_of, until
from report import Problem, expect
from serving_checks import NAMESPACE, VALUES

STREAM = ["--pace", 10, "--tokens", 20]
IDEAL_SECONDS = 2.0
SLO_SECONDS = 3.0  # 95 of 100 streams, with two processors for all pods
STEP = 5
DEPLOYMENTS = {
    "gateway": "demo-conclave-gateway",
    "engine": "demo-conclave-engine-main",
    "expert": "demo-conclave-expert-main",
    "small": "demo-conclave-expert-small",
}


def check(report, kube, service):
    if not report.check("Prometheus, its adapter and the autoscalers start", start, kube):
        return
    report.check("every autoscaler sees all its metrics", metrics_are_there, kube)
    report.check(f"load x{STEP}: gateways and experts scaled out and within the SLO <= 30 s after it", step, kube, service)
    report.check("Prometheus down: nothing is scaled, nothing fails", without_prometheus, kube, service)
    report.check("scaled down again when the load is over: 0 failed", down, kube, service)
    report.check("P99 of first tokens, KV use, queued tokens, queue time above their targets: each adds to its own pool", breach, kube, service)


# What the tests change of deploy/kubernetes/monitoring.yaml: the images are of this cluster, on the node that is never lost, and
# everything is read and given up within seconds.
MANIFEST = ROOT / "deploy/kubernetes/monitoring.yaml"
OURS = {
    "docker.io/prom/prometheus:v3.5.0": "localhost/prometheus:1",
    "registry.k8s.io/prometheus-adapter/prometheus-adapter:v0.12.0": "localhost/prometheus-adapter:1",
    "      serviceAccountName: monitoring\n": "      serviceAccountName: monitoring\n      nodeSelector: {kubernetes.io/hostname: node1}\n",
    "scrape_interval: 15s, evaluation_interval: 15s": "scrape_interval: 2s, evaluation_interval: 2s",
    "--metrics-relist-interval=30s": "--metrics-relist-interval=5s",
    "--metrics-max-age=2m": "--metrics-max-age=20s",
    "--config.auto-reload-interval=10s": "--config.auto-reload-interval=1s",
    "readinessProbe: {": "readinessProbe: {periodSeconds: 1, ",
}


def start(kube):
    text = MANIFEST.read_text()
    for theirs, ours in OURS.items():
        expect(theirs in text, f"{MANIFEST.name} has no {theirs!r}")
        text = text.replace(theirs, ours)
    kube.document.replace("deploy/kubernetes/monitoring.yaml", text)
    kube.document.run("Monitoring", 0)
    kube.document.run("Monitoring", 1)
    rules_are_alike(kube)
    kube.document.run("Scaling", 0)
    upgrade(kube, "--wait", "--timeout", "90s")
    kube.wait_rollout("monitoring", "prometheus-adapter", 60)


def rules_are_alike(kube):
    """Those of the operator's objects and those of the files, which Prometheus has read."""
    files = kube.object("configmap", "monitoring", "demo-conclave-rules")["data"]
    for kind in ("recording", "alerts"):
        spec = kube.object("prometheusrule", NAMESPACE, f"demo-conclave-{kind}")["spec"]
        expect(yaml.safe_load(files[f"{kind}.yaml"]) == spec, f"the PrometheusRule and the file of the {kind} rules differ")
    wanted = {group["name"] for text in files.values() for group in yaml.safe_load(text)["groups"]}
    until("Prometheus has the rules", 60, lambda: wanted == {group["name"] for group in ask(kube, "rules")["groups"]}, every=0.5)


def upgrade(kube, *words):
    kube.helm("upgrade", "demo", CHART, "-n", NAMESPACE, *VALUES, "-f", HERE / "scaling.yaml", *words, timeout=100)


def load_rules(kube, change):
    """Gives Prometheus the groups of the installed PrometheusRules, changed."""
    installed = {rule["metadata"]["name"]: change(rule["spec"]["groups"]) for rule in kube.objects("prometheusrule", NAMESPACE)}
    expect(len(installed) == 2, f"PrometheusRules: {sorted(installed)}")
    # In the place of the chart's files: both together would record the same series.
    rules = {f"{name.removeprefix('demo-conclave-')}.yaml": json.dumps({"groups": groups}) for name, groups in installed.items()}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo-conclave-rules", "namespace": "monitoring"}, "data": rules}
    kube.apply(json.dumps(config))


def query(kube, expression):
    """The series that Prometheus answers."""
    return ask(kube, "query?" + urllib.parse.urlencode({"query": expression}))["result"]


def ask(kube, what):
    return json.loads(kube.kubectl("get", "--raw", f"/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/{what}"))["data"]


def metrics_are_there(kube, count=len(DEPLOYMENTS)):
    def seen():
        scalers = kube.objects("hpa", NAMESPACE)
        active = [condition for scaler in scalers for condition in scaler["status"].get("conditions", []) if condition["type"] == "ScalingActive"]
        full = all(len(scaler["status"].get("currentMetrics") or []) == len(scaler["spec"]["metrics"]) for scaler in scalers)
        valid = all(any(entry.values()) for scaler in scalers for entry in scaler["status"].get("currentMetrics") or [])
        return len(scalers) == len(active) == count and full and valid and all(c["status"] == "True" for c in active)

    try:
        until("the autoscalers are active", 60, seen, every=1)
        kube.document.run("Scaling", 1)
    except Problem:
        states = [scaler["status"] for scaler in kube.objects("hpa", NAMESPACE)]
        raise Problem(f"not active within 60 s: {json.dumps(states)[:3000]}") from None
    return ", ".join(sorted(scaler["metadata"]["name"] for scaler in kube.objects("hpa", NAMESPACE)))


def ready(kube, component, pool=None):
    pool = pool or ("main" if component != "gateway" else None)
    return sum(map(is_ready, kube.objects("pods", NAMESPACE, pods_of(component, pool))))


def counts(kube):
    return {component: kube.object("deployment", NAMESPACE, name)["spec"]["replicas"] for component, name in DEPLOYMENTS.items()}


def step(kube, service):
    with Load(service, "--clients", 4, *STREAM) as low:
        until("scaled to what little load needs", 90, lambda: counts(kube)["gateway"] == 1 and ready(kube, "gateway") == 1, every=1)
        before = counts(kube)
        time.sleep(5)
    with Load(service, "--clients", 4 * STEP, *STREAM) as high:
        until("gateways and experts scaled out", 30, lambda: ready(kube, "gateway") >= 3 and ready(kube, "expert") > before["expert"], every=0.5)
        scaled = high.second()
        time.sleep(max(0, 42 - scaled))
        after = counts(kube)
    low.no_failures(5)
    high.no_failures(50)
    expect(after["small"] == before["small"] == 1, f"the pool with few experts was scaled with the other: {before} -> {after}")
    late = sorted(length for at, length in high.result["times"] if at >= 30)
    expect(len(late) >= 20, f"only {len(late)} streams after 30 s")
    p95 = late[len(late) * 95 // 100]
    expect(p95 <= SLO_SECONDS, f"30 s after the step the 95th percentile of streams is {p95:.2f} s, wanted {SLO_SECONDS}; longest by ten seconds: {longest(high)}")
    return f"{before} -> {after} in {scaled:.0f} s; from 30 s on p95 {p95:.2f} s of streams of {IDEAL_SECONDS} s; {high.no_failures()}"


def longest(load):
    tens = {}
    for at, length in load.result["times"]:
        tens[int(at // 10)] = max(length, tens.get(int(at // 10), 0))
    return tens


def breach(kube, service):
    """More streams than sequences, and for each pool a target that it misses: of all that its autoscaler looks at nothing else asks for more."""
    before = counts(kube)
    few = {"engine": 2, "expert": 2, "small": 1}
    expect(before | few == before, f"{before} before anything is breached, {few} were wanted")
    wanted = {("engine", "main"): 3, ("engine", "kv"): 2, ("engine", "queue"): 2, ("expert", "small"): 2}
    took = {}
    with Load(service, "--clients", 60, "--pace", 5, "--tokens", 20) as load:
        try:
            upgrade(kube, "-f", HERE / "pools.yaml", "--wait", "--timeout", "90s")
            metrics_are_there(kube, len(DEPLOYMENTS) + 2)
            upgrade(kube, "-f", HERE / "pools.yaml", "-f", HERE / "breach.yaml")
            began = time.monotonic()

            def grown():
                for pool, count in wanted.items():
                    if pool not in took and ready(kube, *pool) >= count:
                        took[pool] = time.monotonic() - began
                return len(took) == len(wanted)

            try:
                until("one more in each pool", 90, grown, every=0.5)
            except Problem as problem:
                raise Problem(f"{problem}; more in {sorted(took)}; {[scaler['status'] for scaler in kube.objects('hpa', NAMESPACE)]}") from None
            after = counts(kube)
        finally:
            upgrade(kube)
        expect(after["expert"] == before["expert"], f"main experts were scaled with the small pool: {before} -> {after}")
    until("they go again", 90, lambda: ready(kube, "engine") == 2 and ready(kube, "expert") == 2 and ready(kube, "expert", "small") == 1, every=0.5)
    until("the pools that are no more are gone", 30, lambda: not (ready(kube, "engine", "kv") or ready(kube, "engine", "queue")), every=0.5)
    return f"after {', '.join(f'{took[pool]:.0f} s ({pool[1]})' for pool in wanted)}; {load.no_failures(10)}"


def without_prometheus(kube, service):
    before = counts(kube)
    expect(before["gateway"] > 1 or before["expert"] > 2, f"{before}: nothing could be scaled down")
    kube.kubectl("scale", "-n", "monitoring", "deployment/prometheus", "--replicas=0")
    try:
        kube.apply(json.dumps(refusing(kube)))
        with Load(service, "--clients", 4, *STREAM) as load:
            # No load to speak of: with metrics the autoscalers would go down within seconds.
            def blind():
                now = counts(kube)
                expect(all(now[name] >= before[name] for name in now), f"scaled from {before} to {now}")
                return not sighted(kube)

            try:
                until("the autoscalers say that they see nothing", 90, blind, every=1)
                for _ in range(12):
                    time.sleep(1)
                    expect(blind(), "an autoscaler sees again")
            except Problem as problem:
                raise Problem(f"{problem}; these see: {sighted(kube)}; Prometheus' pods: {monitoring_pods(kube)}") from None
    finally:
        kube.kubectl("scale", "-n", "monitoring", "deployment/prometheus", "--replicas=1")
        kube.kubectl("delete", "endpointslice", "-n", "monitoring", "prometheus-refuses", "--ignore-not-found")
        kube.wait_rollout("monitoring", "prometheus", 60)
    return f"held {before}; {load.no_failures(10)}"


def refusing(kube):
    """An address of Prometheus' Service where nobody listens: its clients are refused at once, and need not wait for their timeouts."""
    addresses = [entry["address"] for entry in kube.object("node", "default", "node1")["status"]["addresses"] if entry["type"] == "InternalIP"]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "prometheus-refuses", "namespace": "monitoring", "labels": {"kubernetes.io/service-name": "prometheus"}},
        "endpoints": [{"addresses": addresses, "conditions": {"ready": True}}], "ports": [{"name": "", "port": 9090, "protocol": "TCP"}],
    }  # fmt: skip


def sighted(kube):
    """The autoscalers that have a metric, and what they say of it."""
    found = [(s["metadata"]["name"], c) for s in kube.objects("hpa", NAMESPACE) for c in s["status"]["conditions"] if c["type"] == "ScalingActive"]
    return {name: condition["message"] for name, condition in found if condition["status"] != "False"}


def monitoring_pods(kube):
    return [pod["metadata"]["name"] + " " + pod["status"]["phase"] for pod in kube.objects("pods", "monitoring")]


def down(kube, service):
    began = time.monotonic()
    with Load(service, "--clients", 2, *STREAM) as load:
        until("scaled down", 90, lambda: counts(kube)["gateway"] == 1 and counts(kube)["expert"] == 2, every=1)
        until("the others are gone", 60, lambda: ready(kube, "gateway") == 1 and ready(kube, "expert") == 2, every=1)
    return f"{time.monotonic() - began:.0f} s; {load.no_failures(5)}"
