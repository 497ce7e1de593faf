"""Claim: at a vocabulary of 262,144 an evaluation is faster than the usual loop, in 256 MB.

A random model of Gemma 3 270M's shape reads windows of random words:

* guide: the loop of the Transformers guide on perplexity, which holds all logits, several times;
* bare: body and head, no softmax, all logits in memory;
* evaluate: our pass with all statistics of the records;
* compare: two such models, both passes and the divergences; set against two of bare.

Time is the median over interleaved rounds; memory is the peak above the loaded models, each side
in a process of its own (Linux only).

Goals: evaluate <= 0.7 of the guide; compare <= 1.05 of two of bare; both within 256 MB.

Run it: ``python benchmarks/wide_vocabulary.py [--window N] [--windows N] [--rounds N]``
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from compare_overhead import ours as compare
from compare_overhead import perturb
from evaluate_overhead import bare, guide, untouched
from evaluate_overhead import ours as evaluate
from kullback.models.huggingface import HuggingFaceModel
from kullback.runtime.memory import keep_freed_memory
from side_process import measured

VOCABULARY = 262_144
SIDES = ("guide", "bare", "evaluate", "compare")


def random_model(seed: int) -> Gemma3ForCausalLM:
    """Gemma 3 270M with random weights; the shape is that of its published configuration."""
    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        max_position_embeddings=32_768,
    )
    return Gemma3ForCausalLM(config).eval()


def adapted(seed: int) -> HuggingFaceModel:
    tokenizer = SimpleNamespace(vocabulary_size=VOCABULARY)
    return HuggingFaceModel.wrap(random_model(seed), tokenizer, "Gemma 3 270M's shape")


def prepare(names: tuple[str, ...], window: int, count: int) -> dict[str, Callable[[], object]]:
    """The work of each side, its models loaded; no more models than needed."""
    draw = torch.Generator().manual_seed(0)
    windows = [torch.randint(VOCABULARY, (1, window), generator=draw) for _ in range(count)]
    sides: dict[str, Callable[[], object]] = {}
    if {"guide", "bare"} & set(names):
        plain = untouched(adapted(0))
        sides["guide"] = lambda: guide(plain, windows)
        sides["bare"] = lambda: bare(plain, windows)
    if {"evaluate", "compare"} & set(names):
        reference = adapted(0)
        sides["evaluate"] = lambda: evaluate(reference, windows)
    if "compare" in names:
        candidate = adapted(0)
        perturb(candidate.model, 0.05)
        sides["compare"] = lambda: compare(reference, candidate, windows)
    keep_freed_memory()  # as after loading
    return {name: sides[name] for name in names}


def resident(field: str) -> int:
    """A line of this process's memory, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def peak_above_model(name: str, window: int, count: int) -> int:
    """How much memory a side takes, in bytes; to be called in a fresh process."""
    work = prepare((name,), window, count)[name]
    # What loading has left behind is not the model's, and would hide what the work takes.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_above_model(arguments.memory_of, arguments.window, arguments.windows))
        return

    shape = ["--window", str(arguments.window), "--windows", str(arguments.windows)]
    memory = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--memory-of", side, *shape]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory[side] = int(run.stdout)
    sides = prepare(SIDES, arguments.window, arguments.windows)
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for work in sides.values():
        work()
    for _ in range(arguments.rounds):
        for side, work in sides.items():
            times[side].append(measured(work))
    median = {
        side: tuple(statistics.median(pair) for pair in zip(*times[side], strict=True))
        for side in sides
    }
    print(
        f"V = {VOCABULARY:,}, {arguments.windows} windows of {arguments.window}, "
        f"{arguments.rounds} rounds, medians"
    )
    print(f"{'side':<10} {'wall s':>8} {'cpu s':>8} {'peak memory above the model, MB':>34}")
    for side in SIDES:
        wall, cpu = median[side]
        print(f"{side:<10} {wall:8.2f} {cpu:8.2f} {memory[side] / 1e6:34.0f}")
    for one, other, times_other, goal in (
        ("evaluate", "guide", 1, 0.7),
        ("evaluate", "bare", 1, 1.05),
        ("compare", "bare", 2, 1.05),
    ):
        wall, cpu = (a / (times_other * b) for a, b in zip(median[one], median[other], strict=True))
        what = f"{one} / {times_other} × {other}" if times_other > 1 else f"{one} / {other}"
        print(f"{what}: {wall:.3f} by the clock, {cpu:.3f} by processor time (goal <= {goal})")


if __name__ == "__main__":
    main()
