"""What the statistics cost over the matmul that makes the logits, and over making them whole.

Claims: at SmolLM2-135M's shape (D = 576, V = 49,152) all statistics of a record cost at most a
quarter of the head's matmul (the body costs at least four times the head, so at most 5 % of the
forward); at V = 262,144 (D = 640) they take less time than the whole logits with torch's
`cross_entropy`, and megabytes instead of gigabytes.  A first table does the same for two models,
whose divergences may cost 5 % of two forwards: half a matmul, by the same count.

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
    """The heads' matmuls alone, in the shape where they are fastest."""
    for made in models:
        for start in range(0, len(made), 512):
            for word in range(0, made.vocabulary_size, 1024):
                made.logits(slice(start, start + 512), slice(word, word + 1024))


def statistics_table(made: FactoredPredictions, targets: torch.Tensor, rounds: int) -> str:
    """One model: all statistics against the matmul, and against whole logits."""

    def whole() -> torch.Tensor:
        logits = made.logits(slice(None))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    before = peak_mb()
    token_statistics(made, targets)
    extra = peak_mb() - before
    found = medians(
        {
            "matmul": lambda: matmul_in_blocks(made),
            "statistics": lambda: token_statistics(made, targets),
            "whole logits + cross_entropy": whole,
        },
        rounds,
    )
    return (
        f"{table(found, len(made) * made.vocabulary_size)}"
        f"  statistics / matmul {found['statistics'] / found['matmul']:.3f}, "
        f"/ whole {found['statistics'] / found['whole logits + cross_entropy']:.3f}, "
        f"extra memory {extra:.0f} MB"
    )


def divergence_table(made: FactoredPredictions, targets: torch.Tensor, rounds: int) -> str:
    """Two models: the divergences against the two matmuls, for small and large differences."""
    lines = []
    for noise in (1e-3, 0.1):
        other = FactoredPredictions(
            made.hidden_MD + noise * torch.randn_like(made.hidden_MD), made.head
        )
        before = peak_mb()
        mean = divergence_statistics(made, other, targets).kl.mean()
        extra = peak_mb() - before
        found = medians(
            {
                "two matmuls": functools.partial(matmul_in_blocks, made, other),
                "divergences": functools.partial(divergence_statistics, made, other, targets),
            },
            rounds,
        )
        lines.append(
            f"{table(found, len(made) * made.vocabulary_size)}"
            f"  KL {mean:.1e}: divergences / two matmuls "
            f"{found['divergences'] / found['two matmuls']:.3f}, extra memory {extra:.0f} MB"
        )
    return "\n".join(lines)


def table(found: dict[str, float], logits: int) -> str:
    """Nanoseconds a logit."""
    return "".join(
        f"  {name}: {1e9 * value / logits:.2f} ns/logit\n" for name, value in found.items()
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
        made = predictions(options.rows, width, vocabulary)
        targets = torch.randint(vocabulary, (options.rows,))
        print(f"{name}: D = {width}, V = {vocabulary}, {options.rows} rows, one thread")
        print(divergence_table(made, targets, options.rounds), flush=True)
        print(statistics_table(made, targets, options.rounds), flush=True)


if __name__ == "__main__":
    main()
