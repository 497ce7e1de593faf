"""Claim: the 95 % interval of the fitted irreducible loss covers the true one in about 95 %.

Simulated ladders with a known E, L = E + A·x^(-alpha)·(1 + noise), and on top the error of a shared
validation sample, which shifts all rungs alike.  `--curves N` for each setting; prints the share of
curves whose interval contains E, the median width over the losses' range, and the share of fits
that say that E is not identified.

    python benchmarks/scaling_coverage.py --curves 400
"""

from __future__ import annotations

import argparse
import time

import numpy as np

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
    options = parser.parse_args()
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
