"""Conjugation accuracy by minimal pairs.

After a prefix such as *every day she*, a right form (*works*) is compared with a wrong form of the
same verb (*work*); the model is right where it gives the right one the higher probability (Linzen
et al. 2016, Marvin & Linzen 2018).  Random guessing gets one half.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence

import numpy as np
import torch

from kullback.evaluation.predictors import predict_rows
from kullback.models.interface import LanguageModel
from kullback.results.lab import MinimalPairAccuracy, PairGroup
from kullback.sources.conjugation_source import Cell, MinimalPair
from kullback.text.special_tokens import BOS_ID

__all__ = ["minimal_pair_accuracy"]

BATCH = 512


def minimal_pair_accuracy(
    model: LanguageModel, pairs: Sequence[MinimalPair], holdout: Container[Cell] = ()
) -> tuple[MinimalPairAccuracy, ...]:
    """The accuracy by language of the pair (English, Spanish), seen or held out, and group."""
    right = _right(model, pairs)
    counts: defaultdict[tuple[str, bool, PairGroup, str], list[bool]] = defaultdict(list)
    for pair, is_right in zip(pairs, right, strict=True):
        held_out = pair.cell in holdout
        for group, value in _groups(pair):
            counts[pair.language, held_out, group, value].append(bool(is_right))
    return tuple(
        MinimalPairAccuracy(
            model=model.name,
            side=side,
            held_out=held_out,
            group=group,
            value=value,
            pairs=len(hits),
            accuracy=sum(hits) / len(hits),
        )
        for (side, held_out, group, value), hits in counts.items()
    )


def _groups(pair: MinimalPair) -> Iterator[tuple[PairGroup, str]]:
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
        predictions = predict_rows(model, torch.from_numpy(inputs), last)
        logits = predictions.logits(slice(0, len(part))).cpu().numpy()
        here = order[slice(*np.searchsorted(prefix_of[order], [start, start + len(part)]))]
        rows = prefix_of[here] - start
        right[here] = logits[rows, forms[here, 0]] > logits[rows, forms[here, 1]]
    return right
