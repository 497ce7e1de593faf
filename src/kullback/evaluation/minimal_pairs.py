"""Does the model know the table?  Conjugation accuracy by minimal pairs.

After a prefix such as *every day she*, a right form (*works*) is set against a wrong form of the
same verb (*work*); the model is right where it gives the right one the higher probability (Linzen
et al. 2016, Marvin & Linzen 2018).  Guessing gets one half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kullback.models.interface import LanguageModel
from kullback.sources.conjugation import Cell, MinimalPair
from kullback.text.special_tokens import BOS_ID

__all__ = ["PairAccuracy", "minimal_pair_accuracy"]

BATCH = 512


@dataclass(frozen=True)
class PairAccuracy:
    """How many of a group's pairs the model gets right."""

    side: str
    held_out: bool
    group: str
    """`all`, `tense`, `person`, `verb` or `regularity`."""
    value: str
    pairs: int
    accuracy: float


def minimal_pair_accuracy(
    model: LanguageModel, pairs: Sequence[MinimalPair], holdout: Container[Cell] = ()
) -> list[PairAccuracy]:
    """The accuracy by side (English, Spanish), seen or held out, and group."""
    right = _right(model, pairs)
    counts: defaultdict[tuple[str, bool, str, str], list[bool]] = defaultdict(list)
    for pair, is_right in zip(pairs, right, strict=True):
        held_out = pair.cell in holdout
        for group, value in _groups(pair):
            counts[pair.language, held_out, group, value].append(bool(is_right))
    return [PairAccuracy(*key, len(hits), sum(hits) / len(hits)) for key, hits in counts.items()]


def _groups(pair: MinimalPair) -> Iterator[tuple[str, str]]:
    yield "all", "all"
    yield "tense", pair.cell.tense
    yield "person", pair.cell.person
    yield "verb", pair.cell.verb
    yield "regularity", "regular" if pair.regular else "irregular"


@torch.inference_mode()
def _right(model: LanguageModel, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """For each pair, whether the right form has the higher logit; every prefix is read once."""
    prefixes = sorted({pair.prefix for pair in pairs}, key=lambda prefix: (len(prefix), prefix))
    place = {prefix: i for i, prefix in enumerate(prefixes)}
    prefix_of = np.array([place[pair.prefix] for pair in pairs], dtype=np.int64)
    forms = np.array([(pair.right, pair.wrong) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    order = np.argsort(prefix_of, kind="stable")
    right = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(prefixes), BATCH):
        part = prefixes[start : start + BATCH]
        longest = 1 + len(part[-1])
        inputs = np.full((len(part), longest), BOS_ID, dtype=np.int64)
        for row, prefix in enumerate(part):
            inputs[row, 1 : 1 + len(prefix)] = prefix
        last = torch.tensor([row * longest + len(prefix) for row, prefix in enumerate(part)])
        predictions = model.predict(torch.from_numpy(inputs)).select(last)
        logits = predictions.logits(slice(0, len(part))).numpy()
        here = order[slice(*np.searchsorted(prefix_of[order], [start, start + len(part)]))]
        rows = prefix_of[here] - start
        right[here] = logits[rows, forms[here, 0]] > logits[rows, forms[here, 1]]
    return right
