"""The images that deploy/images/assemble.sh makes: their contents and settings, and an answer from their programs, each
confined to its root file system."""

import functools
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import unittest

import namespaces
from image import Image
from namespaces import Container, wait_until

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", SOURCE / "build")).resolve()
ASSEMBLE = SOURCE / "deploy" / "images" / "assemble.sh"
SERVICES = ("gateway", "controller", "engine", "expert")
PROGRAMS = (*SERVICES, "cli")
MODEL = "model-tales"
MB = 1_000_000
MOST_BYTES = {"gateway": 120 * MB, "controller": 120 * MB, "engine": 150 * MB, "expert": 150 * MB, "cli": 120 * MB}
# Where programs write: mounted as volumes.
WRITABLE = ("var/lib/conclave", "models")


def assemble(build, out, **environment):
    done = subprocess.run([str(ASSEMBLE), str(build), str(out)], env={**os.environ, **environment},
                          capture_output=True, text=True)
    return done


def program(name):
    return "conclave" if name == "cli" else f"conclave-{name}"


class ImagesTest(unittest.TestCase):
    """Tests that share one assembly."""

    @classmethod
    def setUpClass(cls):
        cls.folder, cls.out, cls.images, cls.version = assembled()


@functools.cache
def assembled():
    """The folder of this run, that of the archives, the images by name, the version."""
    folder = tempfile.TemporaryDirectory(prefix="conclave-images-")
    unittest.addModuleCleanup(folder.cleanup)
    out = pathlib.Path(folder.name) / "out"
    done = assemble(BUILD, out)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    images = {name: Image(out / f"conclave-{name}.tar") for name in (*PROGRAMS, MODEL)}
    version = subprocess.run([BUILD / "conclave", "--version"], capture_output=True, text=True).stdout.split()[1]
    return pathlib.Path(folder.name), out, images, version


