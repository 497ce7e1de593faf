"""Claim: kullback's scalar engine runs micrograd's own example at least twice as fast.

The example is micrograd's demo: two moons of 100 points, an MLP of 2, 16, 16 and 1 neurons with
ReLU, the SVM max-margin loss and an L2 penalty.  Both engines run the same script from the same
weights; one forward and backward pass is timed at a time, the engines alternate, and the medians
are compared.  The gradients must be equal before a ratio is printed.

micrograd's graphs are cycles that only the garbage collector can free, which costs several times
its arithmetic, depending on the other objects of the process.  So the second line, with the
collector switched off for both, is the claim, and the first is what a user experiences.

Run it: ``python benchmarks/autograd_speed.py``
"""

from __future__ import annotations

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable
from random import Random

import micrograd.engine
import micrograd.nn

from kullback.theory import autograd

GOAL = 2.0
ROUNDS = 11

Points = list[tuple[list[float], int]]


def two_moons(count: int, noise: float, rng: Random) -> Points:
    """Two interleaved half circles, labelled -1 and 1."""
    points: Points = []
    for i in range(count):
        angle = math.pi * rng.random()
        x, y = math.cos(angle), math.sin(angle)
        upper = i % 2 == 0
        centre = (x, y) if upper else (1.0 - x, 0.5 - y)
        points.append(([c + rng.gauss(0.0, noise) for c in centre], -1 if upper else 1))
    return points


def example_loss(value, score, parameters, points: Points):
    """micrograd's demo loss, in operations that both engines have."""
    scores = [score([value(x) for x in inputs]) for inputs, _ in points]
    margins = [(1 + -label * s).relu() for (_, label), s in zip(points, scores, strict=True)]
    data_loss = sum(margins) * (1.0 / len(margins))
    return data_loss + 1e-4 * sum(p * p for p in parameters)


def timed(step: Callable[[], None]) -> float:
    gc.collect()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def medians(steps: list[Callable[[], None]]) -> list[float]:
    """The median seconds of each step; the steps alternate."""
    rounds = [[timed(step) for step in steps] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def main() -> None:
    points = two_moons(100, 0.1, Random(1337))
    theirs = micrograd.nn.MLP(2, [16, 16, 1])
    ours = autograd.MLP([2, 16, 16, 1], Random(1337))
    for source, copy in zip(ours.parameters(), theirs.parameters(), strict=True):
        copy.data = source.data

    def their_step() -> None:
        theirs.zero_grad()
        example_loss(micrograd.engine.Value, theirs, theirs.parameters(), points).backward()

    def our_step() -> None:
        autograd.zero_grad(ours.parameters())
        example_loss(autograd.Value, lambda x: ours(x)[0], ours.parameters(), points).backward()

    their_step()
    our_step()
    pairs = [(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert all(math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15) for a, b in pairs), "gradients"
    assert sum(b != 0 for _, b in pairs) > 200, "the example must exercise the network"
    worst = max(abs(a - b) for a, b in pairs)
    print(f"Python {platform.python_version()}, {len(pairs)} parameters, {len(points)} points")
    print(f"largest difference of a gradient: {worst:.1e}")

    their_time, our_time = medians([their_step, our_step])
    print_row("collector on ", their_time, our_time)
    gc.disable()
    their_time, our_time = medians([their_step, our_step])
    gc.enable()
    print_row("collector off", their_time, our_time)
    assert their_time / our_time >= GOAL, f"the goal is a ratio of {GOAL}"


def print_row(name: str, theirs: float, ours: float) -> None:
    print(
        f"{name}   micrograd {theirs * 1e3:7.1f} ms   kullback {ours * 1e3:6.1f} ms   "
        f"ratio {theirs / ours:5.1f} (goal ≥ {GOAL})"
    )


if __name__ == "__main__":
    main()
