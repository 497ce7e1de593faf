"""Comparing models that read a text as different tokens: by bytes, and nothing is stored.

The cut at bytes where both tokenizers have a boundary is that of
:mod:`kullback.comparison.byte_boundaries`.

Axes: M scored tokens of a model, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kullback.comparison.byte_boundaries import (
    ByteComparison,
    ScoredBytes,
    compare_at_shared_boundaries,
)
from kullback.comparison.stored import origin, stored_comparison
from kullback.evaluation.on_text import coverage_notes, model_fingerprint
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.models.interface import TextModel
from kullback.results.comparison import Comparison, DifferentBytes
from kullback.runtime.progress import Progress
from kullback.scoring.token_statistics import concatenate_statistics
from kullback.text.documents import Document
from kullback.text.lost_text import lost_text_notes
from kullback.text.protocol import Protocol

__all__ = ["compare_by_bytes"]

SHOWN_SEGMENTS = 12


def compare_by_bytes(
    reference: TextModel,
    candidate: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    progress: Progress | None = None,
    sizes: tuple[int | None, int | None] = (None, None),
) -> Comparison:
    """Two models that read a text as different tokens: ΔCE by byte and by document, in nats.

    `sizes` are the bytes of their weights, where these are known.
    Each reads with its own tokenizer under the same protocol, and has a fingerprint of its own.
    Raises `InvalidValueError` where nothing can be compared.
    """
    progress = progress or Progress()
    scored, origins = [], []
    read_notes: dict[str, None] = {}
    for model, size in zip((reference, candidate), sizes, strict=True):
        progress.stage(f"reading with {model.name}")
        tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context, progress)
        origins.append(origin(model.name, model_fingerprint(model, documents, tokenized), size))
        read_notes |= dict.fromkeys([*model.notes, *lost_text_notes(model.tokenizer, documents)])
        read_notes |= dict.fromkeys(coverage_notes(tokenized, weighted=False))
        rows = token_rows(ModelPredictor(model), tokenized, progress=progress.tokens)
        nll_M: Float[np.ndarray, "M"] = concatenate_statistics(list(rows)).nll
        lengths = np.array([document.n_bytes for document in tokenized.documents])
        scored.append(
            ScoredBytes.of_scored(tokenized.byte_spans, nll_M, tokenized.places.document_M, lengths)
        )
    compared = compare_at_shared_boundaries(*scored)
    notes = ["above 0 the candidate predicts worse; tokenizers differ: no KL by token"]
    if compared.unscored_bytes:
        notes.append(f"{compared.unscored_bytes:,} bytes are not scored")
    notes += read_notes
    return stored_comparison(
        "by bytes",
        (origins[0], origins[1]),
        {
            "delta_cross_entropy_per_byte": compared.per_byte,
            "delta_cross_entropy_per_document": compared.per_document,
        },
        int((~np.isnan(scored[0].nll_M)).sum()),
        notes=notes,
        documents=documents,
        spans=_largest_spans(compared, tokenized),
    )


def _largest_spans(compared: ByteComparison, tokenized: TokenizedText) -> list[DifferentBytes]:
    """Where the models differ most."""
    spans = []
    for segment in compared.largest(SHOWN_SEGMENTS):
        begin, end = (int(byte) for byte in compared.byte_spans_S2[segment])
        document = tokenized.documents[int(compared.document_S[segment])]
        spans.append(
            DifferentBytes(
                document=document.name,
                byte_start=begin,
                text=document.content(begin, end).decode(errors="replace"),
                reference_nll=float(compared.reference_nll_S[segment]),
                candidate_nll=float(compared.candidate_nll_S[segment]),
            )
        )
    return spans
