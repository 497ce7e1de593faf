"""Recordings, compared with each other or with a model.

From top-k recordings a KL is only bounded, and the measure is called a bound.  (For an exact
recording and a model: :mod:`kullback.comparison.models`.)

Axes: M scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kullback.comparison.measures import paired_measures
from kullback.comparison.operands import ModelOperand, RecordingOperand, check_is_text
from kullback.comparison.row_pairs import (
    RowPair,
    RowPairs,
    nll_and_top1,
    pairs_of_files,
    pairs_of_text,
    unweighted_places,
)
from kullback.comparison.stored import origin, stored_comparison
from kullback.errors import InvalidValueError
from kullback.evaluation.measures import weighted_mean
from kullback.evaluation.on_text import coverage_notes
from kullback.evaluation.passes import TokenizedText
from kullback.results.comparison import MOVED_IS_NOT_WORSE, Comparison
from kullback.results.measurement import Measurement
from kullback.runtime.progress import Progress, Tokens
from kullback.scoring.kl_bounds import KLBounds, kl_bounds
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, check_same_text
from kullback.text.protocol import Protocol

__all__ = ["compare_recorded"]

NO_WEIGHTS = (
    "recordings do not keep how often a token counts: those of overlapping windows count 1 each, "
    "unlike in a comparison with a model"
)


NO_TOTAL_VARIATION = (
    "the total variation is left out: a top-k recording does not keep all probabilities"
)


@dataclass(frozen=True, eq=False)
class _Bounded:
    """What is known of some rows where one operand is a top-k recording."""

    kl: KLBounds
    reference_nll_M: Float[np.ndarray, "M"]
    candidate_nll_M: Float[np.ndarray, "M"]
    same_top1_M: Bool[np.ndarray, "M"]


def compare_recorded(
    reference: RecordingOperand | ModelOperand,
    candidate: RecordingOperand | ModelOperand,
    documents: Sequence[Document] = (),
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Compare two recordings, or a recording and a model that reads the text now.

    `names` is what the result calls them, by default the names of the operands.
    Two recordings need no text; one that is given must be theirs.  Raises `InvalidValueError` where
    text, tokenizer or protocol are not the same.
    """
    progress, names = progress or Progress(), names or (reference.name, candidate.name)
    progress.stage(f"comparing {candidate.name}")
    operands = (reference, candidate)
    recorded = [operand for operand in operands if isinstance(operand, RecordingOperand)]
    notes = list(dict.fromkeys(note for operand in operands for note in operand.notes))
    identities: tuple[Fingerprint, Fingerprint]
    if isinstance(reference, RecordingOperand) and isinstance(candidate, RecordingOperand):
        if documents:
            check_is_text(reference.name, reference.identity.parts, documents)
        rows = _recorded_rows(reference, candidate, progress.tokens)
        identities = (reference.identity, candidate.identity)
        if _preset(reference.identity) == "hf-stride":
            notes.append(NO_WEIGHTS)
    else:
        reader = reference.model or candidate.model
        assert reader is not None
        tokenized = TokenizedText.of(
            documents, protocol or Protocol(), reader.tokenizer, reader.context
        )
        notes += coverage_notes(tokenized)
        for operand in operands:
            operand.check(documents, tokenized, reader)
        rows = pairs_of_text(reference, candidate, tokenized, progress.tokens)
        identities = (
            reference.fingerprint(documents, tokenized),
            candidate.fingerprint(documents, tokenized),
        )
    origins = (
        origin(names[0], identities[0], reference.size_bytes),
        origin(names[1], identities[1], candidate.size_bytes),
    )
    if any(operand.recording.kind == "top-k" for operand in recorded):
        _check_vocabularies(reference, candidate)
        measures, bounds = _bounds(rows)
        return stored_comparison(
            "bounds",
            origins,
            measures,
            len(rows.places),
            notes=[*bounds, *notes, MOVED_IS_NOT_WORSE],
            documents=documents,
        )
    measures, quantiles, padding = rows.divergences()
    return stored_comparison(
        "recordings",
        origins,
        measures,
        len(rows.places),
        kl_quantiles=quantiles,
        notes=[*notes, MOVED_IS_NOT_WORSE, *padding],
        documents=documents,
    )


def _recorded_rows(
    reference: RecordingOperand, candidate: RecordingOperand, progress: Tokens
) -> RowPairs:
    first, second = reference.recording, candidate.recording
    check_same_text(first.metadata, second.metadata, (reference.name, candidate.name))
    if not np.array_equal(first.targets, second.targets):
        raise InvalidValueError(
            f"{reference.name} has {len(first):,} rows and {candidate.name} {len(second):,}, and "
            "they are not about the same tokens, though the text is the same: one is damaged; "
            "record both again"
        )
    places = unweighted_places(first.documents, first.positions)
    return pairs_of_files(first, second, places, progress)


def _check_vocabularies(
    reference: RecordingOperand | ModelOperand, candidate: RecordingOperand | ModelOperand
) -> None:
    """Raise `InvalidValueError` where the vocabularies differ: top-k rows cannot be cut."""
    sizes = [operand.vocabulary_size for operand in (reference, candidate)]
    if sizes[0] != sizes[1]:
        raise InvalidValueError(
            f"{reference.name} has a vocabulary of {sizes[0]:,} tokens and {candidate.name} one of "
            f"{sizes[1]:,}: what a top-k recording keeps cannot be cut to the tokens that both "
            "have; record with --distributions exact"
        )


def _bounds(rows: RowPairs) -> tuple[dict[str, Measurement], list[str]]:
    def measure(pair: RowPair) -> _Bounded:
        reference_nll_M, reference_top1_M = nll_and_top1(pair.reference, pair.targets_M)
        candidate_nll_M, candidate_top1_M = nll_and_top1(pair.candidate, pair.targets_M)
        bounds = kl_bounds(pair.reference, pair.candidate)
        agreement_M = reference_top1_M == candidate_top1_M
        return _Bounded(bounds, reference_nll_M, candidate_nll_M, agreement_M)

    parts, places = list(rows.map(measure)), rows.places
    measures = {
        "kl_lower_bound": weighted_mean(np.concatenate([p.kl.lower_M for p in parts]), places),
        "kl_upper_bound": weighted_mean(np.concatenate([p.kl.upper_M for p in parts]), places),
        **paired_measures(
            np.concatenate([part.reference_nll_M for part in parts]),
            np.concatenate([part.candidate_nll_M for part in parts]),
            np.concatenate([part.same_top1_M for part in parts]),
            places,
        ),
    }
    # The longest says what the others say, too.
    notes = sorted({part.kl.note for part in parts if part.kl.note}, key=len)[-1:]
    return measures, [*notes, NO_TOTAL_VARIATION]


def _preset(identity: Fingerprint) -> object:
    protocol = identity.parts.get("protocol")
    return protocol.get("preset") if isinstance(protocol, dict) else None
