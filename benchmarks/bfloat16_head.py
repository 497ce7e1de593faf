"""Claim: on a CPU an evaluation in bfloat16 costs no more than the bare forward pass in bfloat16.

Three jobs read the same windows of random tokens with the same random Llama (the shape of
SmolLM2-135M) in alternating rounds: *bare*, the body and the head's matmul as the model does them;
*guide*, the loop of the Transformers guide on perplexity; *evaluate*, our pass with all statistics.
Goals, on a processor with bfloat16 products: evaluate <= 1.05 of bare and <= 0.95 of guide, its nll
within 2e-6 of float64's of the same hidden states in the mean, and 1e-5 at worst.

Then the head alone, by public functions of torch that multiply bfloat16 numbers on a CPU, and by
libtorch's brgemm, with the time and the errors of the nll:

* float32: the numbers widened, as our pass does where it has no such products;
* brgemm: float32 results (:mod:`kullback.runtime.bfloat16_products`), as our pass does otherwise;
* rounded: bfloat16 results;
* twice: bfloat16 results, plus what they lost by a second product, rounded likewise;
* oneDNN: float32 numbers that are bfloat16 ones under ``fp32_precision = "bf16"``.  This is a
  setting of the process: it would round other threads' float32 matmuls; our pass does not use it.

Run it: ``python benchmarks/bfloat16_head.py [--shape small] [--rounds N]``
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from accelerator import SHAPES, Jobs, Shape, random_llama, seconds
from kullback.predictions.base import FactoredPredictions
from kullback.runtime.bfloat16_products import bfloat16_products
from kullback.scoring.token_statistics import token_statistics

SHAPES["smollm2-135m"] = Shape(576, 1536, 30, 9, 3, 49152, windows=8, window=1024, documents=1)
GOALS = {"bare": 1.05, "guide": 0.95}
MEAN_GOAL, WORST_GOAL = 2e-6, 1e-5


@contextmanager
def rounded_inputs() -> Iterator[None]:
    """Float32 matmuls round their inputs to bfloat16, in the whole process."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def by_float32(hidden: Tensor, weight: Tensor) -> Tensor:
    return linear(hidden.float(), weight.float())


def rounded(hidden: Tensor, weight: Tensor) -> Tensor:
    return linear(hidden, weight).float()


def twice(hidden: Tensor, weight: Tensor) -> Tensor:
    logits = linear(hidden, weight)
    return logits.float() + torch.addmm(-logits, hidden, weight.T).float()


def by_onednn(hidden: Tensor, weight: Tensor) -> Tensor:
    with rounded_inputs():
        return linear(hidden.float(), weight.float())


def by_brgemm(hidden: Tensor, weight: Tensor) -> Tensor:
    products = bfloat16_products()
    assert products is not None, "this processor, or torch on it, has no such products"
    return products.product(hidden, weight)


HEADS = {"float32": by_float32, "rounded": rounded, "twice": twice, "oneDNN": by_onednn}
if bfloat16_products() is not None:
    HEADS["brgemm"] = by_brgemm


def errors(nll: Tensor, exact: Tensor) -> str:
    """The mean and the largest error of the nll."""
    difference = nll.double() - exact
    mean, worst = abs(float(difference.mean())), float(difference.abs().max())
    return f"mean {mean:.1e} (goal {MEAN_GOAL:g}), worst {worst:.1e} (goal {WORST_GOAL:g})"


@torch.inference_mode()
def heads(jobs: Jobs, rounds: int) -> list[str]:
    """The time and the errors of each way to multiply, on the hidden states of our pass."""
    model = jobs.reference.model
    window = jobs.inputs[0]
    predictions = model.predict(window)
    assert isinstance(predictions, FactoredPredictions)
    wide, weight, targets = predictions.hidden_MD, predictions.head.weight_VD, window[0].roll(-1)
    hidden = wide.to(torch.bfloat16)
    assert torch.equal(hidden.float(), wide), "hidden states are no bfloat16 numbers"
    logits = torch.cat([rows.double() @ weight.double().T for rows in wide.split(128)])
    exact = -logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    lines = []
    for name, head in HEADS.items():
        calls: list[Callable[[], object]] = [partial(head, hidden, weight)] * rounds
        time = statistics.median(seconds(call, "cpu") for call in calls)
        made = head(hidden, weight)
        nll = made.logsumexp(dim=1) - made.gather(1, targets[:, None])[:, 0]
        lines.append(f"head {name:<8} {time:7.3f} s  {errors(nll, exact)}")
    ours = torch.from_numpy(token_statistics(predictions, targets).nll)
    return [*lines, f"nll of evaluate:          {errors(ours, exact)}"]


def measure(name: str, rounds: int) -> list[str]:
    """The lines of the report."""
    model = random_llama(name, "cpu")
    jobs = Jobs(model, model, SHAPES[name])
    timed = {"bare": jobs.bare, "guide": jobs.guide, "evaluate": jobs.evaluate}
    times: dict[str, list[float]] = {job: [] for job in timed}
    for _ in range(rounds + 1):
        for job, call in timed.items():
            times[job].append(seconds(call, "cpu"))
    # The first round loads code and memory.
    median = {job: statistics.median(values[1:]) for job, values in times.items()}
    tokens = sum(window.numel() for window in jobs.inputs)
    lines = [
        f"{job:<8} {time:7.2f} s {tokens / time:9.0f} tokens/s" for job, time in median.items()
    ]
    lines += [
        f"evaluate / {job}: {median['evaluate'] / median[job]:.3f} (goal <= {goal})"
        for job, goal in GOALS.items()
    ]
    return [*lines, *heads(jobs, rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["small", "smollm2-135m"], default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    flags = [name for name in ("avx512_bf16", "amx_bf16") if name in processor_flags()]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bfloat16: {flags}")
    print("\n".join(measure(arguments.shape, arguments.rounds)))


def processor_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
