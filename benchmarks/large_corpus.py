"""A corpus larger than memory: at most 500 MB resident, at least 5 MB/s on two cores.

``python benchmarks/large_corpus.py [MEGABYTES] [FOLDER] [--long]`` writes MEGABYTES (default 200;
the goal is stated for 5,000) of text into FOLDER, once as one .txt file and once as JSON Lines of
documents of about 2 kB, and trains on both, each in a process of its own, for three steps:
tokenizer, tokens on disk, splits, validation, n-gram baselines.  With ``--long`` all of the
validation split is scored, as after a long training.  It prints the speed of the encoding by wall
time and by CPU time, and of everything before the first step; and, for each stage, the largest
resident memory of that process and of those that it starts, divided into anonymous memory and pages
of files (libraries and memory-mapped tokens, which the system may drop).
The peer in the same run is the library's own `encode_batch_fast`, on 4 MB of the same text.

The words are drawn from Zipf's law over 300,000, so that, as in real text, rare words never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

GOAL_MB, GOAL_SPEED = 500, 5.0
WORDS, EXPONENT = 300_000, 1.05
PEER_BYTES = 4_000_000
ENCODING, ENCODED = "encoding the text", "probe"


def vocabulary(rng: np.random.Generator) -> np.ndarray:
    """Pronounceable words, the most frequent ones short."""
    syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "en", "ar")]
    lengths = np.minimum(1 + np.log10(1 + np.arange(WORDS)).astype(int), 5)
    words = ["".join(rng.choice(syllables, length)) for length in lengths]
    marks = ["", "", "", "", "", "", ",", ".", ";", "'s"]
    return np.array([word + marks[i % len(marks)] for i, word in enumerate(words)], dtype=object)


def documents(size: int) -> Iterator[str]:
    """Texts of 350 words, `size` bytes in all."""
    rng = np.random.default_rng(0)
    words = vocabulary(rng)
    weights = 1 / (1 + np.arange(WORDS)) ** EXPONENT
    cumulative = np.cumsum(weights / weights.sum())
    written = 0
    while written < size:
        drawn = np.searchsorted(cumulative, rng.random(350 * 64)).clip(max=WORDS - 1)
        for row in words[drawn].reshape(64, 350):
            text = " ".join(row[:200]) + "\n" + " ".join(row[200:])
            written += len(text) + 1
            yield text


def prepare(path: Path, run: Path, long: bool) -> None:
    """Train on a corpus, and print what it took; in a process of its own."""
    from kullback.models.train import train_model
    from kullback.training import loop
    from kullback.training.progress import TrainingProgress

    class Times(TrainingProgress):
        now = "import"
        began: dict[str, tuple[float, float]] = {}  # noqa: RUF012 - one object

        def stage(self, what: str) -> None:
            self.now = what
            self.began[what] = time.perf_counter(), processor_seconds()

        def tell(self, text: str) -> None:
            if ENCODING in self.began and ENCODED not in self.began:
                self.stage(ENCODED)

        def begin(self, steps: int, floor: float | None) -> None:
            self.stage("training")

        def note(self, text: str) -> None:
            print("note:", text, file=sys.stderr)

    if long:
        loop.FEWEST_VALIDATED = 1 << 40
    progress = Times()
    peaks: dict[str, tuple[float, float, float]] = {}

    def watch() -> None:
        while True:
            anonymous, of_files = resident()
            total = anonymous + of_files
            peaks[progress.now] = max(peaks.get(progress.now, (0,)), (total, anonymous, of_files))
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    result = train_model(run, text=[path], steps=3, vocabulary_size=8192, progress=progress)
    began, size = progress.began, path.stat().st_size / 1e6
    seconds, processor = np.subtract(began[ENCODED], began[ENCODING])
    with path.open("rb") as file:
        text = file.read(PEER_BYTES).decode(errors="ignore")
    parts = [text[i : i + 65_536] for i in range(0, len(text), 65_536)]
    from kullback.training.run_folder import load_tokenizer

    begin = processor_seconds()
    load_tokenizer(run / "tokenizer.json").encode_batch_fast(parts, add_special_tokens=False)
    peer = len(text) / 1e6 / (processor_seconds() - begin)
    print(
        json.dumps(
            {
                "MB": round(size),
                "tokens": result.training_split_tokens,
                "encoding MB/s": round(size / seconds, 2),
                "MB/CPU s": round(size / processor, 2),
                "library's MB/CPU s": round(peer, 2),
                "to the first step MB/s": round(size / (began["training"][0] - start), 2),
                "load": round(os.getloadavg()[0], 1),
                "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
                "with its processes MB": round(max(total for total, *_ in peaks.values())),
                "MB by stage (anonymous + files)": {
                    stage: f"{anonymous:.0f} + {of_files:.0f}"
                    for stage, (_, anonymous, of_files) in peaks.items()
                },
            }
        )
    )


def resident() -> tuple[float, float]:
    """Anonymous memory and pages of files of this process and of those that it has started, MB."""
    tasks = Path("/proc/self/task").glob("*/children")
    own = [os.getpid(), *(int(i) for task in tasks for i in task.read_text().split())]
    totals = [0, 0]
    for process in own:
        with contextlib.suppress(OSError, KeyError):  # it has ended
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            sizes = [int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")]
            totals[0] += sizes[0]
            totals[1] += sizes[1] + sizes[2]
    return totals[0] / 1000, totals[1] / 1000


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(megabytes: int, folder: Path, long: list[str]) -> None:
    """Write the corpora, prepare each, and compare with the goals."""
    paths = [folder / "corpus.txt", folder / "corpus.jsonl"]
    with paths[0].open("w", encoding="utf-8") as whole, paths[1].open("w") as rows:
        for text in documents(megabytes * 1_000_000):
            whole.write(text + "\n")
            rows.write(json.dumps({"text": text}) + "\n")
    print(f"{os.cpu_count()} cores")
    for path in paths:
        run = folder / f"run-{path.suffix[1:]}"
        command = [sys.executable, __file__, "--prepare", str(path), str(run), *long]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        fast = result["encoding MB/s"] >= GOAL_SPEED
        met = result["with its processes MB"] <= GOAL_MB and fast
        print(f"{path.suffix}: {result} {'met' if met else 'MISSED'}", flush=True)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--long"]
    long = ["--long"] * ("--long" in sys.argv)
    if given[:1] == ["--prepare"]:
        prepare(Path(given[1]), Path(given[2]), bool(long))
    else:
        size = int(given[0]) if given else 200
        with tempfile.TemporaryDirectory() as temporary:
            main(size, Path(given[1]) if len(given) > 1 else Path(temporary), long)
