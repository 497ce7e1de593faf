"""Claim: the 95 % interval of the fitted irreducible loss covers the true one in about 95 %.

Simulated ladders with a known E, L = E + A·x^(-alpha)·(1 + noise), and on top the error of a shared
validation sample, which shifts all rungs alike.  `--curves N` for each setting; prints the share of
curves whose interval contains E, the median width over the losses' range, and the share of fits
that say that E is not identified.

    python benchmarks/scaling_coverage.py --curves 400

With `--ladder` real ones, as `kullback scaling` trains them: mini-GPTs on `--source`, the first
rung of `--steps`, each rung with weights and data of its own; once for each of `--seeds` from
`--first`.  It prints the fitted E and its interval beside the exact entropy, and with `--records
FILE.jsonl` appends each result as it comes.  The default of the command takes four minutes a
seed; the default here is on a cheaper source, half as wide, with half the batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from kullback.ladder.scaling import scaling
from kullback.theory.scaling_law import fit_scaling_law

# E, excess at the smallest rung, alpha, rungs (each twice as large), relative noise, error of the
# sample (common to all rungs; a tenth of it for each rung), a transient that falls like x^-4, in
# multiples of the excess at the smallest rung, and the x from where the exponent rises to 1.
SETTINGS = (
    (0.694, 1.0, 0.5, 5, 0.01, 0.002, 0.0, 0),
    (0.694, 1.0, 0.5, 5, 0.05, 0.002, 0.0, 0),
    (0.694, 1.0, 0.5, 8, 0.05, 0.002, 0.0, 0),
    (0.694, 1.0, 1.0, 5, 0.05, 0.002, 0.0, 0),
    (1.7, 2.0, 0.3, 8, 0.01, 0.002, 0.0, 0),
    (1.7, 2.0, 0.3, 4, 0.01, 0.0, 0.0, 0),
    (1.7, 2.0, 0.1, 6, 0.01, 0.0, 0.0, 0),  # next to a line in log x: E is not identified
    # That of `--source associations`: exponent, noise and errors are measured on it (docs/log.md).
    (2.266, 0.18, 0.7, 7, 0.08, 0.002, 0.0, 0),
    (2.266, 0.18, 0.7, 7, 0.08, 0.002, 0.3, 0),
    (2.266, 0.18, 0.7, 7, 0.08, 0.002, 1.0, 0),
    (2.266, 0.18, 0.7, 7, 0.15, 0.002, 0.0, 0),
    (2.266, 0.18, 0.9, 7, 0.08, 0.002, 0.0, 0),
    (2.266, 0.18, 1.0, 7, 0.08, 0.002, 0.0, 0),
    (2.266, 0.18, 0.6, 7, 0.08, 0.002, 0.0, 16),
    (2.266, 0.18, 0.6, 7, 0.03, 0.002, 0.0, 16),
    (2.266, 0.18, 0.6, 7, 0.08, 0.002, 0.3, 16),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--source", default="associations")
    parser.add_argument("--vary", choices=("data", "size"), default="data")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rungs", type=int, default=7)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--records", type=Path)
    options = parser.parse_args()
    if options.ladder:
        ladders(options)
    else:
        curves(options)


def ladders(options: argparse.Namespace) -> None:
    """Real ladders, as `kullback scaling` trains them."""
    covered, identified = 0, 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            result = scaling(
                Path(folder) / "ladder", source=options.source, vary=options.vary,
                steps=options.steps, rungs=options.rungs, width=options.width,
                batch=options.batch, threads=1, seed=seed,
            )  # fmt: skip
            seconds = time.process_time() - began
        law, exact = result.law, result.exact_entropy
        low, high = law.floor_interval
        covered += bool(result.covers_exact)
        identified += law.identified
        print(
            f"seed {seed}: losses less the entropy "
            f"{[round(rung.loss - exact, 4) for rung in result.rungs]}, E {law.floor:.4f} "
            f"[{low:.4f}, {high:.4f}], exact {exact:.4f}, alpha {law.exponent:.2f}, noise "
            f"{law.noise:.3f}{'' if law.identified else ', E is not identified'}"
            f"{'' if result.covers_exact else ', NOT COVERED'}; {seconds:.0f} s of one processor",
            flush=True,
        )
        if options.records is not None:
            with options.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"seed": seed, **json.loads(result.to_json())}) + "\n")
    print(
        f"{covered} of {options.seeds} intervals contain the exact entropy; E is identified in "
        f"{identified}"
    )


def curves(options: argparse.Namespace) -> None:
    """Simulated ladders."""
    print(
        "E      excess alpha rungs noise shift  transient bend covered    width/range  not "
        "identified"
    )
    for floor, excess, alpha, rungs, noise, shift, transient, bend in SETTINGS:
        rng = np.random.default_rng(0)
        x_R = 2.0 ** np.arange(rungs)
        covered, widths, lost = 0, [], 0
        began = time.perf_counter()
        for curve in range(options.curves):
            power_R = x_R**-alpha
            if bend:
                power_R *= (1 + (x_R / bend) ** 2) ** ((alpha - 1) / 2)
            over_R = excess * (power_R + transient * x_R**-4.0)
            moved = shift * rng.standard_normal()
            own_R = 0.1 * shift * rng.standard_normal(rungs)
            loss_R = floor + over_R * (1 + noise * rng.standard_normal(rungs)) + moved + own_R
            samples = loss_R + shift * rng.standard_normal((options.replicates, 1))
            samples += 0.1 * shift * rng.standard_normal((*samples.shape[:1], rungs))
            law = fit_scaling_law(x_R, loss_R, samples, options.replicates, curve, True)
            low, high = law.floor_interval
            covered += low <= floor <= high
            widths.append((high - low) / np.ptp(loss_R))
            lost += not law.identified
        share = covered / options.curves
        error = 1.96 * np.sqrt(max(share * (1 - share), 0.01) / options.curves)
        print(
            f"{floor:5.3f} {excess:5.1f} {alpha:6.2f} {rungs:4d} {noise:6.2f} {shift:6.3f} "
            f"{transient:5.1f} {bend:7d}  "
            f"{share:.3f} ± {error:.3f}  {np.median(widths):8.3f}  {lost / options.curves:8.2f}"
            f"   {1000 * (time.perf_counter() - began) / options.curves:.0f} ms a curve",
            flush=True,
        )


if __name__ == "__main__":
    main()
