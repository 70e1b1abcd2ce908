"""The programs of the test cluster: from an archive where there is one, else built from their Go modules.

`KUBE_ARCHIVE` names a folder with bin/kube.zst (the control plane and kubelet in one program, which looks at its own name) and
bin/tools.tar.zst (helm, kubeconform, coredns, prometheus, prometheus-adapter). Both ways give the versions below and of
modules/*/go.mod. Building takes some twenty minutes on two cores, once: the results are kept beside the cluster's work files.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import image
from report import Problem

HERE = pathlib.Path(__file__).resolve().parent
KUBERNETES = "1.33.13"
ARCHIVED = ("bin/kube.zst", "bin/tools.tar.zst")
KUBE_NAMES = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
# Program -> (module folder, package, build tags); versions and checksums are in each folder's go.mod and go.sum.
TOOLS = {
    "coredns": ("coredns", ".", ""),
    "prometheus": ("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", "remove_all_sd,enable_kubernetes_sd,enable_dns_sd"),
    "prometheus-adapter": ("adapter", "sigs.k8s.io/prometheus-adapter/cmd/adapter", ""),
}
INSTALLED = ["helm.sh/helm/v3/cmd/helm@v3.22.0", "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"]


def cache():
    return pathlib.Path(os.environ.get("CONCLAVE_KUBERNETES_FOLDER", "/var/tmp/conclave-kubernetes"))


def versions():
    """What the programs are built from: other versions make another text."""
    text = json.dumps([KUBERNETES, KUBE_NAMES, TOOLS, INSTALLED])
    for file in sorted(HERE.glob("modules/*/*")):
        text += file.read_text() if file.is_file() else ""
    return hashlib.sha256(text.encode()).hexdigest()


def stamp():
    """Of what the programs come from: the versions, and with an archive its files."""
    archive = os.environ.get("KUBE_ARCHIVE")
    files = [pathlib.Path(archive) / file for file in ARCHIVED] if archive else []
    return "\n".join([versions(), *(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.exists())])


def are_there():
    """Without an archive those that came from one are as good, of the same versions."""
    done = cache() / "bin" / ".complete"
    wanted = stamp()
    return done.exists() and (done.read_text() == wanted or done.read_text().startswith(wanted + "\n"))


def folder():
    """Where the programs lie, unpacked or built by now."""
    archive = os.environ.get("KUBE_ARCHIVE")
    target = cache() / "bin"
    if are_there():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if archive:
        unpack(pathlib.Path(archive), target)
    else:
        build(target)
    for name in KUBE_NAMES:
        (target / name).symlink_to("kube")
    found = json.loads(subprocess.run([target / "kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True).stdout)
    if found["clientVersion"]["gitVersion"] != f"v{KUBERNETES}":
        raise Problem(f"the archive {archive} has Kubernetes {found['clientVersion']['gitVersion']}; v{KUBERNETES} was wanted")
    (target / ".complete").write_text(stamp())
    return target


def unpack(archive, target):
    for file in ARCHIVED:
        if not (archive / file).exists():
            raise Problem(f"KUBE_ARCHIVE is {archive}, where {file} is missing; unset it to build from Go modules")
    subprocess.run(["zstd", "-dqf", archive / "bin/kube.zst", "-o", target / "kube"], check=True)
    subprocess.run(["tar", "--zstd", "-C", target, "-xf", archive / "bin/tools.tar.zst"], check=True)
    (target / "kube").chmod(0o755)


def build(target):
    if not shutil.which("go"):
        raise Problem("building the test cluster's programs needs Go 1.25 or later; or set KUBE_ARCHIVE to a folder with them")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=mod"}
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor=33 -X {version}.gitTreeState=clean"
    go(environment, "kube", "build", "-trimpath", "-ldflags", flags, "-o", target / "kube", "./cmd")
    for name, (module, package, tags) in TOOLS.items():
        go(environment, module, "build", "-trimpath", "-tags", tags, "-ldflags", "-s -w", "-o", target / name, package)
    for package in INSTALLED:
        go({**environment, "GOBIN": str(target)}, ".", "install", "-trimpath", "-ldflags", "-s -w", package)


def go(environment, module, *words):
    print(f"go {words[0]} {module}")
    subprocess.run(["go", *map(str, words)], cwd=HERE / "modules" / module, env=environment, check=True)


def make_images(images):
    """The archives of the cluster's own images in the folder `images`, where those of these programs are not there yet."""
    images.mkdir(parents=True, exist_ok=True)
    programs = folder()
    made = images / ".made-of"
    if not made.exists() or made.read_text() != versions():
        for name in ("pause", "coredns", "prometheus", "prometheus-adapter"):
            (images / f"{name}.tar").unlink(missing_ok=True)
    if not (images / "pause.tar").exists():
        pause = images / "pause"
        subprocess.run(["cc", "-static", "-O2", "-o", pause, HERE / "pause.c"], check=True)
        image.write(images / "pause.tar", "localhost/pause:1", "/pause", {"/pause": pause})
    for name in ("coredns", "prometheus", "prometheus-adapter"):
        if not (images / f"{name}.tar").exists():
            image.write(images / f"{name}.tar", f"localhost/{name}:1", f"/{name}", {f"/{name}": programs / name})
    made.write_text(versions())
