"""Reads an OCI image archive, checking every digest, and unpacks its root file system. Standard library only."""

import hashlib
import io
import json
import pathlib
import tarfile


class Image:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        with tarfile.open(path) as archive:
            self.files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
            self.times = {entry.mtime for entry in archive}
            self.order = archive.getnames()
        index = json.loads(self.files["index.json"])
        self.descriptor = index["manifests"][0]
        self.manifest = json.loads(self.blob(self.descriptor))
        self.document = json.loads(self.blob(self.manifest["config"]))
        self.config = self.document["config"]
        self.layers = [self.blob(layer) for layer in self.manifest["layers"]]

    def blob(self, descriptor):
        digest = descriptor["digest"].removeprefix("sha256:")
        data = self.files[f"blobs/sha256/{digest}"]
        assert hashlib.sha256(data).hexdigest() == digest and len(data) == descriptor["size"], descriptor
        return data

    def size(self):
        """Bytes of the unpacked image: its layers are not compressed."""
        return sum(len(layer) for layer in self.layers)

    def entries(self):
        """Path -> entry of the last layer that has it."""
        found = {}
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                found.update((entry.name, entry) for entry in archive)
        return found

    def environment(self):
        return dict(pair.split("=", 1) for pair in self.config.get("Env", []))

    def unpack(self, root):
        """As a container engine does: the layers in order, with their owners and modes."""
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                archive.extractall(root, numeric_owner=True)
        return pathlib.Path(root)
