"""The chart on a real Kubernetes of two nodes: see ci/kubernetes.sh, which starts this."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import threading

import alert_checks
import binaries
import chart_checks
import crds
import failure_checks
import load_checks
import scaling_checks
import serving_checks
import yaml
from cluster import Cluster, until
from document import Document
from kube import Kube, is_ready
from report import Problem, Report, expect


START_SECONDS = 300  # 30 s; this is for machines that others load tenfold


def base(kube):
    """What a cluster has before an application is installed: DNS, and the kinds of objects that operators bring."""
    until("two nodes are ready", 60, lambda: sum(map(is_ready, kube.objects("nodes", "default"))) == 2)
    kube.apply((pathlib.Path(__file__).parent / "manifests/dns.yaml").read_text())
    for file in sorted(crds.folder().glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        definition["metadata"] = {"name": definition["metadata"]["name"]}  # labels may be a template of its own chart
        kube.apply(json.dumps(definition), "--server-side")
    kube.wait_rollout("kube-system", "coredns", 60)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="the shortest run that installs, asks, upgrades, changes a pool's size, and uninstalls")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running (tests/kubernetes/cluster.py down ends it)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    tools = binaries.folder()
    cluster = Cluster(tools)
    cluster.take_lock()
    document = Document(cluster, options.build)
    kube = Kube(cluster, document)
    start = Starting(cluster, document)
    try:
        start.thread.start()
        chart_checks.check(report, tools, options.build)
        if report.check("two nodes start", start.join) and report.check("the nodes are ready, DNS answers", base, kube):
            checks(report, kube, options)
    finally:
        start.thread.join(120)
        if not options.keep:
            report.check("the cluster ends, and leaves no process, namespace or mount", end, cluster)
    return 0 if report.sum() else 1


def checks(report, kube, options):
    chart_checks.check_objects(report, kube)
    serving_checks.dry_runs(report, kube)
    installed = serving_checks.install(report, kube)
    if installed is None:
        return
    load_checks.check(report, kube, installed, options.quick)
    if not options.quick:
        scaling_checks.check(report, kube, installed)
        failure_checks.check(report, kube, installed)
        alert_checks.check(report, kube, installed)
    serving_checks.uninstall(report, kube)
    if not options.quick:
        report.check("every command of docs/kubernetes.md was run", all_was_run, kube.document)


def all_was_run(document):
    left = document.not_run()
    expect(not left, "not run: " + "; ".join(left))
    return f"{len(document.done)} blocks"


class Starting:
    """Starts the cluster beside the checks that need none."""

    def __init__(self, cluster, document):
        self.cluster, self.document, self.error = cluster, document, None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            binaries.make_images(self.cluster.images)
            self.document.run("Images", 0, outside=True)
            self.cluster.up(2)
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(self.load, (1, 2)))
        except Exception as error:
            self.error = error

    def load(self, node):
        self.document.run("Images", 1, outside=True, CONTAINERD_ADDRESS=f"/run/conclave-containerd{node}/containerd.sock")

    def join(self):
        self.thread.join(START_SECONDS)
        expect(not self.thread.is_alive(), f"the nodes have not started within {START_SECONDS} s")
        if self.error is not None:
            raise self.error


def end(cluster):
    cluster.down()
    left = [entry for entry in os.listdir("/run/netns") if entry.startswith("conclave")]
    left += [line.split()[1] for line in open("/proc/mounts") if str(cluster.run) in line or "conclave-containerd" in line]
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if str(cluster.run) in command or "conclave-containerd" in command:
            left.append(command)
    if left:
        raise Problem("left: " + "; ".join(left))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Problem as problem:
        print(f"error: {problem}\n0 passed, 1 failed")
        sys.exit(1)
