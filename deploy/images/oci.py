"""Packs root file systems into OCI image archives: oci.py VERSION STAGING OUT

STAGING/NAME is the root file system of the image localhost/conclave-NAME:VERSION, NAME.Containerfile beside this script
the settings it is run with. Writes OUT/conclave-NAME.tar. What all root file systems of STAGING have in common is the
first layer of each, the rest the second. Layers are not compressed, entries are sorted, and all times are
SOURCE_DATE_EPOCH, so that the bytes depend on the content alone."""

import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import sys
import tarfile
import time

CONTAINER_FILES = pathlib.Path(__file__).resolve().parent
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# All is root's but where the programs write: a volume mounted there empty gets the owner from the image.
OWNERS = {"var/lib/conclave": 65532, "models": 65532}


def settings(container_file):
    """The run settings of an OCI image: the instructions of a container file's last stage."""
    text = container_file.read_text().replace("\\\n", " ")
    stage = re.split(r"^FROM .*$", text, flags=re.MULTILINE)[-1]
    config = {"Env": ["PATH=/usr/bin"]}
    for line in stage.splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "USER":
            config["User"] = rest
        elif word == "WORKDIR":
            config["WorkingDir"] = rest
        elif word == "ENV":
            config["Env"] += shlex.split(rest)
        elif word == "LABEL":
            config.setdefault("Labels", {}).update(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "EXPOSE":
            config["ExposedPorts"] = {f"{port}/tcp": {} for port in rest.split()}
        elif word == "VOLUME":
            config["Volumes"] = {path: {} for path in json.loads(rest)}
        elif word == "ENTRYPOINT":
            config["Entrypoint"] = json.loads(rest)
        elif word == "CMD":
            config["Cmd"] = json.loads(rest)
        elif word == "HEALTHCHECK":
            # Docker's addition to the format; others pass over it. Times are nanoseconds.
            flags, _, command = rest.partition("CMD")
            health = {"Test": ["CMD", *json.loads(command)]}
            for name, seconds in re.findall(r"--([a-z-]+)=(\d+)s", flags):
                health["".join(part.title() for part in name.split("-"))] = int(seconds) * 10**9
            config["Healthcheck"] = health
        elif word and not word.startswith("#") and word != "COPY":
            sys.exit(f"error: {container_file}: the instruction {word} of the last stage has no meaning here")
    return config


def files(root):
    """Path in the image -> (kind, mode, content), of all that lies under a folder."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = pathlib.Path(folder, name)
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = (tarfile.SYMTYPE, 0o777, os.readlink(path))
            elif path.is_dir():
                found[key] = (tarfile.DIRTYPE, path.stat().st_mode & 0o7777, None)
            else:
                found[key] = (tarfile.REGTYPE, path.stat().st_mode & 0o7777, path.read_bytes())
    return found


def tar(entries):
    """The bytes of a tar file with these entries in the order of their paths."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(entries):
            kind, mode, content = entries[path]
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.mtime = kind, mode, EPOCH
            entry.uid = entry.gid = OWNERS.get(path, 0)
            if kind == tarfile.SYMTYPE:
                entry.linkname = content
            data = content if kind == tarfile.REGTYPE else b""
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def with_folders(paths, entries):
    """The entries of `paths` and of the folders above them."""
    chosen = set(paths)
    for path in paths:
        chosen.update(parent.as_posix() for parent in pathlib.PurePosixPath(path).parents if parent.name)
    return {path: entries[path] for path in chosen}


class Archive:
    """An OCI layout, with the manifest that `docker load` of older stores reads beside it."""

    def __init__(self):
        self.entries = {"blobs": (tarfile.DIRTYPE, 0o755, None), "blobs/sha256": (tarfile.DIRTYPE, 0o755, None)}

    def file(self, path, value):
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        self.entries[path] = (tarfile.REGTYPE, 0o644, data)
        return data

    def blob(self, value, media_type):
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.file(f"blobs/sha256/{digest}", data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}


def image(name, version, layers):
    """The bytes of an archive of one image."""
    archive = Archive()
    reference = f"localhost/conclave-{name}:{version}"
    stacked = [archive.blob(layer, "layer.v1.tar") for layer in layers]
    config = settings(CONTAINER_FILES / f"{name}.Containerfile")
    config.setdefault("Labels", {})["org.opencontainers.image.version"] = version
    described = archive.blob({
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH)),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in stacked]},
        "history": [{"created_by": "deploy/images/assemble.sh"} for _ in stacked],
    }, "config.v1+json")
    manifest = archive.blob({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described,
        "layers": stacked,
    }, "manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": version}
    archive.file("oci-layout", {"imageLayoutVersion": "1.0.0"})
    archive.file("index.json", {"schemaVersion": 2, "manifests": [manifest]})
    path_of = lambda blob: "blobs/sha256/" + blob["digest"].removeprefix("sha256:")
    archive.file("manifest.json", [{"Config": path_of(described), "RepoTags": [reference],
                                    "Layers": [path_of(layer) for layer in stacked]}])
    return tar(archive.entries)


def main(version, staging, out):
    roots = {root.name: files(root) for root in sorted(pathlib.Path(staging).iterdir())}
    programs = [entries for name, entries in roots.items() if not name.startswith("model-")]
    common = {path: entry for path, entry in programs[0].items() if all(root.get(path) == entry for root in programs)}
    base = tar(common)
    for name, entries in roots.items():
        # A model's image has another program, and few of the libraries.
        shared = common if not name.startswith("model-") else {}
        own = [path for path, entry in entries.items() if path not in shared]
        layers = ([base] if shared else []) + [tar(with_folders(own, entries))]
        path = pathlib.Path(out, f"conclave-{name}.tar")
        data = image(name, version, layers)
        path.write_bytes(data)
        print(f"{path}  {sum(len(layer) for layer in layers) / 1e6:.1f} MB  sha256:{hashlib.sha256(data).hexdigest()}")


main(*sys.argv[1:])
