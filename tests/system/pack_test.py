"""A model packed into one file is served to the same tokens as its checkpoint, and is refused when it is damaged."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, MODEL, Cluster, environment, wait_until

QUESTIONS = ["Tell me a story.", "Spell the word wolf."]


def pack(*words, check=True):
    done = subprocess.run([str(CONCLAVE), "pack", *map(str, words)], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode:
        raise AssertionError(done.stderr)
    return done


def digests(cluster):
    return [cluster.run(question, "--temperature", "0.8", "--seed", "5", "--max-tokens", "40")["digest"] for question in QUESTIONS]


class Packed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="conclave-packed-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.file = cls.folder / "tales.conclave"
        cls.told = json.loads(pack(MODEL, "--format", "int8", "--out", cls.file, "--json").stdout)
        assert cls.told["bytes"] == cls.file.stat().st_size, cls.told

    def test_serves_what_the_checkpoint_does(self):
        with Cluster("--numerics", "int8") as cluster:
            expected = digests(cluster)
        with Cluster(model=self.file) as cluster:
            self.assertEqual(digests(cluster), expected)
            status, text = cluster.post("/v1/chat/completions", {"model": "tales", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
            self.assertEqual(status, 200, text)

    def test_the_same_file_each_time(self):
        other = self.folder / "other.conclave"
        pack(MODEL, "--format", "int8", "--threads", "1", "--out", other)
        self.assertEqual(other.read_bytes(), self.file.read_bytes())

    def test_mixed_formats_serve_the_same_from_workers_and_without(self):
        file = self.folder / "mixed.conclave"
        pack(MODEL, "--format", "int8", "--experts", "int4", "--group", "32", "--out", file)
        with Cluster(model=file) as cluster:
            told = digests(cluster)
            rows = [row for row in cluster.ps()["processes"] if row["kind"] == "engine"]
            self.assertIn("int8:32+int4:32", rows[0]["holds"])
        with Cluster(model=file, workers=0) as cluster:
            self.assertEqual(digests(cluster), told)

    def damaged(self, name, change):
        path = self.folder / name
        shutil.copy(self.file, path)
        with path.open("r+b") as file:
            change(file)
        return path

    def test_damage_is_told_before_anything_starts_or_when_it_is_loaded(self):
        size = self.file.stat().st_size

        def flip(at):
            def change(file):
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1]))
            return change
        short = self.damaged("short.conclave", lambda file: file.truncate(size - 1))
        table = self.damaged("table.conclave", flip(200))
        for path, words in ((short, "is cut short"), (table, "is damaged")):
            for command in (["up", "--model", path], ["doctor", "--model", path], ["pack", "--verify", path]):
                done = subprocess.run([str(CONCLAVE), *map(str, command)], env=environment(), capture_output=True, text=True, timeout=60, check=False)
                self.assertNotEqual(done.returncode, 0, command)
                self.assertIn(words, done.stdout + done.stderr, command)
        # The file ends with the last expert's last matrix.
        expert = self.damaged("expert.conclave", flip(size - 100))
        done = pack("--verify", expert, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("down_proj.weight", done.stderr)
        self.assertIn("checksum", done.stderr)
        self.assertIn("is intact", pack("--verify", self.file).stdout)
        cluster = Cluster("--up-start-timeout-s", "10", model=expert)
        try:
            with self.assertRaisesRegex(AssertionError, "up failed(.|\n)*down_proj.weight"):
                cluster.up()
        finally:
            cluster.__exit__()

    def test_an_interrupt_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as folder:
                running = subprocess.Popen([str(CONCLAVE), "pack", "--random", "deepseek-v2-lite", "--layers", "2", "--out", f"{folder}/x.conclave"],
                                           env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                wait_until(lambda: os.listdir(folder), "the partial file")
                running.send_signal(number)
                output, errors = running.communicate(timeout=60)
                self.assertEqual((running.returncode, output), (130, ""), errors)
                self.assertIn("interrupted; nothing was written", errors)
                self.assertEqual(os.listdir(folder), [])

    def test_random_weights_of_a_shape_are_served(self):
        config = json.loads((MODEL / "config.json").read_text())
        config["num_hidden_layers"] += 1
        (self.folder / "config.json").write_text(json.dumps(config))
        file = self.folder / "random.conclave"
        told = json.loads(pack("--random", self.folder / "config.json", "--layers", str(config["num_hidden_layers"] - 1), "--format", "int4",
                               "--out", file, "--json").stdout)
        again = json.loads(pack("--random", MODEL, "--format", "int4", "--out", file, "--replace", "--json").stdout)
        self.assertEqual((told["tensors"], told["bytes"]), (again["tensors"], again["bytes"]))
        self.assertIn("is intact", pack("--verify", file).stdout)
        with Cluster(model=file) as cluster:
            first = digests(cluster)
            self.assertEqual(digests(cluster), first)
            self.assertEqual(cluster.run("Hello", "--max-tokens", "3", "--ignore-eos")["finish_reason"], "length")

    def test_other_settings_than_the_files_are_refused(self):
        done = subprocess.run([str(CONCLAVE), "up", "--model", str(self.file), "--numerics", "bf16"], env=environment(), capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("is packed as int8", done.stderr)
        self.assertIn("numerics", done.stderr)

    def test_wrong_use_is_told(self):
        for words, told in ((["--out", "x"], "give a checkpoint"), ([MODEL], "--out FILE is missing"),
                            ([MODEL, "--out", "x", "--format", "int3"], "int3"), ([MODEL, "--out", "x", "--layers", "2"], "--random"),
                            ([MODEL, "--out", "x", "--format", "bf16", "--group", "32"], "--group"),
                            ([self.file, "--out", "x"], "is packed already"), (["--random", "gpt-5", "--out", "x"], "neither a known shape"),
                            (["--random", "deepseek-v2-lite", "--layers", "28", "--out", "x"], "has 27")):
            done = pack(*words, check=False)
            self.assertEqual(done.returncode, 1 if "known shape" in told else 2, words)
            self.assertIn(told, done.stderr, words)
        done = pack(MODEL, "--out", self.file, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("exists", done.stderr)
        self.assertIn("--replace", done.stderr)
        self.assertFalse(pathlib.Path("x").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