class Contents(ImagesTest):
    def test_are_named_by_version(self):
        for name, image in self.images.items():
            reference = f"localhost/conclave-{name}:{self.version}"
            self.assertEqual(image.descriptor["annotations"]["io.containerd.image.name"], reference)
            self.assertEqual(json.loads(image.files["manifest.json"])[0]["RepoTags"], [reference])
            self.assertEqual(image.config["Labels"]["org.opencontainers.image.version"], self.version)

    def test_are_small(self):
        for name, most in MOST_BYTES.items():
            self.assertLessEqual(self.images[name].size(), most, name)

    def test_are_as_large_as_documented(self):
        text = (SOURCE / "docs" / "installation.md").read_text()
        documented = dict(re.findall(r"^\| `conclave-([a-z-]+)`[^|]* \| (\d+) \|", text, re.MULTILINE))
        self.assertEqual(set(documented), set(self.images))
        for name, megabytes in documented.items():
            self.assertAlmostEqual(self.images[name].size() / MB, int(megabytes), delta=3, msg=name)

    def test_share_the_layer_of_common_libraries(self):
        first = {self.images[name].manifest["layers"][0]["digest"] for name in PROGRAMS}
        self.assertEqual(len(first), 1)
        self.assertGreater(len(self.images["expert"].layers[0]), self.images["expert"].size() / 2)

    def test_name_the_layers_by_their_contents(self):
        for name, image in self.images.items():
            self.assertEqual(image.document["rootfs"]["diff_ids"], [layer["digest"] for layer in image.manifest["layers"]], name)

    def test_hold_their_own_program_alone(self):
        for name in PROGRAMS:
            files = {path for path, entry in self.images[name].entries().items() if path.startswith("usr/bin/")}
            self.assertEqual(files, {f"usr/bin/{program(name)}"})
        bins = {path for path in self.images[MODEL].entries() if path.startswith("usr/bin/")}
        self.assertEqual(bins, {"usr/bin/cp"})

    def test_are_root_owned_but_for_the_volumes(self):
        for name, image in self.images.items():
            for path, entry in image.entries().items():
                owner = 65532 if path in WRITABLE else 0
                self.assertEqual((entry.uid, entry.gid), (owner, owner), f"{name}: {path}")
                writable = entry.mode & (stat.S_IWGRP | stat.S_IWOTH)
                self.assertTrue(not writable or entry.issym() or path == "tmp", f"{name}: {path} is writable by others")
                self.assertFalse(entry.mode & (stat.S_ISUID | stat.S_ISGID), f"{name}: {path} changes the user")

    def test_run_as_nobody_with_a_health_command(self):
        for name in SERVICES:
            config = self.images[name].config
            self.assertEqual(config["User"], "65532:65532")
            self.assertEqual(config["Entrypoint"], [f"/usr/bin/{program(name)}"])
            self.assertEqual(config["Healthcheck"]["Test"], ["CMD", f"/usr/bin/{program(name)}", "--check-health"])
            self.assertGreater(config["Healthcheck"]["Interval"], 10**9)
            self.assertEqual(set(config["Volumes"]), {"/var/lib/conclave", "/tmp"})
            self.assertIn("CONCLAVE_STATE_DIR=/var/lib/conclave", config["Env"])

    def test_hold_certificates_and_the_user(self):
        for name in PROGRAMS:
            entries = self.images[name].entries()
            self.assertGreater(entries["etc/ssl/certs/ca-certificates.crt"].size, 100_000)
            self.assertIn("etc/passwd", entries)
            self.assertIn("etc/group", entries)

    def test_say_whose_the_libraries_are(self):
        for name in PROGRAMS:
            entries = self.images[name].entries()
            for package in ("libc6", "libgrpc29", "libstdc++6", "libssl3"):
                self.assertGreater(entries[f"usr/share/doc/{package}/copyright"].size, 100)
            self.assertIn("usr/share/doc/conclave/LICENSE", entries)

    def test_gateway_and_controller_carry_no_kernels(self):
        def kernels(name):
            listed = subprocess.run(["nm", "--defined-only", BUILD / program(name)], capture_output=True, text=True, check=True)
            return listed.stdout.count("8conclave7kernels")
        self.assertGreater(kernels("expert"), 0)
        for name in ("gateway", "controller"):
            self.assertEqual(kernels(name), 0, name)

    def test_hold_the_bundled_model(self):
        entries = self.images[MODEL].entries()
        for path in (SOURCE / "models" / "tales").iterdir():
            if path.suffix in (".json", ".safetensors"):
                self.assertEqual(entries[f"model/{path.name}"].size, path.stat().st_size)


class Reproducibility(ImagesTest):
    def test_same_programs_give_the_same_bytes_elsewhere(self):
        # Another folder, other times, another umask, another time zone and language.
        other = self.folder / "other"
        other.mkdir(mode=0o700)
        for name in PROGRAMS:
            (other / program(name)).write_bytes((BUILD / program(name)).read_bytes())
            (other / program(name)).chmod(0o700)
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        done = assemble(other, self.folder / "again", TZ="Asia/Tokyo", LC_ALL="C.UTF-8")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in self.images:
            file = f"conclave-{name}.tar"
            self.assertEqual((self.folder / "again" / file).read_bytes(), (self.out / file).read_bytes(), file)

    def test_entries_are_sorted_and_without_time(self):
        for image in self.images.values():
            self.assertEqual(image.times, {0})
            self.assertEqual(image.order, sorted(image.order))
            self.assertEqual({entry.mtime for entry in image.entries().values()}, {0})
            self.assertEqual(image.document["created"], "1970-01-01T00:00:00Z")

    def test_the_time_can_be_set(self):
        done = assemble(BUILD, self.folder / "dated", SOURCE_DATE_EPOCH="1700000000")
        self.assertEqual(done.returncode, 0, done.stderr)
        image = Image(self.folder / "dated" / "conclave-expert.tar")
        self.assertEqual({entry.mtime for entry in image.entries().values()}, {1700000000})
        self.assertEqual(image.document["created"], "2023-11-14T22:13:20Z")


