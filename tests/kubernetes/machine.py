"""Whether this machine can run the test cluster: says what stands in the way, line by line, and then ends with 1."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import binaries
import crds

PROGRAMS = ["containerd", "runc", "ctr", "iptables", "conntrack", "ip", "nsenter", "unshare", "zstd", "openssl", "curl"]


def works(*command):
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def can_make_control_groups():
    root = pathlib.Path("/sys/fs/cgroup")
    tree = root if (root / "cgroup.controllers").exists() else root / "memory"
    group = tree / f"conclave-probe-{os.getpid()}"
    try:
        group.mkdir()
        group.rmdir()
    except OSError:
        return False
    return True


def can_mount_overlays():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        for name in ("lower", "upper", "work", "merged"):
            (pathlib.Path(folder) / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        return works("unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, f"{folder}/merged")


def obstacles():
    if os.geteuid() != 0:
        return ["it needs root"]
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return [f"missing programs: {' '.join(missing)} (ci/setup.sh --kubernetes installs them)"]
    found = []
    if not works("unshare", "--net", "--mount", "iptables", "-t", "nat", "-L"):
        found.append("no network namespaces with iptables' nat table")
    if not works("unshare", "--net", "ip", "link", "add", "probe", "type", "bridge"):
        found.append("no network bridges")
    if not can_make_control_groups():
        found.append("/sys/fs/cgroup takes no new groups")
    if not can_mount_overlays():
        found.append("no overlay mounts below /var/tmp")
    if not shutil.which("go"):
        if not os.environ.get("KUBE_ARCHIVE") and not binaries.are_there():
            found.append("neither KUBE_ARCHIVE nor Go, to have the cluster's programs")
        if not crds.are_there():
            found.append("no Go, to have the definitions of what is no part of Kubernetes itself (they are fetched once, from Go modules)")
    return found


if __name__ == "__main__":
    reasons = obstacles()
    for reason in reasons:
        print(reason)
    sys.exit(1 if reasons else 0)
