"""Claim: to the loss that nanoGPT's loop ends at, training takes 0.35 of its CPU time.

nanoGPT's loop (Karpathy 2022, github.com/karpathy/nanoGPT, MIT) is written here from its
description: a GPT-2 block (LayerNorm, learned positions, GELU, scaled_dot_product_attention), tied
head, AdamW (1e-3, betas 0.9 and 0.99, weight decay 0.1 on matrices) with 100 steps of warm-up and a
cosine decay to 1e-4, gradient clipping at 1.0, float32, eager, no dropout and no biases.  It trains
on 12 windows a step for 2,000 steps of its recipe for a CPU (4 layers, width 128, 64 characters),
or with `--size large` on 6 layers, width 384, 256 characters.

Ours has the same layers, heads, width and context, and `kullback train`'s own MLP, optimisers,
schedule and arithmetic for a fraction of the steps.  The two alternate in chunks of a twentieth, on
one thread, and their CPU times are added up without the validation; both are scored on the
same windows of the last tenth of the text.  The text is `--text FILE`, else sentences of the
embedded language.

Run it: ``python benchmarks/time_to_loss.py [--size small|large] [--iterations N] [--steps N]``
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional as F  # noqa: N812

from kullback.sources.catalogue import open_source
from kullback.training.arithmetic import CPU, with_native
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.initial_state import training_workers
from kullback.training.loss import shard_sums
from kullback.training.probe import faster_type
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import TrainingState
from kullback.training.steps import train_step
from kullback.training.text_batches import TextBatches

GOAL = 0.35
SHAPES = {"small": (4, 4, 128, 64), "large": (6, 6, 384, 256)}  # layers, heads, width, context
WINDOWS = 12
CHUNKS = 20
SCORED = 65_536
# Of the recipe's steps, the share that reaches its loss; from sweeps at the small size.
SHARE = 0.2
MUON = {"small": (0.01, 32), "large": (0.014, 128)}  # learning rate, rows of a block
ADAMW_LR, DECAY = 0.003, 0.7


def characters(path: Path | None) -> tuple[np.ndarray, int]:
    """The text as numbers of its characters, and how many there are."""
    if path is None:
        sample = open_source("conjugation").training.sample(30_000, np.random.default_rng(0))
        text = "\n".join(sample.texts())
    else:
        text = path.read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    place = {character: i for i, character in enumerate(alphabet)}
    return np.array([place[character] for character in text], dtype=np.int64), len(alphabet)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.fc = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.out(F.gelu(self.fc(self.ln_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, V: int, layers: int, heads: int, width: int, T: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, width), nn.Embedding(T, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, V, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() >= 2:
                residual = name.endswith(("c_proj.weight", "out.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * layers) if residual else 1))
        self.head.weight = self.wte.weight

    def forward(self, x, y):
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits = self.head(self.ln_f(h))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1)


def nanogpt_steps(
    model: NanoGPT, tokens: np.ndarray, T: int, steps: int, windows: int = WINDOWS
) -> Iterator[None]:
    """Train, one step at a time."""
    data = torch.from_numpy(tokens)
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.1},
            {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.99),
    )
    warm_up = min(100, steps // 20)
    for step in range(steps):
        done = (step - warm_up) / max(1, steps - warm_up)
        cosine = 1e-4 + 0.5 * (1 + math.cos(math.pi * done)) * 9e-4
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (step + 1) / (warm_up + 1) if step < warm_up else cosine
        starts = torch.randint(len(data) - T, (windows,))
        x = torch.stack([data[i : i + T] for i in starts])
        y = torch.stack([data[i + 1 : i + 1 + T] for i in starts])
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()
        yield


def our_steps(state: TrainingState, batches: TextBatches) -> Iterator[None]:
    """Train, one step at a time."""
    with training_workers(state) as pool:
        while state.step < state.config.steps:
            train_step(state, batches.shards(state.step, 1), pool, Replicas(ALONE))
            yield


def processor_seconds(steps: Iterator[None], count: int) -> float:
    """The CPU time of so many steps."""
    began = time.process_time()
    for _ in range(count):
        next(steps)
    return time.process_time() - began


def mean_loss(batches: TextBatches, loss_of: Callable[[object], float]) -> float:
    """Nats a character over windows that are evenly spread over the last tenth."""
    shards = batches.validation(SCORED)
    return sum(map(loss_of, shards)) / sum(len(shard.targets_M) for shard in shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--iterations", type=int, default=2000, help="of nanoGPT's loop")
    parser.add_argument("--steps", type=int, help="of ours (default 0.2 of the iterations)")
    parser.add_argument("--text", type=Path, help="UTF-8, whose last tenth is scored")
    arguments = parser.parse_args()
    layers, heads, width, T = SHAPES[arguments.size]
    tokens, V = characters(arguments.text)
    ours = arguments.steps or round(SHARE * arguments.iterations)

    alphabet = Tokenizer(models.WordLevel({str(i): i for i in range(V)}))
    batches = TextBatches.of_tokens(tokens, alphabet, (), T, WINDOWS)
    gpt = GPTConfig(V, T, width, layers, heads, 32 * math.ceil(2.5 * width / 32))
    muon_lr, muon_rows = MUON[arguments.size]
    config = TrainingConfig(
        steps=ours, muon_lr=muon_lr, adamw_lr=ADAMW_LR, decay_fraction=DECAY, shards=1,
        muon_rows=muon_rows,
    )  # fmt: skip
    config, why = faster_type(batches, gpt, with_native(config, CPU))
    if why is not None:
        print(why)
    state = TrainingState.begin(gpt, config)
    torch.manual_seed(0)
    model = NanoGPT(V, layers, heads, width, T)
    split = len(tokens) * 9 // 10
    torch.set_num_threads(1)
    loops = {
        "nanoGPT": (
            nanogpt_steps(model, tokens[:split], T, arguments.iterations),
            arguments.iterations,
        ),
        "ours": (our_steps(state, batches), ours),
    }
    seconds = dict.fromkeys(loops, 0.0)
    for chunk in range(CHUNKS):
        for name, (steps, count) in loops.items():
            part = count * (chunk + 1) // CHUNKS - count * chunk // CHUNKS
            seconds[name] += processor_seconds(steps, part)

    def nanogpt_sum(shard) -> float:
        with torch.no_grad():
            rows = shard.inputs_M.split(T), shard.targets_M.split(T)
            pairs = zip(*rows, strict=True)
            return sum(float(model(x[None], y[None])) * len(y) for x, y in pairs)

    losses = {
        "nanoGPT": mean_loss(batches, nanogpt_sum),
        "ours": mean_loss(batches, lambda shard: shard_sums(state.model, shard).nll),
    }
    for name, (_, count) in loops.items():
        print(f"{name}: {count} steps, {seconds[name]:.1f} s, {losses[name]:.4f} nats a character")
    ratio = seconds["ours"] / seconds["nanoGPT"]
    holds = ratio <= GOAL and losses["ours"] <= losses["nanoGPT"]
    rate = ratio * arguments.iterations / ours
    print(f"a step takes {rate:.2f} of nanoGPT's time")
    print(f"time to the loss: {ratio:.3f}; goal {GOAL}: {'holds' if holds else 'FAILS'}")


if __name__ == "__main__":
    main()
