"""How often `kullback doctor` names a planted bug, and one in a correct trainer.

``python benchmarks/doctor.py --seeds 10``: each bug of ``examples/trainer_with_bugs.py``, each seed
(of the data, the model and the order), trained in this process, and a correct trainer twice as
often.  For the correct one the reference run is made, too.  ``--records FILE.jsonl`` appends the
probes of each run as it ends; ``--first N`` is the first seed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from kullback.callbacks.fixed_rows import logits_of, open_rows
from kullback.doctor.diagnosis import findings_of, reweighting
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


def run(script, source, curve, bug: str, seed: int, steps: int) -> dict[str, object]:
    """The bugs that are named, "floor" where it is not reached; the evidence and the seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        export_source(source, TOKENS, data, seed, 2000, ("jsonl", "npy"))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            script.main([str(data), str(out), "--bug", bug, "--seed", str(seed),
                         "--steps", str(steps)])  # fmt: skip
        model = load_model(out, source)
        probes = probe(model, source.training, seed)
        named = [finding.bug for finding in findings_of(probes, curve)]
        record: dict[str, object] = {"seed": seed, "bug": bug, "named": named}
        record["probes"] = msgspec.to_builtins(probes)
        record["reweighting"] = reweighting(probes, curve)
        if bug == "none":
            rows = open_rows(source, 2000, None, seed)
            kl = rows.evaluation(model, logits_of).kl.value
            count = len((data / "train.jsonl").read_text(encoding="utf-8").splitlines())
            train = source.training.sample(count, np.random.default_rng([seed, 4]))
            passes = steps * 32 / count
            reference = reference_run(model.config, train, passes, rows, seed, Progress()).kl
            record |= {"kl": kl, "reference_kl": reference}
            if kl > max(FACTOR * reference, reference + MARGIN):
                named.append("floor")
    record["seconds"] = time.perf_counter() - began
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--bugs", nargs="+", choices=("none", *NAMES), default=("none", *NAMES))
    parser.add_argument("--records", type=Path)
    options = parser.parse_args()
    script, source = example(), doctor_source()
    curve = averaging_curve(source.training)
    print("seed  bug        named (seconds)")
    hits: dict[str, list[bool]] = {bug: [] for bug in options.bugs}
    spent: list[float] = []
    for i in range(2 * options.seeds):
        for bug in options.bugs:
            if i >= options.seeds and bug != "none":
                continue
            record = run(script, source, curve, bug, options.first + i, options.steps)
            named = record["named"]
            hits[bug].append(named == ([] if bug == "none" else [NAMES[bug]]))
            spent.append(record["seconds"])
            if options.records is not None:
                with options.records.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            shown = ", ".join(named) or "none"
            print(f"{options.first + i:<6}{bug:<11}{shown} ({spent[-1]:.0f} s)", flush=True)
    print("\nbug        named")
    for bug, right in hits.items():
        label = "correct" if bug == "none" else bug
        print(f"{label:<11}{sum(right)} of {len(right)}")
    print(f"median seconds of a run {median(spent):.1f}, most {max(spent):.1f}")


if __name__ == "__main__":
    main()
