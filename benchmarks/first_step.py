"""Claim: `kullback train --text FILE` finishes its first step within 5 s, for 1 MB of text.

The command of a user, with the default size and torch's own number of threads, in a process of its
own for each round.  Every stage has its seconds since the process was started and the processor
seconds until then, medians over the rounds.  `import torch` alone, in a process of its own beside
each, is the part that no command can avoid.

Run it: ``python benchmarks/first_step.py [rounds [FILE]]``; without a file the text is 1 MB of
sentences of the conjugation language.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 5.0
TEXT_BYTES = 1_000_000
IMPORT_TORCH = (
    "import json, sys, time; import torch; "
    "print(json.dumps([time.time() - float(sys.argv[1]), time.process_time()]))"
)


def stages(text: Path, folder: Path, *modules: str) -> tuple[list[tuple[str, float, float]], str]:
    """Of a training until its first step: the name of each stage, and the wall and processor
    seconds at its end; and which of `modules` had been imported then."""
    worker = [sys.executable, __file__, "--worker", str(time.time()), str(text), str(folder)]
    done = subprocess.run([*worker, *modules], stdout=subprocess.PIPE, check=True, text=True)
    measured, imported = json.loads(done.stdout)
    return [tuple(stage) for stage in measured], imported


def worker(began: float, text: str, folder: str, modules: list[str]) -> None:
    ends: list[tuple[str, float, float]] = []
    current = "import of the command line"

    def enter(stage: str) -> None:
        nonlocal current
        ends.append((current, time.time() - began, time.process_time()))
        current = stage

    # The order is that of the command.
    from kullback.cli import main

    enter("import of torch and the trainer")
    from kullback.runtime.imports import without_collections

    with without_collections():
        import kullback.models.train
        from kullback.report.terminal.training import TrainingDisplay

    class Stages(TrainingDisplay):
        def stage(self, name: str) -> None:
            enter(name)
            super().stage(name)

        def begin(self, steps: int, floor: float | None) -> None:
            enter("the first step")
            super().begin(steps, floor)

        def step(self, metrics: object) -> None:
            enter("")
            print(json.dumps([ends, [name for name in modules if name in sys.modules]]), flush=True)
            os._exit(0)

    enter("checks of the options")
    kullback.report.terminal.training.TrainingDisplay = Stages  # type: ignore[misc]
    main(["train", "--text", text, "-o", folder])


def sentences() -> str:
    import numpy as np

    from kullback.sources.catalogue import open_source

    sample = open_source("conjugation").training.sample(60_000, np.random.default_rng(0))
    return "\n".join(sample.texts())[:TEXT_BYTES]


def main(rounds: int, file: str | None) -> None:
    runs: list[list[tuple[str, float, float]]] = []
    torch_alone: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        text = Path(file or f"{temporary}/text.txt")
        if file is None:
            text.write_text(sentences(), encoding="utf-8")
        for number in range(rounds):
            command = [sys.executable, "-c", IMPORT_TORCH, str(time.time())]
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            torch_alone.append(tuple(json.loads(output)))
            runs.append(stages(text, Path(temporary) / f"run-{number}")[0])
        size = text.stat().st_size
    wall, processor = (statistics.median(seconds) for seconds in zip(*torch_alone, strict=True))
    print(f"import torch alone: {wall:.2f} s, {processor:.2f} s of the processor")
    for ends in zip(*runs, strict=True):
        name = ends[0][0]
        wall, processor = (statistics.median(end[i] for end in ends) for i in (1, 2))
        print(f"after {name}: {wall:.2f} s, {processor:.2f} s of the processor")
    print(
        f"first step of {size:,} bytes of text after {wall:.2f} s (of {rounds}: "
        f"{', '.join(f'{run[-1][1]:.2f}' for run in runs)}); goal {GOAL}: "
        f"{'holds' if wall <= GOAL else 'FAILS'}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(float(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if sys.argv[2:] else None)
