"""Claim: `kullback train` processes twice the tokens a second of nanoGPT's loop.

nanoGPT's loop (Karpathy 2022, github.com/karpathy/nanoGPT, MIT) is written here from its
description: a GPT-2 block (LayerNorm, learned positions, GELU, scaled_dot_product_attention), tied
head, `cross_entropy` over whole logits, AdamW with weight decay on matrices, gradient clipping at
1.0, random windows of one token stream, float32, eager, no dropout and no biases as in its
CPU recipe.  Both have the same width, depth, heads, vocabulary, nearly the same number of
parameters, tokens a step, and source of text; nanoGPT's loop gets torch's threads, ours its own.

Two settings: the lab's (V = 604, sentences), and nanoGPT's README recipe for a CPU (4 layers, width
128, 12 windows of 64 characters).  Each measurement runs in a process of its own, the two
alternate, and the ratio is that of the medians.

Run it: ``python benchmarks/training_throughput.py [rounds]``
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 2.0
STEPS = 160
WARM_UP = 20
SETTINGS = {  # width, layers, heads, tokens a window, windows a step
    "lab": (64, 2, 2, 32, 108),
    "nanoGPT README": (128, 4, 4, 64, 12),
}


def tokens_of(setting: str):
    """One stream of tokens: words of the conjugation language, or its characters."""
    import numpy as np

    from kullback.sources.catalogue import open_source

    language = open_source("conjugation").training
    sample = language.sample(60_000, np.random.default_rng(0))
    if setting == "lab":
        rows = np.concatenate([np.zeros((len(sample), 1), sample.tokens.dtype), sample.tokens], 1)
        keep = np.concatenate([np.ones((len(sample), 1), bool), sample.mask], 1)
        return rows[keep].astype(np.int64), len(language.vocabulary)
    text = "\n".join(list(sample.texts())[:15_000])
    alphabet = sorted(set(text))
    place = {character: i for i, character in enumerate(alphabet)}
    return np.array([place[character] for character in text], dtype=np.int64), len(alphabet)


def nanogpt(setting: str) -> float:
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    width, layers, heads, T, windows = SETTINGS[setting]
    tokens, V = tokens_of(setting)
    data = torch.from_numpy(tokens)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.c_attn = nn.Linear(width, 3 * width, bias=False)
            self.c_proj = nn.Linear(width, width, bias=False)
            self.fc = nn.Linear(width, 4 * width, bias=False)
            self.out = nn.Linear(4 * width, width, bias=False)

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = (
                part.view(B, T, heads, C // heads).transpose(1, 2)
                for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
            return x + self.out(F.gelu(self.fc(self.ln_2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(V, width), nn.Embedding(T, width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.ln_f = nn.LayerNorm(width, bias=False)
            self.head = nn.Linear(width, V, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, x, y):
            h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
            for block in self.blocks:
                h = block(h)
            logits = self.head(self.ln_f(h))
            return F.cross_entropy(logits.view(-1, V), y.view(-1), ignore_index=-1)

    model = Model()
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.1},
            {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.99),
    )

    def batch():
        starts = torch.randint(len(data) - T, (windows,))
        x = torch.stack([data[i : i + T] for i in starts])
        return x, torch.stack([data[i + 1 : i + 1 + T] for i in starts])

    x, y = batch()
    for step in range(STEPS):
        if step == WARM_UP:
            began = time.perf_counter()
        loss = model(x, y)
        x, y = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return (STEPS - WARM_UP) * windows * T / (time.perf_counter() - began)


def ours(setting: str) -> float:
    from tokenizers import Tokenizer, models

    from kullback.sources.catalogue import open_source
    from kullback.training.config import TrainingConfig
    from kullback.training.gpt import GPTConfig
    from kullback.training.interruption import Interrupted
    from kullback.training.loop import train
    from kullback.training.sentence_batches import SentenceBatches
    from kullback.training.text_batches import TextBatches

    width, layers, heads, T, windows = SETTINGS[setting]
    if setting == "lab":
        batches = SentenceBatches(open_source("conjugation"), 256)
    else:
        tokens, V = tokens_of(setting)
        alphabet = Tokenizer(models.WordLevel({str(i): i for i in range(V)}))
        batches = TextBatches.of_tokens(tokens, alphabet, (), T, windows)
    # SwiGLU has three matrices where GELU has two: 8/3 × width, here the next multiple of 32, gives
    # about the parameters of 4 × width (the lab's 96 %, the README's 102 % of a block's).
    mlp_width = 32 * round(8 / 3 * width / 32)
    gpt = GPTConfig(batches.vocabulary_size, batches.context, width, layers, heads, mlp_width)
    config = TrainingConfig(steps=10 * STEPS, log_every=10, evaluate_every=10**9)
    seen: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Interrupted):
        train(
            Path(folder) / "run", batches, gpt, config,
            lambda now: seen.append((time.perf_counter(), now.tokens)), stop_at=STEPS,
        )  # fmt: skip
    # Reports come at step 1, 10, 20 ...
    (began, before), (ended, after) = seen[WARM_UP // 10], seen[-1]
    return (after - before) / (ended - began)


def main(rounds: int) -> None:
    for setting in SETTINGS:
        rates: dict[str, list[float]] = {"nanogpt": [], "ours": []}
        for _ in range(rounds):
            for loop, measured in rates.items():
                command = [sys.executable, __file__, "--worker", loop, setting]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                measured.append(float(output.split()[-1]))
        theirs, own = (statistics.median(rate) for rate in rates.values())
        verdict = "holds" if own / theirs >= GOAL else "FAILS"
        print(
            f"{setting}: ours {own:,.0f} tokens/s, nanoGPT's loop {theirs:,.0f}: "
            f"ratio {own / theirs:.2f}; goal {GOAL:.0f}: {verdict}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print({"nanogpt": nanogpt, "ours": ours}[sys.argv[2]](sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
