"""Trains the Tales model and writes it as a Hugging Face checkpoint folder.

    python train.py --corpus CORPUS --out OUT --minutes 75            # on a CPU
    python train.py --corpus CORPUS --out OUT --minutes 8 --device cuda --batch 128

Needs torch, tokenizers, safetensors. Prints loss, MTP agreement, expert balance and the score in an arithmetic exam
that training never sees.
"""

import argparse
import itertools
import json
import math
import pathlib
import re
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import data
from model import Config, Model, hugging_face_tensors, model_tensors


def train_tokenizer(stories, vocab_size):
    """Byte-level BPE; digits stand alone so that arithmetic is regular."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=data.SPECIAL_TOKENS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    sample = itertools.islice(data.documents(stories, seed=0), 6000)
    plain = ("\n".join(p for p in re.split(r"<\|\w+\|>", d) if p) for d in sample)
    tokenizer.train_from_iterator(itertools.chain(plain, ("\n\n".join(ps) for _, ps in stories)), trainer)
    return tokenizer


def batches(tokenizer, stories, seed, batch, length):
    """Packs documents end to end, for ever. Yields token ids and whether each is learnt, both [batch, length + 1]: what a user
    or the system says is read, not learnt."""
    begin = {tokenizer.token_to_id(marker) for marker in (data.USER, data.SYSTEM)}
    end = tokenizer.token_to_id(data.ASSISTANT)
    stream, ids, learnt = data.documents(stories, seed), [], []
    size = batch * (length + 1)
    while True:
        while len(ids) < size:
            texts = list(itertools.islice(stream, 64))
            for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
                spoken = False
                for token in encoding.ids:
                    spoken = token in begin or spoken and token != end
                    learnt.append(not spoken and token != end)
                ids.extend(encoding.ids)
        yield torch.tensor(ids[:size]).view(batch, -1), torch.tensor(learnt[:size]).view(batch, -1)
        del ids[:size], learnt[:size]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before they are applied (Jordan et al., "Muon: An optimizer for hidden
    layers in neural networks", 2024), by the quintic Newton-Schulz iteration. Parameters are [..., rows, columns]."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                update = self._orthogonal(p.grad.lerp(average, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                # 0.2 sqrt(max side): the root mean square that Adam's updates have, so that both share one learning rate.
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)

    @staticmethod
    def _orthogonal(x):
        tall = x.shape[-2] > x.shape[-1]
        x = (x.mT if tall else x).bfloat16()
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return (x.mT if tall else x).float()


@torch.no_grad()
def generate(model, tokenizer, text, max_tokens, device):
    """Greedy continuation of `text`, recomputed from scratch at every step (short texts only)."""
    model.eval()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    eos = tokenizer.token_to_id(data.EOS)
    start = len(ids)
    for _ in range(max_tokens):
        logits = model(torch.tensor([ids], device=device))
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    model.train()
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def examine(model, tokenizer, device, count):
    """The share of never-seen arithmetic questions answered exactly."""
    right = 0
    for question, answer in data.exam(count):
        reply = generate(model, tokenizer, f"{data.BOS}{data.USER}{question}{data.ASSISTANT}", 24, device)
        right += reply.strip() == answer
    return right / count


def resume(model, folder):
    """Loads the weights of an exported checkpoint."""
    stored = load_file(pathlib.Path(folder) / "model.safetensors")
    wanted = hugging_face_tensors(model)
    if stored.keys() != wanted.keys():
        raise SystemExit(f"{folder}: its tensors are not those of this model: {sorted(stored.keys() ^ wanted.keys())[:4]}")
    with torch.no_grad():
        for name, tensor in model_tensors(model).items():
            tensor.copy_(stored[name])


def export(model, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    save_file(hugging_face_tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(model.c.hugging_face_json(), indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(dict(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=True, temperature=0.7, top_p=0.9), indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps(dict(
        bos_token=data.BOS, eos_token=data.EOS, pad_token=data.PAD, add_bos_token=False, model_max_length=2048,
        clean_up_tokenization_spaces=False, tokenizer_class="PreTrainedTokenizerFast",
        chat_template=data.CHAT_TEMPLATE), indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder with the public-domain stories")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="checkpoint folder to write")
    parser.add_argument("--minutes", type=float, default=75, help="wall time to train for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=12, help="sequences a step")
    parser.add_argument("--length", type=int, default=384, help="tokens a sequence")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", help="checkpoint folder to start from (its tokenizer is kept)")
    parser.add_argument("--no-autocast", action="store_true", help="train in float32 throughout")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    stories = data.load_stories(args.corpus)
    config = Config()
    if args.resume:
        tokenizer = Tokenizer.from_file(str(pathlib.Path(args.resume) / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(stories, config.vocab_size)
    config.vocab_size = -(-tokenizer.get_vocab_size() // 128) * 128
    model = Model(config).to(args.device)
    if args.resume:
        resume(model, args.resume)
    total = sum(p.numel() for p in model.parameters())
    print(f"{len(stories)} stories, vocabulary {config.vocab_size}, {total / 1e6:.1f} M parameters", flush=True)
    outer = [model.embed_tokens.weight, model.lm_head.weight, *(m.gate for m in model.moe_layers())]
    matrices = [p for p in model.parameters() if p.dim() > 1 and all(p is not o for o in outer)]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizers = [Muon(matrices, lr=args.learning_rate),
                  torch.optim.AdamW([dict(params=outer, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)],
                                    lr=args.learning_rate, betas=(0.9, 0.95), fused=True)]
    source = batches(tokenizer, stories, args.seed, args.batch, args.length)
    start, step, tokens = time.time(), 0, 0
    running = dict(loss=0.0, mtp=0.0)
    while (progress := (time.time() - start) / (60 * args.minutes)) < 1:
        warm = min(1.0, (step + 1) / 100)
        rate = args.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        ids, learnt = (t.to(args.device) for t in next(source))
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=not args.no_autocast):
            hidden, second = model.hidden(ids[:, :-1])
            loss = F.cross_entropy(model.lm_head(hidden[learnt[:, 1:]]).float(), ids[:, 1:][learnt[:, 1:]])
            mtp = F.cross_entropy(model.lm_head(second[learnt[:, 2:]]).float(), ids[:, 2:][learnt[:, 2:]])
        (loss + 0.2 * mtp).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        imbalance = max(m.rebalance(0.002 if progress < 0.8 else 0.0) for m in model.moe_layers())
        step, tokens = step + 1, tokens + ids.numel()
        running = {k: 0.98 * running[k] + 0.02 * v.item() for k, v in dict(loss=loss, mtp=mtp).items()}
        if step % 25 == 0:
            scale = 1 - 0.98 ** step
            print(f"step {step} {progress:.1%} tokens {tokens / 1e6:.2f} M ({tokens / (time.time() - start):.0f}/s) "
                  f"loss {running['loss'] / scale:.3f} mtp {running['mtp'] / scale:.3f} "
                  f"fullest expert {imbalance:.2f}x", flush=True)
        if step % 250 == 0:
            print("  exam:", examine(model, tokenizer, args.device, 40), flush=True)
            print("  sample:", generate(model, tokenizer, data.BOS + "Once upon a time", 40, args.device), flush=True)
            export(model, tokenizer, args.out)
    score = examine(model, tokenizer, args.device, 200)
    export(model, tokenizer, args.out)
    (args.out / "training.json").write_text(json.dumps(dict(
        steps=step, tokens=tokens, minutes=args.minutes, loss=running["loss"], mtp_loss=running["mtp"],
        exam_accuracy=score, seed=args.seed), indent=2) + "\n")
    print(f"done: {tokens / 1e6:.1f} M tokens, loss {running['loss']:.3f}, exam {score:.1%}")


if __name__ == "__main__":
    main()
