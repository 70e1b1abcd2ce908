"""What goes wrong in clusters: pods that cannot serve say why and serve nobody, a node that is lost is made up for."""

import json
import shutil
import subprocess
import time

import scaling_checks
from kube import CHART, ROOT, Load, is_ready, pods_of, until
from load_checks import LOAD, rows, wait_settled
from report import Problem, expect
from serving_checks import NAMESPACE, VALUES

MODEL = ROOT / "models" / "tales"
VOLUMES = ("good", "short", "packed", "other")
LOST = 'ALERTS{alertname="ConclaveWorkerLost",alertstate="firing"}'


def check(report, kube, service):
    volumes = kube.cluster.folder / "volumes"
    report.check("wrong pods under load say what is wrong and never serve: 0 failed", wrong_pods, kube, service, volumes)
    report.check("a node lost under load: everything is back, and the alert fires", node_loss, kube, service)


def make_volume(kube, name, folder):
    """A volume of a folder of this machine, and the claim that a pod names."""
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "hostPath": {"path": str(folder)},
            "storageClassName": "", "claimRef": {"namespace": NAMESPACE, "name": name},
        },
    }  # fmt: skip
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    kube.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]}))


def wrong_pods(kube, service, volumes):
    shutil.rmtree(volumes, ignore_errors=True)
    shutil.copytree(MODEL, volumes / "good")
    shutil.copytree(MODEL, volumes / "short")
    for file in (volumes / "short").glob("*.safetensors"):
        with open(file, "r+b") as weights:
            weights.truncate(file.stat().st_size // 2)
    # The same model in one file, and one of another class, whose fingerprint is another.
    for name, numerics in (("packed", "bf16"), ("other", "int8")):
        (volumes / name).mkdir()
        subprocess.run([ROOT / "build/conclave", "pack", MODEL, "--format", numerics, "--out", volumes / name / "tales.pack"], check=True, capture_output=True)
    for name in VOLUMES:
        make_volume(kube, name, volumes / name)
    pools = {
        "good": {"model": claim("good")},
        "packed": {"model": {**claim("packed"), "file": "tales.pack"}},
        "absent": {"model": claim("nowhere")},
        "short": {"model": claim("short")},
        "other": {"model": {**claim("other"), "file": "tales.pack"}},
        "tight": {"resources": {"requests": {"memory": "32Mi"}, "limits": {"memory": "64Mi"}}},
    }
    poor = {"settings": {"kv_memory": "4GiB"}, "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "256Mi"}}}
    values = json.dumps({
        "experts": {"pools": {name: {"replicas": 1, **pool} for name, pool in pools.items()}},
        "engines": {"pools": {"poor": {"replicas": 1, **poor}}},
    })  # fmt: skip
    try:
        with Load(service, *LOAD) as load:
            note = they_say(kube, values)
    finally:
        kube.kubectl("delete", "deployment,secret", "-n", NAMESPACE, "--ignore-not-found", "demo-conclave-expert-stranger", "stranger")
        kube.helm("upgrade", "demo", CHART, "-n", NAMESPACE, *VALUES, "--wait", "--timeout", "90s", timeout=100)
        wait_settled(kube)
        kube.kubectl("delete", "pvc", "-n", NAMESPACE, *VOLUMES)
        kube.kubectl("delete", "pv", *VOLUMES)
    return f"{note}; {load.no_failures()}"


def they_say(kube, values):
    kube.helm("upgrade", "demo", CHART, "-n", NAMESPACE, *VALUES, "-f", "-", stdin=values)
    stranger(kube)
    notes = [
        said(kube, "absent", 'persistentvolumeclaim "nowhere" not found'),
        said(kube, "short", "model.safetensors"),
        said(kube, "stranger", "another cluster secret"),
        said(kube, "poor", "engine.kv_memory is 4.0 GiB and ", "engine"),
        said(kube, "tight", "are for itself and frames in flight: no expert of"),
        said(kube, "other", "it gets no work until an engine serves the same checkpoint and numerics"),
    ]
    for pool in ("good", "packed"):
        kube.wait_rollout(NAMESPACE, f"demo-conclave-expert-{pool}", 60)
    for pool, component in (("absent", "expert"), ("short", "expert"), ("stranger", "expert"), ("tight", "expert"), ("poor", "engine")):
        for pod in kube.objects("pods", NAMESPACE, pods_of(component, pool)):
            expect(not any(status["ready"] for status in pod["status"].get("containerStatuses", [])), f"the pod of {pool} is ready")
    others = kube.objects("pods", NAMESPACE, pods_of("expert", "other"))
    expect(len(others) == 1, f"{len(others)} pods have another fingerprint, 1 was wanted")
    expect(not is_ready(others[0]), "a worker with another fingerprint is ready")
    expect(rows(others[0]) == 0, "a worker with another fingerprint has computed rows")
    return f"{len(notes)} kinds, and two volumes that are good, one of them of a packed file"


def claim(name):
    return {"delivery": "persistentVolumeClaim", "persistentVolumeClaim": {"claimName": name}}


def stranger(kube):
    """A worker with another secret, as if it were of another installation."""
    kube.kubectl("create", "secret", "generic", "-n", NAMESPACE, "stranger", "--from-literal=secret=0123456789abcdef0123456789abcdef")
    found = json.dumps(kube.object("deployment", NAMESPACE, "demo-conclave-expert-main"))
    deployment = json.loads(found.replace('"conclave.dev/pool": "main"', '"conclave.dev/pool": "stranger"').replace("demo-conclave-cluster", "stranger"))
    apply_copy(kube, deployment, "demo-conclave-expert-stranger")


def apply_copy(kube, deployment, name):
    """One pod of what was read as another deployment."""
    deployment["metadata"] = {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/instance": "demo"}}
    deployment["spec"]["replicas"] = 1
    deployment.pop("status")
    kube.apply(json.dumps(deployment))


def said(kube, pool, words, component="expert"):
    """Until the pod of a pool says `words` in an event, its state or its log."""
    texts = []

    def says():
        texts.clear()
        for pod in kube.objects("pods", NAMESPACE, pods_of(component, pool)):
            name = pod["metadata"]["name"]
            events = [event["message"] for event in kube.objects("events", NAMESPACE) if event["involvedObject"].get("name") == name]
            logs = [kube.logs(NAMESPACE, name, *previous) for previous in ((), ("--previous",))]
            texts.extend(events + logs + [json.dumps(pod["status"])])
        return any(words in text for text in texts)

    try:
        until(f"the pod of {pool} says {words!r}", 40, says, every=1)
    except Problem as problem:
        raise Problem(f"{problem}; it says:\n" + "\n".join(text[-1500:] for text in texts)) from None


def node_loss(kube, service):
    """Node 2 has no controller, which counts the lost members, but an engine or a worker."""
    keep_off(kube, "controller", "node2")
    members = [pod for kind in ("engine", "expert") for pod in kube.objects("pods", NAMESPACE, pods_of(kind)) if pod["spec"].get("nodeName") == "node2"]
    expect(members, "no engine and no worker is on node 2")
    expect(not scaling_checks.query(kube, LOST), "the alert of lost workers fires before one is lost")
    try:
        note = lose_node(kube, service)
    finally:
        kube.cluster.start_node(2)
        until("node 2 is back", 60, lambda: "True" in node_state(kube, "node2"), every=1)
    wait_settled(kube, 90)
    return note


def lose_node(kube, service):
    load = Load(service, *LOAD)
    with load:
        time.sleep(2)
        lost = time.monotonic()
        kube.cluster.stop_node(2)
        until("the alert ConclaveWorkerLost fires", 30, lambda: scaling_checks.query(kube, LOST), every=0.5)
        fired = time.monotonic() - lost
        until("everything is ready on node 1", 90, lambda: is_back(kube) and service.answers(), every=1)
        took = time.monotonic() - lost
    with Load(service, *LOAD) as after:
        time.sleep(5)
    after.no_failures()
    failed = len(load.result["failures"])
    return f"alert after {fired:.0f} s, back after {took:.0f} s; {failed} of {load.result['requests'] + failed} requests failed meanwhile, none after"


def is_back(kube):
    """As many pods are ready on node 1 as there are to be. (Until node 2 counts as lost, its own count as ready, too.)"""
    there = sum(is_ready(pod) and pod["spec"].get("nodeName") == "node1" for pod in kube.objects("pods", NAMESPACE, "app.kubernetes.io/instance=demo"))
    return there == sum(entry["spec"]["replicas"] for entry in kube.objects("deployments", NAMESPACE))


def keep_off(kube, component, node):
    """Has the one pod of a component run on another node."""
    for pod in kube.objects("pods", NAMESPACE, pods_of(component)):
        if pod["spec"]["nodeName"] == node:
            kube.kubectl("cordon", node)
            try:
                kube.kubectl("delete", "pod", "-n", NAMESPACE, pod["metadata"]["name"])
                wait_settled(kube)
            finally:
                kube.kubectl("uncordon", node)


def node_state(kube, node):
    return [c["status"] for c in kube.object("node", "default", node)["status"]["conditions"] if c["type"] == "Ready"]
