"""How often `kullback doctor` names a planted bug, and one in a correct trainer.

``python benchmarks/doctor.py [SEEDS]``: each bug of ``examples/trainer_with_bugs.py``, each seed
(of the data, the model and the order), trained in this process, and a correct trainer twice as
often.  For the correct one the reference run is made, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from kullback.callbacks.fixed_rows import logits_of, open_rows
from kullback.doctor.diagnosis import findings_of
from kullback.doctor.doctor import FACTOR, MARGIN, TOKENS, load_model
from kullback.doctor.probes import averaging_curve, probe
from kullback.doctor.reference import reference_run
from kullback.doctor.source import doctor_source
from kullback.runtime.progress import Progress
from kullback.sources.export import export_source

EXAMPLE = Path(__file__).parents[1] / "examples" / "trainer_with_bugs.py"
NAMES = {
    "shift": "labels shifted by one",
    "padding": "padding counts in the loss",
    "averaging": "the loss is averaged per micro-batch",
    "leak": "a leak of the future",
    "softmax": "softmax before the loss",
}


def example():
    specification = importlib.util.spec_from_file_location("trainer_with_bugs", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(script, source, curve, bug: str, seed: int, steps: int) -> tuple[list[str], float]:
    """The bugs that are named, "floor" where it is not reached; and the seconds of all."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        export_source(source, TOKENS, data, seed, 2000, ("jsonl", "npy"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            script.main([str(data), str(out), "--bug", bug, "--seed", str(seed),
                         "--steps", str(steps)])  # fmt: skip
        model = load_model(out, source)
        named = [finding.bug for finding in findings_of(probe(model, source.training, seed), curve)]
        if bug == "none":
            rows = open_rows(source, 2000, None, seed)
            kl = rows.evaluation(model, logits_of).kl.value
            count = len((data / "train.jsonl").read_text(encoding="utf-8").splitlines())
            train = source.training.sample(count, np.random.default_rng([seed, 4]))
            passes = steps * 32 / count
            reference = reference_run(model.config, train, passes, rows, seed, Progress()).kl
            if kl > max(FACTOR * reference, reference + MARGIN):
                named.append("floor")
    return named, time.perf_counter() - began


def main(seeds: int = 10, steps: int = 250) -> None:
    script, source = example(), doctor_source()
    curve = averaging_curve(source.training)
    print("seed  bug        named (seconds)")
    hits: dict[str, list[bool]] = {bug: [] for bug in ("none", *NAMES)}
    spent: list[float] = []
    for seed in range(2 * seeds):
        for bug in hits if seed < seeds else ("none",):
            named, seconds = run(script, source, curve, bug, seed, steps)
            hits[bug].append(named == ([] if bug == "none" else [NAMES[bug]]))
            spent.append(seconds)
            shown = ", ".join(named) or "none"
            print(f"{seed:<6}{bug:<11}{shown} ({seconds:.0f} s)", flush=True)
    print("\nbug        named")
    for bug, right in hits.items():
        label = "correct" if bug == "none" else bug
        print(f"{label:<11}{sum(right)} of {len(right)}")
    print(f"median seconds of a run {median(spent):.1f}, most {max(spent):.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
