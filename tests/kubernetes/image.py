"""OCI image archives of single programs, written without any container tool. (deploy/images makes those of Conclave.)"""

import hashlib
import io
import json
import os
import tarfile


def write(archive, reference, entry, files):
    """An archive of one layer. `files`: path in the image -> file here. The same input gives the same bytes."""
    layer = tar([(path.lstrip("/"), open(file, "rb").read(), 0o755 if os.access(file, os.X_OK) else 0o644) for path, file in files.items()])
    blobs = {}

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    layer_entry = blob(layer, "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": [entry]},
        "rootfs": {"type": "layers", "diff_ids": [layer_entry["digest"]]},
    }  # fmt: skip
    config_entry = blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config_entry,
        "layers": [layer_entry],
    }  # fmt: skip
    entry_of_manifest = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    entry_of_manifest["annotations"] = {"io.containerd.image.name": reference}
    index = {"schemaVersion": 2, "manifests": [entry_of_manifest]}
    contents = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644), ("index.json", json.dumps(index).encode(), 0o644)]
    contents += [(f"blobs/sha256/{digest}", data, 0o644) for digest, data in blobs.items()]
    with open(archive, "wb") as output:
        output.write(tar(contents))


def tar(entries):
    """A tar of (path, bytes, mode), with the folders above them and /tmp."""
    buffer = io.BytesIO()
    folders = {"tmp": 0o1777}
    for path, _, _ in entries:
        while path := os.path.dirname(path):
            folders.setdefault(path, 0o755)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, mode in sorted(folders.items()):
            member = tarfile.TarInfo(path)
            member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member)
        for path, data, mode in entries:
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
