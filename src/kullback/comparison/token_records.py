"""Token records of two models, or of a file and a model: ΔCE, Δp and agreement, no KL.

A file of records (:mod:`kullback.evaluation.token_records`) keeps of each token its surprisal and
the most probable token, 60 bytes and not a distribution.  So two files, or a file and a model that
reads the text now, have a ΔCE, a Δp and an agreement, paired token by token, but no KL: that needs
both distributions (``kullback record --distributions exact`` or ``top-k``).

Axes: M scored tokens, in text order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from msgspec import UNSET, UnsetType

from kullback.comparison.measures import paired_measures
from kullback.comparison.operands import RecordingOperand, check_is_text
from kullback.comparison.row_pairs import nll_and_top1, unweighted_places
from kullback.comparison.stored import origin, stored_comparison
from kullback.errors import InvalidValueError
from kullback.evaluation.on_text import coverage_notes, model_fingerprint
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.evaluation.recorded_pass import window_records
from kullback.evaluation.token_records import Records, read_records
from kullback.models.interface import TextModel
from kullback.results.comparison import Comparison
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint, check_same_text
from kullback.text.plan import bos_of
from kullback.text.protocol import Protocol

__all__ = ["TokenRows", "compare_records"]

#: The id of the BOS that each text was read after, None for none; of two operands.
Begins: TypeAlias = "tuple[int | UnsetType | None, int | UnsetType | None]"

ROWS = 512
NO_KL = (
    "a KL cannot be computed from token records, which hold no distributions: kullback record "
    "with --distributions exact (or top-k, for bounds) keeps them"
)
OTHER_TOKENIZER = "two tokenizers, or two implementations of one, read the text as the same tokens"
UNKNOWN_BOS = "{}; records do not say whether they begin it with the same BOS"
BOTH = "read both with --bos always, or both with --bos never"
SIGN = "above 0 the candidate predicts worse"


@dataclass(frozen=True, eq=False)
class TokenRows:
    """What is known of one operand at each of M scored tokens."""

    name: str
    identity: Fingerprint
    """What the numbers depend on."""
    document_M: Int[np.ndarray, "M"]
    position_M: Int[np.ndarray, "M"]
    target_M: Int[np.ndarray, "M"]
    weight_M: Float[np.ndarray, "M"] | None
    """How often each token counts; None where that was not kept."""
    nll_M: Float[np.ndarray, "M"]
    """-log q of the target, nats."""
    top1_M: Int[np.ndarray, "M"]
    """The most probable token."""
    notes: tuple[str, ...] = ()
    """Sentences that the user should read."""
    size_bytes: int | None = None
    """What the weights take, where it is known."""
    begins_with: int | UnsetType | None = UNSET
    """The id of the BOS that each text was read after, None for none; unset where unknown."""

    def __len__(self) -> int:
        return len(self.nll_M)

    @classmethod
    def of_file(cls, path: Path) -> TokenRows:
        """A file of token records; raises as `read_records` does."""
        metadata, records = read_records(path)
        rows = cls._of_records(str(path), metadata.fingerprint, records)
        return replace(rows, begins_with=metadata.begins_with)

    @classmethod
    def of_model(
        cls,
        model: TextModel,
        documents: Sequence[Document],
        protocol: Protocol,
        progress: Progress | None = None,
        against: TokenRows | None = None,
        size_bytes: int | None = None,
    ) -> TokenRows:
        """A model that reads `documents` now; `size_bytes` is what its weights take.

        `against` is the other operand, if it is known: whether both are about the same tokens is
        then found before the model reads.  Raises as `TokenizedText.of` and `token_rows` do, and
        `InvalidValueError` where text, tokenizer or protocol are not those of `against`.
        """
        tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context, progress)
        identity = model_fingerprint(model, documents, tokenized)
        if against is not None:
            names = (against.name, f"the reading of {model.name}")
            begins = (against.begins_with, bos_of(tokenized.protocol, model.tokenizer))
            same = np.array_equal(against.target_M, tokenized.targets)
            same = same and np.array_equal(against.position_M, tokenized.places.position_M)
            _check_same_text(against.identity, identity, names, begins, same)
        rows = token_rows(
            ModelPredictor(model), tokenized, progress=(progress or Progress()).tokens
        )
        windows = slice(0, len(tokenized.windows))
        records = window_records(tokenized, windows, list(rows))
        notes = (*model.notes, *coverage_notes(tokenized))
        return replace(
            cls._of_records(model.name, identity, records), notes=notes, size_bytes=size_bytes,
            begins_with=bos_of(tokenized.protocol, model.tokenizer),
        )  # fmt: skip

    @classmethod
    def of_recording(cls, operand: RecordingOperand) -> TokenRows:
        """A recording of either kind: both hold the target's probability and the top-1 token."""
        recording = operand.recording

        def measure(start: int) -> tuple[np.ndarray, np.ndarray]:
            rows = slice(start, min(start + ROWS, len(recording)))
            return nll_and_top1(recording.predictions(rows), recording.targets[rows])

        parts = list(ProcessGroup().map(measure, range(0, len(recording), ROWS)))
        return cls(
            operand.name,
            operand.identity,
            recording.documents,
            recording.positions,
            recording.targets,
            None,
            np.concatenate([nll_B for nll_B, _ in parts]),
            np.concatenate([top1_B for _, top1_B in parts]),
            size_bytes=operand.size_bytes,
            begins_with=_recorded_bos(operand),
        )

    @classmethod
    def _of_records(cls, name: str, identity: Fingerprint, records: Records) -> TokenRows:
        return cls(
            name,
            identity,
            records.document,
            records.position,
            records.token_id,
            records.weight.astype(np.float64),
            records.nll,
            records.top1,
        )


