"""Checkpoints of 4-bit weights (GPTQ, AWQ, compressed-tensors) are served as they are: the same tokens from the folder, from a packed file of it, and
from each of the three, which here hold the same integers."""

import array
import json
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, MODEL, Cluster, environment

QUESTIONS = ["Tell me a story.", "Spell the word wolf."]
GROUP = 128
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP}}}},
}


def read(folder):
    """Name to (dtype, shape, bytes) of a safetensors file."""
    data = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {name: (each["dtype"], each["shape"], data[8 + size + each["data_offsets"][0]:8 + size + each["data_offsets"][1]])
            for name, each in header.items() if name != "__metadata__"}


def write(folder, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def quantise(rows, columns, data):
    """Integers, and (scale, zero point) by group, of each row; the scale's bits are those of a bf16."""
    values = array.array("I", [bits << 16 for bits in array.array("H", data)])
    values = array.array("f", values.tobytes())
    integers, groups = [], []
    for row in range(rows):
        line, told = [], []
        for first in range(0, columns, GROUP):
            part = values[row * columns + first:row * columns + min(first + GROUP, columns)]
            least, most = min(0.0, *part), max(0.0, *part)
            bits = struct.unpack("<I", struct.pack("<f", max((most - least) / 14.5, 1e-6)))[0] >> 16
            scale = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
            zero = min(15, max(1, round(-least / scale)))  # gptq cannot say 0
            line += [min(15, max(0, round(value / scale) + zero)) for value in part]
            told.append((bits, zero))
        integers.append(line)
        groups.append(told)
    return integers, groups


def words(lines, order=range(8)):
    """Eight values of a line in a word: place i has value order[i]."""
    packed = array.array("I", [sum(line[at + order[i]] << 4 * i for i in range(8)) for line in lines for at in range(0, len(line), 8)])
    return "I32", [len(lines), len(lines[0]) // 8], packed.tobytes()


def across(dtype_shape_bytes):
    _, (rows, columns), data = dtype_shape_bytes
    old = array.array("I", data)
    return "I32", [columns, rows], array.array("I", [old[row * columns + column] for column in range(columns) for row in range(rows)]).tobytes()


def turned(lines):
    return [list(line) for line in zip(*lines)]


def parts(method, base, integers, groups):
    scales = [[bits for bits, _ in told] for told in groups]
    zeros = [[zero for _, zero in told] for told in groups]
    if method == "compressed-tensors":
        return {base + ".weight_packed": words(integers), base + ".weight_zero_point": across(words(turned(zeros))),
                base + ".weight_scale": ("BF16", [len(scales), len(scales[0])], array.array("H", sum(scales, [])).tobytes()),
                base + ".weight_shape": ("I64", [2], struct.pack("<qq", len(integers), len(integers[0])))}
    scale = ("BF16", [len(scales[0]), len(scales)], array.array("H", sum(turned(scales), [])).tobytes())
    if method == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return {base + ".qweight": words(turned(integers), order), base + ".qzeros": words(turned(zeros), order), base + ".scales": scale}
    inputs = array.array("i", [k // GROUP for k in range(len(integers[0]))])
    return {base + ".qweight": across(words(integers)), base + ".qzeros": words([[zero - 1 for zero in line] for line in turned(zeros)]),
            base + ".scales": scale, base + ".g_idx": ("I32", [len(inputs)], inputs.tobytes())}


def conclave(*arguments):
    return subprocess.run([str(CONCLAVE), *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=120, check=False)


def digests(cluster):
    return [cluster.run(question, "--temperature", "0.8", "--seed", "5", "--max-tokens", "40")["digest"] for question in QUESTIONS]



class Int4Checkpoint(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="conclave-int4-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        tensors = read(MODEL)
        made = {name: quantise(*shape, data) for name, (_, shape, data) in tensors.items()
                if ".layers.1.mlp.experts." in name or ".layers.2.mlp.experts." in name}
        rest = {name: tensor for name, tensor in tensors.items() if name not in made}
        for method, config in CONFIGS.items():
            folder = cls.folder / method
            folder.mkdir()
            for path in MODEL.iterdir():
                if path.suffix == ".json" and path.name != "config.json":
                    shutil.copy(path, folder)
            told = json.loads((MODEL / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**told, "quantization_config": config}))
            stored = dict(rest)
            for name, (integers, groups) in made.items():
                stored.update(parts(method, name.removesuffix(".weight"), integers, groups))
            write(folder, stored)

    def test_folder_and_packed_file_give_the_same_tokens_and_so_do_all_writers(self):
        expected = None
        for method in CONFIGS:
            file = self.folder / f"{method}.conclave"
            done = conclave("pack", self.folder / method, "--format", "bf16", "--experts", "int4:128", "--out", file, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["format"], "bf16+int4:128")
            self.assertIn("is intact", conclave("pack", "--verify", file).stdout)
            with Cluster(model=self.folder / method) as cluster:
                told = digests(cluster)
                engine = next(row for row in cluster.ps()["processes"] if row["kind"] == "engine")
                self.assertIn("bf16+int4:128", engine["holds"])
            expected = expected or told
            self.assertEqual(told, expected, method)
            with Cluster(model=file, workers=0) as cluster:
                self.assertEqual(digests(cluster), expected, method)

    def test_other_integers_are_refused_with_what_to_choose(self):
        for words_, told in ((["--format", "int8"], "wanted int8:64"), (["--format", "int4"], "wanted int4:64")):
            done = conclave("pack", self.folder / "awq", *words_, "--out", self.folder / "x.conclave")
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            for part in (told, "experts.0.gate_proj.weight is stored as int4:128", "choose int4:128", "docs/models.md"):
                self.assertIn(part, done.stderr)
            self.assertFalse((self.folder / "x.conclave").exists())

    def test_doctor_counts_what_is_stored(self):
        done = conclave("doctor", "--model", self.folder / "gptq")
        self.assertIn("stored as int4 (gptq)", done.stdout)
        self.assertIn("bf16+int4:128", done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
