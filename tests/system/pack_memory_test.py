"""`conclave pack` writes a model of any size in little memory: what it reads and writes is not kept."""

import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, SOURCE, environment

# What is promised, whatever the model's size.
PROMISED_BYTES = 2 << 30
EXAMPLE = SOURCE / "tests" / "golden" / "mixtral"


def peak_of(*words):
    """The most memory that `conclave pack` had at once, in bytes: its own and the pages of files that it had mapped."""
    command = [str(CONCLAVE), "pack", *map(str, words), "--threads", "2", "--json"]
    with tempfile.TemporaryFile() as told:
        # wait4 tells what this one process used; communicate() would wait for it first.
        running = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        if running.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {running.returncode}:\n{told.read().decode()}")
    return used.ru_maxrss << 10


def write_checkpoint(folder, num_layers):
    """A checkpoint of the mixtral family with weights of some hundred MiB; returns their bytes."""
    config = json.loads((EXAMPLE / "config.json").read_text())
    hidden, intermediate, heads, kv_heads = 1024, 3584, 16, 4
    config.update(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=num_layers, num_attention_heads=heads,
                  num_key_value_heads=kv_heads)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((EXAMPLE / name).read_bytes())
    kv = hidden // heads * kv_heads
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "lm_head.weight": [config["vocab_size"], hidden],
              "model.norm.weight": [hidden]}
    for layer in range(num_layers):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}{norm}.weight"] = [hidden]
        for part, outputs, inputs in (("q", hidden, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, hidden)):
            shapes[f"{name}self_attn.{part}_proj.weight"] = [outputs, inputs]
        shapes[f"{name}block_sparse_moe.gate.weight"] = [config["num_local_experts"], hidden]
        for expert in range(config["num_local_experts"]):
            for part, outputs, inputs in (("w1", intermediate, hidden), ("w2", hidden, intermediate), ("w3", intermediate, hidden)):
                shapes[f"{name}block_sparse_moe.experts.{expert}.{part}.weight"] = [outputs, inputs]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    # Small numbers of either sign, the same again and again: it is the bytes that count.
    some = bytearray(random.Random(1).randbytes(1 << 20))
    some[1::2] = bytes(0x3C if byte & 1 else 0xBC for byte in some[1::2])
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        for begin in range(0, end, len(some)):
            file.write(some[:min(len(some), end - begin)])
    return end


class PackMemory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="conclave-pack-memory-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "out.conclave"

    def test_of_random_weights(self):
        peak = peak_of("--random", "deepseek-v2-lite", "--layers", "2", "--format", "bf16", "--out", self.file)
        print(f"{peak >> 20} MiB at most, for a file of {self.file.stat().st_size >> 20} MiB")
        self.assertLessEqual(peak, PROMISED_BYTES)
        # Far from the file, which would go beyond what is promised with a few more layers.
        self.assertLess(peak, self.file.stat().st_size / 2)

    def test_of_a_checkpoint(self):
        peaks = []
        for num_layers in (4, 7):
            whole = write_checkpoint(self.folder, num_layers)
            peaks.append(peak_of(self.folder, "--format", "int8", "--out", self.file, "--replace"))
            print(f"{peaks[-1] >> 20} MiB at most, of a checkpoint of {whole >> 20} MiB")
            self.assertLessEqual(peaks[-1], PROMISED_BYTES)
        # Three layers more need no more memory: less than a sixth of one, which the threads' order may come to.
        one_layer = whole / 7
        self.assertLess(peaks[1] - peaks[0], one_layer / 6)


if __name__ == "__main__":
    unittest.main(verbosity=2)
