"""Claims: `kullback lab` trains for at most 60 s to 0.01 nats/token, in 150 s and 1.5 GB in all.

The untrained model's cross-entropy is within 0.1 of log V.  Each round is a process of its own in
a new folder; medians over the rounds.

Run it: ``python benchmarks/lab.py [rounds]``
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time


def one_round() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "kullback", "lab", "--json", "-o", f"{folder}/lab"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - began
    results = json.loads(output)
    start = results["training"]["untrained_cross_entropy"]
    return {
        "training, s": results["seconds"]["training"],
        "in all, s": seconds,
        "KL, nats/token": results["evaluations"][0]["kl"]["value"],
        "peak memory, MB": results["peak_memory_mb"],
        "|untrained CE - log V|": abs(start - results["source"]["log_vocabulary_size"]),
    }


GOALS = {
    "training, s": 60,
    "in all, s": 150,
    "KL, nats/token": 0.01,
    "peak memory, MB": 1500,
    "|untrained CE - log V|": 0.1,
}


def main(rounds: int) -> None:
    results = [one_round() for _ in range(rounds)]
    for name, goal in GOALS.items():
        median = statistics.median(result[name] for result in results)
        verdict = "holds" if median <= goal else "FAILS"
        print(f"{name}: {median:.4g}; at most {goal:g}: {verdict}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