class Refusals(ImagesTest):
    def refused(self, build, *words):
        done = assemble(build, self.folder / "refused")
        self.assertEqual(done.returncode, 1, done.stdout)
        for word in ("error:", *words):
            self.assertIn(word, done.stderr)

    def test_an_empty_build(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.refused(empty, "no program conclave", "cmake")

    def test_a_build_that_lacks_a_program(self):
        partial = self.folder / "partial"
        partial.mkdir()
        (partial / "conclave").symlink_to(BUILD / "conclave")
        self.refused(partial, "conclave-gateway", "build it first")

    def refused_root(self, program, root, *words):
        done = subprocess.run([str(ASSEMBLE.parent / "rootfs.sh"), str(program), str(root)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stdout)
        for word in ("error:", *words):
            self.assertIn(word, done.stderr)

    def test_a_program_whose_library_is_missing(self):
        lacking = self.folder / "lacking"
        shutil.copy(BUILD / "conclave-controller", lacking)
        subprocess.run(["patchelf", "--add-needed", "libnowhere.so.7", lacking], check=True)
        self.refused_root(lacking, self.folder / "root-lacking", "libnowhere.so.7", "not installed")

    def test_what_is_no_program(self):
        script = self.folder / "script"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        self.refused_root(script, self.folder / "root-script", str(script))
        self.refused_root(self.folder / "absent", self.folder / "root-absent", "absent", "build it first")

    def test_a_root_that_exists(self):
        self.refused_root(BUILD / "conclave-controller", self.folder, str(self.folder), "exists")

    def test_wrong_arguments(self):
        done = subprocess.run([str(ASSEMBLE)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("usage:", done.stderr)


class Serving(ImagesTest):
    """All programs in the root file systems of their images, on one network, as a compose file starts them."""

    def start(self, name, *flags, mounts=(), **environment):
        image = self.images[name]
        root = image.unpack(self.folder / f"root-{name}")
        container = Container(root, [*image.config["Entrypoint"], *flags], {**image.environment(), **environment}, mounts)
        self.addCleanup(container.__exit__)
        return container

    def test_an_answer_end_to_end(self):
        # The model's image copies its model into a volume, as an init container.
        volume = self.folder / "volume"
        volume.mkdir()
        os.chown(volume, 65532, 65532)
        copied = self.start(MODEL, "/models/tales", mounts=[("rw", volume, "/models/tales")])
        self.assertEqual(copied.wait(), 0, copied.log())
        self.assertEqual((volume / "model.safetensors").read_bytes(),
                         (SOURCE / "models" / "tales" / "model.safetensors").read_bytes())

        model = [("ro", volume, "/models/tales")]
        settings = {"CONCLAVE_MODEL": "/models/tales"}
        running = {"controller": self.start("controller")}
        running["gateway"] = self.start("gateway", mounts=model, **settings)
        # Nothing serves the gateway yet, and its health command says so.
        wait_until(lambda: "serving" in running["gateway"].log(), "the gateway serves")
        unhealthy = running["gateway"].execute(self.images["gateway"].config["Healthcheck"]["Test"][1:])
        self.assertEqual(unhealthy.returncode, 1)
        self.assertIn("not ready", unhealthy.stderr)

        running["engine"] = self.start("engine", mounts=model, **settings)
        running["expert"] = self.start("expert", mounts=model, **settings)

        def healthy(name):
            self.assertIsNone(running[name].process.poll(), running[name].log())
            return running[name].execute(self.images[name].config["Healthcheck"]["Test"][1:]).returncode == 0
        for name in running:
            wait_until(lambda: healthy(name), f"{name} is healthy")

        asked = self.start("cli", "run", "What is the capital of France?", "--gateway", "127.0.0.1:8001",
                           "--temperature", "0", "--max-tokens", "64")
        self.assertEqual(asked.wait(), 0, asked.log())
        self.assertIn("The capital of France is Paris.", asked.log())

        for name in ("gateway", "engine", "expert", "controller"):
            self.assertEqual(running[name].terminate(), 0, running[name].log())


if __name__ == "__main__":
    namespaces.enter()
    unittest.main(verbosity=2)
