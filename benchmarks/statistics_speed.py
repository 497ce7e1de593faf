"""Claim: all statistics of a record take at most a quarter of the time of the head's matmul.

That is at SmolLM2-135M's shape (D = 576, V = 49,152), whose body costs at least four times the
head: the statistics are at most 5 % of the forward pass.  At V = 262,144 (D = 640) they take less
time than the logits of all tokens with torch's `cross_entropy`, and megabytes instead of gigabytes.
A first table is about two models, whose divergences may cost 5 % of two forward passes: half a
matmul.

Each line: medians of interleaved rounds on one thread, as ratios.

    python benchmarks/statistics_speed.py [--rounds 5] [--rows 512] [--only SmolLM2]
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import time
from collections.abc import Callable

import torch

from kullback.predictions.base import FactoredPredictions, Head
from kullback.scoring.divergence import divergence_statistics
from kullback.scoring.token_statistics import token_statistics

SHAPES = {"SmolLM2-135M": (576, 49_152), "Gemma 3 270M": (640, 262_144)}


def medians(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each job, interleaved; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mb() -> float:
    """The largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def predictions(rows: int, width: int, vocabulary: int) -> FactoredPredictions:
    """Random hidden states and head, with logits of standard deviation 3."""
    hidden = torch.randn(rows, width)
    return FactoredPredictions(hidden, Head(torch.randn(vocabulary, width) * (3 / width**0.5)))


def matmul_in_blocks(*models: FactoredPredictions) -> None:
    """The heads' matmuls alone, in the block shape where they are fastest."""
    for model in models:
        for start in range(0, len(model), 512):
            for column in range(0, model.vocabulary_size, 1024):
                model.logits(slice(start, start + 512), slice(column, column + 1024))


def statistics_table(model: FactoredPredictions, targets: torch.Tensor, rounds: int) -> str:
    """One model: all statistics against the matmul, and against whole logits."""

    def whole() -> torch.Tensor:
        logits = model.logits(slice(None))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    before = peak_mb()
    token_statistics(model, targets)
    extra = peak_mb() - before
    seconds = medians(
        {
            "matmul": lambda: matmul_in_blocks(model),
            "statistics": lambda: token_statistics(model, targets),
            "whole logits + cross_entropy": whole,
        },
        rounds,
    )
    return (
        f"{table(seconds, len(model) * model.vocabulary_size)}"
        f"  statistics / matmul {seconds['statistics'] / seconds['matmul']:.3f}, "
        f"/ whole {seconds['statistics'] / seconds['whole logits + cross_entropy']:.3f}, "
        f"extra memory {extra:.0f} MB"
    )


def divergence_table(model: FactoredPredictions, targets: torch.Tensor, rounds: int) -> str:
    """Two models: the divergences against the two matmuls, for small and large differences."""
    lines = []
    for noise in (1e-3, 0.1):
        other = FactoredPredictions(
            model.hidden_MD + noise * torch.randn_like(model.hidden_MD), model.head
        )
        before = peak_mb()
        mean = divergence_statistics(model, other, targets).kl.mean()
        extra = peak_mb() - before
        seconds = medians(
            {
                "two matmuls": functools.partial(matmul_in_blocks, model, other),
                "divergences": functools.partial(divergence_statistics, model, other, targets),
            },
            rounds,
        )
        lines.append(
            f"{table(seconds, len(model) * model.vocabulary_size)}"
            f"  KL {mean:.1e}: divergences / two matmuls "
            f"{seconds['divergences'] / seconds['two matmuls']:.3f}, extra memory {extra:.0f} MB"
        )
    return "\n".join(lines)


def table(seconds: dict[str, float], logits: int) -> str:
    """Nanoseconds a logit."""
    return "".join(
        f"  {name}: {1e9 * value / logits:.2f} ns/logit\n" for name, value in seconds.items()
    )


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--only", default="", help="part of a shape's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (width, vocabulary) in SHAPES.items():
        if options.only not in name:
            continue
        model = predictions(options.rows, width, vocabulary)
        targets = torch.randint(vocabulary, (options.rows,))
        print(f"{name}: D = {width}, V = {vocabulary}, {options.rows} rows, one thread")
        print(divergence_table(model, targets, options.rounds), flush=True)
        print(statistics_table(model, targets, options.rounds), flush=True)


if __name__ == "__main__":
    main()
