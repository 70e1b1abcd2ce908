"""The definitions of the objects that are no part of Kubernetes itself, from the Go modules of those who define them."""

import json
import os
import pathlib
import shutil
import subprocess

import binaries
from report import Problem

# (module@version, checksum as in go.sum, files in it)
SOURCES = [
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        ["example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
         "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"],
    ),
    ("github.com/kedacore/keda/v2@v2.17.2", "h1:xlrcK5TKABJF9PebK79sgL07s/csGjL3H4m72OkZXxk=", ["config/crd/bases/keda.sh_scaledobjects.yaml"]),
    ("github.com/cert-manager/cert-manager@v1.18.2", "h1:H2P75ycGcTMauV3gvpkDqLdS3RSXonWF2S49QGA1PZE=", ["deploy/crds/crd-certificates.yaml"]),
]  # fmt: skip


def are_there():
    done = binaries.cache() / "crds" / ".complete"
    return done.exists() and done.read_text() == json.dumps(SOURCES)


def folder():
    """Where the definitions lie; asks the Go module proxy the first time only."""
    target = binaries.cache() / "crds"
    if are_there():
        return target
    if not shutil.which("go"):
        raise Problem("the definitions of custom resources come from Go modules, the first time: install Go 1.25 or later")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for module, checksum, files in SOURCES:
        result = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, cwd=target, timeout=300)
        try:
            answer = json.loads(result.stdout)
        except ValueError:
            raise Problem(f"go mod download {module}: {result.stderr.strip()}") from None
        if answer.get("Error"):
            raise Problem(f"go mod download {module}: {answer['Error']}")
        if answer["Sum"] != checksum:
            raise Problem(f"{module} has the checksum {answer['Sum']}; {checksum} was wanted")
        for file in files:
            path = target / os.path.basename(file)
            shutil.copyfile(pathlib.Path(answer["Dir"]) / file, path)
            path.chmod(0o644)
    (target / ".complete").write_text(json.dumps(SOURCES))
    return target