def compare_records(
    reference: TokenRows, candidate: TokenRows, documents: Sequence[Document] = ()
) -> Comparison:
    """ΔCE, both cross-entropies, Δp and the agreement, each with its paired, clustered interval.

    `documents`, where they are given, must be the text of both.  Raises `InvalidValueError` where
    text, tokenizer or protocol are not the same, and where nothing was scored.
    """
    names = (reference.name, candidate.name)
    rows = ("document_M", "position_M", "target_M")
    same = all(np.array_equal(getattr(reference, n), getattr(candidate, n)) for n in rows)
    begins = (reference.begins_with, candidate.begins_with)
    other_tokenizer = _check_same_text(reference.identity, candidate.identity, names, begins, same)
    if documents:
        check_is_text(reference.name, reference.identity.parts, documents)
    if not same:
        raise InvalidValueError(
            f"{reference.name} has {len(reference):,} rows and {candidate.name} "
            f"{len(candidate):,}, and they are not about the same tokens, though the text is "
            "the same: one is damaged; record both again"
        )
    if not len(reference):
        raise InvalidValueError(
            f"no token was scored in {reference.name}: there is nothing to compare"
        )
    places = unweighted_places(reference.document_M, reference.position_M)
    weight_M = reference.weight_M if reference.weight_M is not None else candidate.weight_M
    if weight_M is not None:
        places = replace(places, weight_M=weight_M)
    measures = paired_measures(
        reference.nll_M, candidate.nll_M, reference.top1_M == candidate.top1_M, places
    )
    return stored_comparison(
        "token records",
        (
            origin(reference.name, reference.identity, reference.size_bytes),
            origin(candidate.name, candidate.identity, candidate.size_bytes),
        ),
        measures,
        len(reference),
        notes=[
            SIGN,
            NO_KL,
            *_reading_notes(names, begins, other_tokenizer),
            *dict.fromkeys([*reference.notes, *candidate.notes]),
        ],
        documents=documents,
    )


def _recorded_bos(operand: RecordingOperand) -> int | UnsetType | None:
    """What texts begin with in a recording, where its metadata and protocol say it."""
    protocol = operand.identity.parts.get("protocol")
    bos = protocol.get("bos") if isinstance(protocol, dict) else None
    if bos == "never":
        return None
    known = operand.recording.metadata.get("begins_with", UNSET)
    # Under "always" a tokenizer begins texts in another way than by itself.
    return known if bos == "auto" and (known is None or isinstance(known, int)) else UNSET


def _reading_notes(names: tuple[str, str], begins: Begins, other_tokenizer: bool) -> list[str]:
    """Notes on two tokenizers, and on texts that begin in two ways."""
    if other_tokenizer and UNSET in begins:
        return [UNKNOWN_BOS.format(OTHER_TOKENIZER)]
    notes = [OTHER_TOKENIZER] if other_tokenizer else []
    if _begin_in_two_ways(begins):
        notes.append(f"{_shown_begins(names, begins)}: the differences are of that, too; {BOTH}")
    return notes


def _begin_in_two_ways(begins: Begins) -> bool:
    return UNSET not in begins and begins[0] != begins[1]


def _shown_begins(names: tuple[str, str], begins: Begins) -> str:
    first, second = ("no BOS" if id_ is None else f"the BOS {id_}" for id_ in begins)
    return f"{names[0]} begins a text with {first}, {names[1]} with {second}"


def _check_same_text(
    first: Fingerprint,
    second: Fingerprint,
    names: tuple[str, str],
    begins: Begins,
    same_tokens: bool,
) -> bool:
    """Raise as `check_same_text` does, but not for another tokenizer that gives the same tokens.

    Also where a text has other rows because it begins in another way.  Returns whether the
    tokenizer is another: of a folder and a .gguf file of one model, for example.
    """
    parts = dict(second.parts)
    other = parts.get("tokenizer") != first.parts.get("tokenizer")
    of_begin = not same_tokens and _begin_in_two_ways(begins)
    if (
        other and (same_tokens or of_begin)
        and "tokenizer" in parts and "tokenizer" in first.parts
    ):  # fmt: skip
        parts["tokenizer"] = first.parts["tokenizer"]
    check_same_text(first.parts, parts, names)
    if of_begin:
        raise InvalidValueError(
            f"{_shown_begins(names, begins)}: other tokens are scored, or after other ones; {BOTH}"
        )
    return other
