"""The Tales model: DeepSeek-V3's architecture at a few million parameters, written for training.

Multi-head latent attention, group-limited sigmoid gating balanced by a per-expert bias without an auxiliary loss, a
shared expert, and one multi-token-prediction layer (DeepSeek-V3 technical report, arXiv 2412.19437, sections 2.1-2.2).
`hugging_face_tensors` names every weight as a DeepSeek-V3 checkpoint on disk does.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Config:
    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 5
    first_k_dense_replace: int = 1
    intermediate_size: int = 640
    moe_intermediate_size: int = 128
    n_routed_experts: int = 16
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    n_group: int = 4
    topk_group: int = 2
    routed_scaling_factor: float = 1.0
    num_attention_heads: int = 4
    q_lora_rank: int | None = None
    kv_lora_rank: int = 96
    qk_nope_head_dim: int = 48
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    num_nextn_predict_layers: int = 1

    def hugging_face_json(self):
        return dataclasses.asdict(self) | dict(
            architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", torch_dtype="bfloat16",
            hidden_act="silu", attention_bias=False, attention_dropout=0.0, tie_word_embeddings=False,
            topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True, moe_layer_freq=1,
            num_key_value_heads=self.num_attention_heads, rope_scaling=None, rope_interleave=True,
            initializer_range=0.02, use_cache=True, bos_token_id=1, eos_token_id=2, pad_token_id=0)


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding on interleaved pairs. x: [..., length, rope_dim]; cos, sin: [length, rope_dim / 2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head latent attention, in its uncompressed form (training needs no cache)."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        heads, qk = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
        self.q_proj = nn.Linear(c.hidden_size, heads * qk, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RmsNorm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * c.v_head_dim, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        c, (batch, length, _) = self.c, x.shape
        q = self.q_proj(x).view(batch, length, c.num_attention_heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split((c.qk_nope_head_dim, c.qk_rope_head_dim), -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(batch, length, c.num_attention_heads, -1).transpose(1, 2)
        k_nope, v = kv.split((c.qk_nope_head_dim, c.v_head_dim), -1)
        k_rope = rotate(k_rope.unsqueeze(1), cos, sin).expand(-1, c.num_attention_heads, -1, -1)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), -1)
        k = torch.cat((k_nope, k_rope), -1)
        # Values padded to the keys' width: the fused attention of PyTorch's CPU backend wants equal widths.
        v = F.pad(v.to(q.dtype), (0, q.shape[-1] - c.v_head_dim))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., : c.v_head_dim]
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class DenseMlp(nn.Module):
    def __init__(self, hidden, intermediate):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoeMlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        experts, hidden, inter = c.n_routed_experts, c.hidden_size, c.moe_intermediate_size
        self.gate = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.gate_proj = nn.Parameter(torch.empty(experts, inter, hidden))
        self.up_proj = nn.Parameter(torch.empty(experts, inter, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inter))
        self.shared_experts = DenseMlp(hidden, inter * c.n_shared_experts)

    def forward(self, x):
        c, shape = self.c, x.shape
        x = x.reshape(-1, c.hidden_size)
        scores = F.linear(x.float(), self.gate.float()).sigmoid()  # [tokens, experts]
        choice = scores.detach() + self.e_score_correction_bias
        groups = choice.view(-1, c.n_group, c.n_routed_experts // c.n_group)
        group_score = groups.topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(group_score).scatter_(1, group_score.topk(c.topk_group, -1).indices, 1.0)
        choice = groups.masked_fill(kept.unsqueeze(-1) == 0, float("-inf")).flatten(1)
        chosen = choice.topk(c.num_experts_per_tok, -1).indices
        weight = scores.gather(1, chosen)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor
        if self.training:
            self.load += torch.bincount(chosen.flatten(), minlength=c.n_routed_experts).float()
        # Rows sorted by expert and padded to the fullest one: three batched products, [experts, rows, ...].
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=c.n_routed_experts)
        expert = chosen.flatten()[order]
        slot = torch.arange(order.numel(), device=x.device) - (counts.cumsum(0) - counts)[expert]
        token = order // c.num_experts_per_tok
        rows = x.new_zeros(c.n_routed_experts, int(counts.max()), c.hidden_size).index_put((expert, slot), x[token])
        gated = F.silu(torch.bmm(rows, self.gate_proj.transpose(1, 2))) * torch.bmm(rows, self.up_proj.transpose(1, 2))
        out = torch.bmm(gated, self.down_proj.transpose(1, 2))[expert, slot]
        out = out * weight.flatten()[order].unsqueeze(-1).to(out.dtype)
        return (torch.zeros_like(x).index_add(0, token, out.to(x.dtype)) + self.shared_experts(x)).view(shape)

    @torch.no_grad()
    def rebalance(self, speed):
        """Auxiliary-loss-free balancing: raises the bias of under-used experts (report, eq. 16)."""
        self.e_score_correction_bias += speed * torch.sign(self.load.mean() - self.load)
        imbalance = (self.load.max() / self.load.mean().clamp(min=1)).item()
        self.load.zero_()
        return imbalance


class Layer(nn.Module):
    def __init__(self, c, moe):
        super().__init__()
        self.input_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MoeMlp(c) if moe else DenseMlp(c.hidden_size, c.intermediate_size)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class NextTokenLayer(nn.Module):
    """Multi-token prediction: from the state at t and token t+1, predicts token t+2 (report, section 2.2)."""

    def __init__(self, c):
        super().__init__()
        self.enorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.hnorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        self.layer = Layer(c, moe=True)
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, embedded_next, hidden, cos, sin):
        x = self.eh_proj(torch.cat((self.enorm(embedded_next), self.hnorm(hidden)), -1))
        return self.norm(self.layer(x, cos, sin))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c, i >= c.first_k_dense_replace) for i in range(c.num_hidden_layers))
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        self.mtp = NextTokenLayer(c)
        frequency = c.rope_theta ** (-torch.arange(0, c.qk_rope_head_dim, 2) / c.qk_rope_head_dim)
        angle = torch.outer(torch.arange(c.max_position_embeddings).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.dim() > 2 or p.shape[0] != c.vocab_size else 0.02)

    def moe_layers(self):
        return [m for m in self.modules() if isinstance(m, MoeMlp)]

    def hidden(self, ids):
        """ids: [batch, length]. Returns the states from which `lm_head` predicts the next token, [batch, length, hidden], and
        the token after it, [batch, length - 1, hidden] (None when length is 1)."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        hidden = self.norm(x)
        cos, sin = self.cos[: length - 1], self.sin[: length - 1]
        second = self.mtp(self.embed_tokens(ids[:, 1:]), hidden[:, :-1], cos, sin) if length > 1 else None
        return hidden, second

    def forward(self, ids):
        """ids: [batch, length]. Returns the logits of the next token, [batch, length, vocabulary]."""
        return self.lm_head(self.hidden(ids)[0])


