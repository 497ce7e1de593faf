"""A corpus larger than memory: at most 500 MB resident, at least 5 MB/s on two cores.

``python benchmarks/large_corpus.py [MEGABYTES] [FOLDER]`` writes MEGABYTES (default 200; the goal
is stated for 5,000) of text into FOLDER, once as one .txt file and once as JSON Lines of documents
of about 2 kB, and prepares both for training in a process of its own: tokenizer, tokens on disk,
splits.  It prints the peak of the resident memory of that process and of those that it starts, and
the speed of the encoding and of everything.
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
SUMS: list[int] = []


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


def prepare(path: Path, run: Path) -> None:
    """Prepare a corpus, and print what it took; in a process of its own."""
    from kullback.training.prepare_text import TextOptions, prepare_text
    from kullback.training.progress import TrainingProgress

    class Times(TrainingProgress):
        begun: dict[str, float] = {}  # noqa: RUF012 - one object
        processor = 0.0

        def stage(self, what: str) -> None:
            self.begun[what] = time.perf_counter()
            self.processor = processor_seconds()

        def note(self, text: str) -> None:
            print("note:", text, file=sys.stderr)

    threading.Thread(target=watch, daemon=True).start()
    start, progress = time.perf_counter(), Times()
    batches = prepare_text(run, TextOptions([path], default_vocabulary=8192), progress)
    end, processor = time.perf_counter(), processor_seconds() - progress.processor
    for step in range(2000):  # reads at random places
        batches.shards(step, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    size = path.stat().st_size / 1e6
    with path.open("rb") as file:
        text = file.read(PEER_BYTES).decode(errors="ignore")
    parts = [text[i : i + 65_536] for i in range(0, len(text), 65_536)]
    begin = processor_seconds()
    batches.tokenizer.encode_batch_fast(parts, add_special_tokens=False)
    peer = len(text) / 1e6 / (processor_seconds() - begin)
    print(
        json.dumps(
            {
                "MB": round(size),
                "tokens": len(batches.training) + len(batches.held_out),
                "encoding MB/s": round(size / (end - progress.begun["encoding the text"]), 2),
                "MB/processor s": round(size / processor, 2),
                "library's MB/processor s": round(peer, 2),
                "all MB/s": round(size / (end - start), 2),
                "peak MB": round(peak),
                "with its processes MB": round(max(SUMS) / 1000),
            }
        )
    )


def watch() -> None:
    """Add up the resident memory of this process and of those that it has started, in kB."""
    while True:
        tasks = Path("/proc/self/task").glob("*/children")
        own = [os.getpid(), *(int(i) for task in tasks for i in task.read_text().split())]
        total = 0
        for process in own:
            with contextlib.suppress(OSError, StopIteration):  # it has ended
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
        SUMS.append(total)
        time.sleep(0.2)


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(megabytes: int, folder: Path) -> None:
    """Write the corpora, prepare each, and compare with the goals."""
    paths = [folder / "corpus.txt", folder / "corpus.jsonl"]
    with paths[0].open("w", encoding="utf-8") as whole, paths[1].open("w") as rows:
        for text in documents(megabytes * 1_000_000):
            whole.write(text + "\n")
            rows.write(json.dumps({"text": text}) + "\n")
    print(f"{os.cpu_count()} cores")
    for path in paths:
        run = folder / f"run-{path.suffix[1:]}"
        command = [sys.executable, __file__, "--prepare", str(path), str(run)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        met = result["peak MB"] <= GOAL_MB and result["encoding MB/s"] >= GOAL_SPEED
        print(f"{path.suffix}: {result} {'met' if met else 'MISSED'}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        size = int(sys.argv[1]) if len(sys.argv) > 1 else 200
        with tempfile.TemporaryDirectory() as temporary:
            main(size, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary))
