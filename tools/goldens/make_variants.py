#!/usr/bin/env python3
"""Makes the golden variants: checkpoints of tests/golden under another config, with transformers' outputs.

A variant shares the weights of its base (a link to its model.safetensors) and changes fields of config.json that the base
leaves at their defaults: sliding windows, rope scaling, clipping. Its golden.json and golden.safetensors have the form that
tests/golden/README.md describes, for two of the base's prompts, without hidden states.

    pip install torch transformers==5.23.0 safetensors
    tools/goldens/make_variants.py tests/golden [NAME...]
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

PROMPTS = (1, 2)  # of the base: 7 and 33 tokens
GREEDY_STEPS = 16

# name: (base, changed fields)
VARIANTS = {
    "mixtral_window": ("mixtral", {"sliding_window": 20}),
    "qwen2_moe_linear": ("qwen2_moe", {"norm_topk_prob": True, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "qwen3_moe_yarn": (
        "qwen3_moe",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "truncate": False,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            }
        },
    ),
    "olmoe_clip": ("olmoe", {"clip_qkv": 0.6, "norm_topk_prob": True}),
    "deepseek_v3_mscale": (
        "deepseek_v3",
        {
            "rope_interleave": False,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.5,
                "mscale_all_dim": 0.8,
                "original_max_position_embeddings": 64,
            },
        },
    ),
}


class Recorded:
    """A model that keeps the routes of its last forward pass."""

    def __init__(self, folder, dtype, moe_layers):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        self.routes = {}
        for layer in moe_layers:
            self.model.model.layers[layer].mlp.gate.register_forward_hook(self._keep(layer))

    def _keep(self, layer):
        def hook(_module, _inputs, outputs):
            _logits, weights, ids = outputs
            order = ids.argsort(-1)
            self.routes[layer] = (ids.gather(1, order).int(), weights.gather(1, order).float())

        return hook

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy(recorded, ids):
    """The next GREEDY_STEPS tokens, end-of-sequence ignored, and by how much each wins."""
    tokens, margins = [], []
    for _ in range(GREEDY_STEPS):
        best = recorded.logits(ids + tokens)[-1].topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return tokens, margins


def make(golden_dir, name):
    base_name, changes = VARIANTS[name]
    base, folder = golden_dir / base_name, golden_dir / name
    folder.mkdir(exist_ok=True)
    config = json.loads((base / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    link = folder / "model.safetensors"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.join("..", base_name, "model.safetensors"))

    AutoConfig.from_pretrained(folder).save_pretrained(folder / "transformers5")

    base_golden = json.loads((base / "golden.json").read_text())
    layers = base_golden["moe_layers"]
    reference = Recorded(folder, torch.float32, layers)
    plain_bf16 = Recorded(folder, torch.bfloat16, layers)
    tensors, prompts, errors, errors_before = {}, [], [], []
    for index, base_index in enumerate(PROMPTS):
        prompt = base_golden["prompts"][base_index]
        logits = reference.logits(prompt["ids"])
        error = (plain_bf16.logits(prompt["ids"]) - logits).abs()
        same = torch.ones(len(prompt["ids"]), dtype=torch.bool)
        tensors[f"prompt{index}.logits"] = logits
        for layer in layers:
            ids, weights = reference.routes[layer]
            tensors[f"prompt{index}.layer{layer}.expert_ids"] = ids
            tensors[f"prompt{index}.layer{layer}.expert_weights"] = weights
            same &= (ids == plain_bf16.routes[layer][0]).all(-1)
        errors.append(error)
        errors_before.append(error[: int(same.long().cumprod(0).sum())])
        tokens, margins = greedy(reference, prompt["ids"])
        prompts.append(
            {"text": prompt["text"], "ids": prompt["ids"], "greedy_ids": tokens, "greedy_margins": margins}
        )
    error, before = torch.cat(errors), torch.cat(errors_before)
    golden = {
        "name": name,
        "base": base_name,
        "model_type": config["model_type"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "reference": base_golden["reference"],
        "moe_layers": layers,
        "top_k": base_golden["top_k"],
        "prompts": prompts,
        "yardstick": {
            "bf16_max_abs_logit_error": float(error.max()),
            "bf16_mean_abs_logit_error": float(error.mean()),
            "bf16_max_abs_logit_error_before_routing_differs": float(before.max()),
            "bf16_mean_abs_logit_error_before_routing_differs": float(before.mean()),
            "bf16_positions_before_routing_differs": len(before),
            "positions": len(error),
        },
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "golden.safetensors")
    smallest = min(margin for prompt in prompts for margin in prompt["greedy_margins"])
    print(f"{name}: smallest greedy margin {smallest:.4f}, bf16 mean error {float(error.mean()):.4f}")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for name in sys.argv[2:] or VARIANTS:
        make(Path(sys.argv[1]), name)


if __name__ == "__main__":
    main()
