"""Claim: at a vocabulary of 262,144 an evaluation is faster than the usual loop, in 256 MB.

A random model of Gemma 3 270M's shape reads windows of random tokens:

* guide: the loop of the Transformers guide on perplexity, with all logits in memory, several times;
* bare: body and head, no softmax, all logits in memory;
* evaluate: our pass with all statistics of the records;
* compare: two such models, both passes and the divergences; compared with two of bare.

Time is the median over interleaved rounds; memory is the peak above the loaded models, each job in
a process of its own (Linux only).

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
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from compare_overhead import ours as compare
from compare_overhead import perturb
from evaluate_overhead import bare, guide
from evaluate_overhead import ours as evaluate
from job_process import measured
from kullback.models.huggingface import HuggingFaceModel
from kullback.runtime.memory import kept_freed_memory

VOCABULARY = 262_144
JOBS = ("guide", "bare", "evaluate", "compare")


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
    """The jobs of these names, with their models loaded; no more models than needed."""
    draw = torch.Generator().manual_seed(0)
    windows = [torch.randint(VOCABULARY, (1, window), generator=draw) for _ in range(count)]
    jobs: dict[str, Callable[[], object]] = {}
    if {"guide", "bare"} & set(names):
        unmodified = adapted(0).model
        jobs["guide"] = lambda: guide(unmodified, windows)
        jobs["bare"] = lambda: bare(unmodified, windows)
    if {"evaluate", "compare"} & set(names):
        reference = adapted(0)
        jobs["evaluate"] = lambda: evaluate(reference, windows)
    if "compare" in names:
        candidate = adapted(0)
        perturb(candidate.model, 0.05)
        jobs["compare"] = lambda: compare(reference, candidate, windows)
    return {name: partial(in_kept_memory, jobs[name]) for name in names}


def in_kept_memory(job: Callable[[], object]) -> None:
    """Run a job as in a pass over a text."""
    with kept_freed_memory():
        job()


def resident(field: str) -> int:
    """A line of this process's memory, in bytes."""
    line = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return 1024 * int(line[1])


def peak_above_model(name: str, window: int, count: int) -> int:
    """The memory that a job takes above its models, in bytes; to be called in a new process."""
    job = prepare((name,), window, count)[name]
    # Memory that loading has freed would hide what the job takes.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    job()
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", choices=JOBS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_above_model(arguments.memory_of, arguments.window, arguments.windows))
        return

    shape = ["--window", str(arguments.window), "--windows", str(arguments.windows)]
    memory = {}
    for name in JOBS:
        command = [sys.executable, __file__, "--memory-of", name, *shape]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory[name] = int(run.stdout)
    jobs = prepare(JOBS, arguments.window, arguments.windows)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(arguments.rounds):
        for name, job in jobs.items():
            times[name].append(measured(job))
    median = {
        name: tuple(statistics.median(pair) for pair in zip(*times[name], strict=True))
        for name in jobs
    }
    print(
        f"V = {VOCABULARY:,}, {arguments.windows} windows of {arguments.window}, "
        f"{arguments.rounds} rounds, medians"
    )
    print(f"{'job':<10} {'wall s':>8} {'cpu s':>8} {'peak memory above the model, MB':>34}")
    for name in JOBS:
        wall, cpu = median[name]
        print(f"{name:<10} {wall:8.2f} {cpu:8.2f} {memory[name] / 1e6:34.0f}")
    for job_name, limit, factor, goal in (
        ("evaluate", "guide", 1, 0.7),
        ("evaluate", "bare", 1, 1.05),
        ("compare", "bare", 2, 1.05),
    ):
        wall, cpu = (a / (factor * b) for a, b in zip(median[job_name], median[limit], strict=True))
        ratio = f"{job_name} / {factor} × {limit}" if factor > 1 else f"{job_name} / {limit}"
        print(f"{ratio}: {wall:.3f} of wall time, {cpu:.3f} of CPU time (goal <= {goal})")


if __name__ == "__main__":
    main()
