"""A language of 11 sentences and models that learn it in a second: what several test files train.

The language is finite, so that a test can go through all its prefixes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kullback.runtime.weights import weights_fingerprint
from kullback.sources.catalogue import open_source
from kullback.sources.language import Language
from kullback.training.batches import Shard
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.loop import train
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.text_batches import TextBatches

WEATHER = """
name = "weather"
start = "sentence"

[rules]
sentence = [
  { p = 0.6, then = "today <sky> <place>" },
  { p = 0.4, then = "ayer <cielo>" },
]
sky = [{ p = 0.5, then = "it rains" }, { p = 0.3, then = "the sun shines" }, { p = 0.2, then = "" }]
cielo = [{ p = 0.9, then = "llovió" }, { p = 0.1, then = "nevó mucho" }]
place = ["here", "there", ""]
"""

TIMES = ("tokens_per_second", "seconds_left")


def weather(folder: Path, sentences: int = 32, seed: int = 0) -> SentenceBatches:
    """Return batches of the language, whose grammar file is put into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weather.toml"
    path.write_text(WEATHER, encoding="utf-8")
    return SentenceBatches(open_source(str(path)), sentences, seed)


def text(folder: Path, words: int = 3000, seed: int = 0) -> TextBatches:
    """Return batches of a text of random sentences of the language."""
    language = weather(folder).source.training
    path = folder / "weather.txt"
    if not path.exists():
        import numpy as np

        sample = language.sample(words // 4, np.random.default_rng(0))
        path.write_text("\n".join(sample.texts()), encoding="utf-8")
    return TextBatches.read([path], vocabulary_size=270, context=8, windows=12, seed=seed)


def sizes(batches: SentenceBatches | TextBatches, width: int = 8) -> GPTConfig:
    """Return the sizes of a model for `batches`."""
    return GPTConfig(
        batches.vocabulary_size, batches.context, width, layers=1, heads=2, mlp_width=16
    )


def trained(run: Path, steps: int = 150) -> GPT:
    """Train a model of the language into `run`, to about 0.01 nats/token of KL."""
    batches = weather(run.parent, sentences=64)
    config = TrainingConfig(steps=steps, muon_lr=0.06, adamw_lr=0.02, shards=1)
    return train(run, batches, sizes(batches, width=16), config)


def metrics_but_times(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in TIMES} for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder but those of the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def fingerprint(model: GPT) -> str:
    """Return the fingerprint of a model's weights."""
    return weights_fingerprint(model.state_dict())


def prefixes(
    language: Language, prefix: tuple[int, ...] = (), p: float = 1.0
) -> Iterator[tuple[tuple[int, ...], float, torch.Tensor]]:
    """Yield every prefix of a finite language, its probability, and what follows it."""
    distribution = torch.from_numpy(language.next_token_distribution(prefix))
    yield prefix, p, distribution
    for token in range(2, len(distribution)):
        if distribution[token] > 0:
            yield from prefixes(language, (*prefix, token), p * distribution[token].item())


def exact_kl(gpt: GPT, language: Language) -> float:
    """Return KL(p‖q) in nats/token: the sum over all prefixes, written out."""
    double = GPT(gpt.config).double()
    double.load_state_dict(gpt.state_dict())
    total = tokens = 0.0
    with torch.no_grad():
        for prefix, reach, p in prefixes(language):
            log_q = torch.log_softmax(double(torch.tensor([[0, *prefix]]))[0, -1], dim=0)
            total += reach * torch.sum(torch.xlogy(p, p) - p * log_q).item()
            tokens += reach
    return total / tokens


def same_shards(first: list[Shard], second: list[Shard]) -> bool:
    """Whether two batches hold the same inputs and targets."""
    return len(first) == len(second) and all(
        torch.equal(a.inputs_M, b.inputs_M) and torch.equal(a.targets_M, b.targets_M)
        for a, b in zip(first, second, strict=True)
    )


def sequences(shards: list[Shard]) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and targets of each sequence."""
    pairs = []
    for shard in shards:
        lengths = shard.lengths_N.tolist()
        inputs, targets = shard.inputs_M.split(lengths), shard.targets_M.split(lengths)
        pairs += [(a.tolist(), b.tolist()) for a, b in zip(inputs, targets, strict=True)]
    return pairs


def random_gpt(config: GPTConfig) -> GPT:
    """A model with random norms, and logits that are far from uniform."""
    gpt = GPT(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        gpt.head_weight.mul_(20)
        for name, weight in gpt.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
    return gpt
