"""Claim: the 95 % interval of the fitted irreducible loss covers the true one in about 95 %.

Simulated ladders with a known E, L = E + A·x^(-alpha)·(1 + noise), and on top the error of a shared
validation sample, which shifts all rungs alike.  `--curves N` for each setting; prints the share of
curves whose interval contains E, the median width over the losses' range, and the share of fits
that say that E is not identified.

    python benchmarks/scaling_coverage.py --curves 400

With `--ladder` real ones: mini-GPTs trained on the embedded source for `--steps`, then 2, 4, 8, ...
times as many, each rung with its own data and weights, scored on the same sample of sentences,
which the bootstrap resamples for all rungs at once; once for each of `--seeds`.  It prints the
fitted E and its interval beside the exact entropy (smallest: --steps 20 --rungs 4 --seeds 1).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from kullback.ladder.scaling import scaling
from kullback.theory.scaling_law import fit_scaling_law

# E, the excess at the smallest rung, alpha, rungs (each twice as large), relative noise, shift.
SETTINGS = (
    (0.694, 1.0, 0.5, 5, 0.01, 0.002),
    (0.694, 1.0, 0.5, 5, 0.05, 0.002),
    (0.694, 1.0, 0.5, 8, 0.05, 0.002),
    (0.694, 1.0, 1.0, 5, 0.05, 0.002),
    (1.7, 2.0, 0.3, 8, 0.01, 0.002),
    (1.7, 2.0, 0.3, 4, 0.01, 0.0),
    (1.7, 2.0, 0.1, 6, 0.01, 0.0),  # next to a line in log x: E is not identified
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rungs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    if options.ladder:
        ladders(options)
    else:
        curves(options)


def ladders(options: argparse.Namespace) -> None:
    """Real ladders of data on the embedded source, as `kullback scaling` trains them."""
    covered = 0
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            result = scaling(
                Path(folder) / "ladder", steps=options.steps, rungs=options.rungs, threads=1,
                seed=1000 * seed,
            )  # fmt: skip
        law = result.law
        low, high = law.floor_interval
        covered += bool(result.covers_exact)
        print(
            f"seed {seed}: losses {[round(rung.loss, 4) for rung in result.rungs]}, E "
            f"{law.floor:.4f} [{low:.4f}, {high:.4f}], exact {result.exact_entropy:.4f}, alpha "
            f"{law.exponent:.2f}, noise {law.noise:.3f}"
            f"{'' if law.identified else ', E is not identified'}; {result.seconds:.0f} s",
            flush=True,
        )
    print(f"{covered} of {options.seeds} intervals contain the exact entropy")


def curves(options: argparse.Namespace) -> None:
    """Simulated ladders."""
    print("E      excess alpha rungs noise shift   covered    width/range  not identified")
    for floor, excess, alpha, rungs, noise, shift in SETTINGS:
        rng = np.random.default_rng(0)
        x_R = 2.0 ** np.arange(rungs)
        covered, widths, lost = 0, [], 0
        began = time.perf_counter()
        for curve in range(options.curves):
            over_R = excess * x_R**-alpha
            moved = shift * rng.standard_normal()
            loss_R = floor + over_R * (1 + noise * rng.standard_normal(rungs)) + moved
            samples = loss_R + shift * rng.standard_normal((options.replicates, 1))
            law = fit_scaling_law(x_R, loss_R, samples, options.replicates, curve)
            low, high = law.floor_interval
            covered += low <= floor <= high
            widths.append((high - low) / np.ptp(loss_R))
            lost += not law.identified
        share = covered / options.curves
        error = 1.96 * np.sqrt(max(share * (1 - share), 0.01) / options.curves)
        print(
            f"{floor:5.3f} {excess:5.1f} {alpha:6.2f} {rungs:4d} {noise:6.2f} {shift:6.3f}   "
            f"{share:.3f} ± {error:.3f}  {np.median(widths):8.3f}  {lost / options.curves:8.2f}"
            f"   {1000 * (time.perf_counter() - began) / options.curves:.0f} ms a curve",
            flush=True,
        )


if __name__ == "__main__":
    main()
