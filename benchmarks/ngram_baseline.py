"""Claim: the n-gram baseline takes seconds, less than dictionaries, and gives the same number.

On the characters of a text (the first 90 % trains, the last 10 % tests) it prints nats per
character and seconds for `NgramModel` and for an implementation by dictionaries, its peer in
the same run.  It then fits words: 300,000 sentences of 10 words, V = 600, order 5.

    python benchmarks/ngram_baseline.py [TEXT] [--orders 5 7]
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np

from kullback.models.kneser_ney import NgramModel

ROOT = Path(__file__).parent.parent


def dictionary_nats_per_token(train: list[int], test: list[int], order: int, size: int) -> float:
    """The cross-entropy of the same model, by dictionaries of tuples."""
    grams = [
        Counter(zip(*(train[i:] for i in range(n)), strict=False)) for n in range(1, order + 1)
    ]
    for n in range(order - 1, 0, -1):
        beginning = tuple(train[:n])  # has no token before it, and counts itself
        grams[n - 1] = Counter(gram[1:] for gram in grams[n])
        grams[n - 1][beginning] += 1
    discounts = []
    followed: list[dict[tuple[int, ...], list[float]]] = []
    for counts in grams:
        t = Counter(counts.values())
        d = [0.0] * 4
        if t[1] and t[2] and t[3] and t[4]:
            y = t[1] / (t[1] + 2 * t[2])
            d[1:] = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        if not all(0 < d[k] <= k for k in (1, 2, 3)):
            d[1:] = [0.5, 1.0, 1.5]
        discounts.append(d)
        sums: dict[tuple[int, ...], list[float]] = {}
        for gram, a in counts.items():
            entry = sums.setdefault(gram[:-1], [0, 0.0])
            entry[0] += a
            entry[1] += d[min(a, 3)]
        followed.append(sums)
    nats = 0.0
    for end in range(len(test)):
        p = 1 / size
        for n in range(1, min(order, end + 1) + 1):
            gram = tuple(test[end - n + 1 : end + 1])
            if gram[:-1] not in followed[n - 1]:
                break
            entry = followed[n - 1][gram[:-1]]
            a = grams[n - 1].get(gram, 0)
            p = (a - discounts[n - 1][min(a, 3)] + entry[1] * p) / entry[0]
        nats -= math.log(p)
    return nats / len(test)


def markov_words(n_rows: int, n_columns: int, size: int) -> np.ndarray:
    """Sentences in which every two words have 20 successors of Zipfian frequency."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 21)
    before = last = np.zeros(n_rows, dtype=np.int64)
    columns = []
    for _ in range(n_columns):
        choice = rng.choice(20, n_rows, p=weights / weights.sum())
        before, last = last, 1 + (7919 * before + 104_729 * last + 31 * choice**2) % (size - 1)
        columns.append(last)
    return np.stack(columns, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?", default=ROOT / "docs" / "derivation.md")
    parser.add_argument("--orders", type=int, nargs="+", default=[5, 7])
    arguments = parser.parse_args()

    text = arguments.text.read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = np.searchsorted(np.array(characters), np.array(list(text)))
    train, test = np.split(ids, [int(0.9 * len(ids))])
    print("order  nats/char   fit s  score s | dictionaries: nats/char       s | ratio")
    for order in arguments.orders:
        start = time.perf_counter()
        model = NgramModel.fit([train], order=order, vocabulary_size=len(characters), bos=None)
        fitted = time.perf_counter()
        nats = -model.token_log_probs(test[None]).mean()
        scored = time.perf_counter()
        peer = dictionary_nats_per_token(train.tolist(), test.tolist(), order, len(characters))
        peer_seconds = time.perf_counter() - scored
        print(
            f"{order:5d} {nats:10.5f} {fitted - start:7.2f} {scored - fitted:8.3f} |"
            f" {peer:23.5f} {peer_seconds:7.2f} | {(scored - start) / peer_seconds:5.2f}"
        )

    words = markov_words(350_000, 10, 600)
    start = time.perf_counter()
    model = NgramModel.fit(words[:300_000], order=5, vocabulary_size=600, bos=0)
    fitted = time.perf_counter()
    nats = -model.token_log_probs(words[300_000:]).mean()
    scored = time.perf_counter()
    print(
        f"words, V = 600, order 5: fit 3,000,000 in {fitted - start:.2f} s, score 500,000 in"
        f" {scored - fitted:.2f} s, {nats:.4f} nats/word"
    )


if __name__ == "__main__":
    main()