def model_tensors(model):
    """The weights, by the names of a DeepSeek-V3 checkpoint; views into the model."""
    c, tensors = model.c, {}

    def put_layer(prefix, layer):
        for name, p in layer.named_parameters():
            if not name.startswith("mlp.") or not isinstance(layer.mlp, MoeMlp) or "shared_experts" in name:
                tensors[f"{prefix}.{name}"] = p
        if isinstance(layer.mlp, MoeMlp):
            tensors[f"{prefix}.mlp.gate.weight"] = layer.mlp.gate
            tensors[f"{prefix}.mlp.gate.e_score_correction_bias"] = layer.mlp.e_score_correction_bias
            for e in range(c.n_routed_experts):
                for kind in ("gate_proj", "up_proj", "down_proj"):
                    tensors[f"{prefix}.mlp.experts.{e}.{kind}.weight"] = getattr(layer.mlp, kind)[e]

    tensors["model.embed_tokens.weight"] = model.embed_tokens.weight
    for i, layer in enumerate(model.layers):
        put_layer(f"model.layers.{i}", layer)
    mtp = f"model.layers.{c.num_hidden_layers}"
    tensors[f"{mtp}.enorm.weight"] = model.mtp.enorm.weight
    tensors[f"{mtp}.hnorm.weight"] = model.mtp.hnorm.weight
    tensors[f"{mtp}.eh_proj.weight"] = model.mtp.eh_proj.weight
    tensors[f"{mtp}.embed_tokens.weight"] = model.embed_tokens.weight
    tensors[f"{mtp}.shared_head.norm.weight"] = model.mtp.norm.weight
    tensors[f"{mtp}.shared_head.head.weight"] = model.lm_head.weight
    put_layer(mtp, model.mtp.layer)
    tensors["model.norm.weight"] = model.norm.weight
    tensors["lm_head.weight"] = model.lm_head.weight
    return {name: t.detach() for name, t in tensors.items()}


def hugging_face_tensors(model):
    """The weights as a DeepSeek-V3 checkpoint stores them: in bfloat16 (gate bias: float32)."""
    return {name: (t.float() if "bias" in name else t.to(torch.bfloat16)).contiguous().clone()
            for name, t in model_tensors(model).items()}
