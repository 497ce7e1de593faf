"""Comparing models that read a text as different tokens: by bytes, and nothing is stored.

The cut at bytes where both tokenizers have a boundary is that of
:mod:`kullback.comparison.byte_boundaries`.

Axes: M scored tokens of a model, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from kullback.comparison.byte_boundaries import ScoredBytes, compare_at_shared_boundaries
from kullback.comparison.recordings import Origin, stored_results
from kullback.evaluation.on_text import model_fingerprint
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.models.interface import TextModel
from kullback.results.text import DifferentBytes, StoredResults
from kullback.scoring.token_statistics import concatenate_statistics
from kullback.text.documents import Document
from kullback.text.protocol import Protocol

__all__ = ["compare_by_bytes"]

SHOWN_SEGMENTS = 12


def compare_by_bytes(
    reference: TextModel,
    candidate: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredResults:
    """Two models that read a text as different tokens: ΔCE by byte and by document, in nats.

    Each reads with its own tokenizer under the same protocol, and has a fingerprint of its own.
    Raises `InvalidValueError` where nothing can be compared.
    """
    scored, origins = [], []
    for number, model in enumerate((reference, candidate)):
        tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context)
        origins.append(Origin(model.name, model_fingerprint(model, documents, tokenized)))

        def half(done: int, total: int, offset: int = number) -> None:
            progress(done + offset * total, 2 * total)

        found = concatenate_statistics(
            list(token_rows(ModelPredictor(model), tokenized, progress=half))
        )
        nll_M: Float[np.ndarray, "M"] = found.nll
        lengths = np.array([document.n_bytes for document in tokenized.documents])
        scored.append(
            ScoredBytes.of_scored(tokenized.byte_spans, nll_M, tokenized.places.document_M, lengths)
        )
    compared = compare_at_shared_boundaries(*scored)
    texts = [document.text.encode() for document in tokenized.documents]
    spans: list[DifferentBytes] = []
    for segment in compared.largest(SHOWN_SEGMENTS):
        begin, end = (int(place) for place in compared.byte_spans_S2[segment])
        document = int(compared.document_S[segment])
        spans.append(
            {
                "document": tokenized.documents[document].name,
                "byte_start": begin,
                "text": texts[document][begin:end].decode(errors="replace"),
                "reference_nll": float(compared.reference_nll_S[segment]),
                "candidate_nll": float(compared.candidate_nll_S[segment]),
            }
        )
    notes = ["above 0 the candidate predicts worse; tokenizers differ: no KL by token"]
    if compared.unscored_bytes:
        notes.append(f"{compared.unscored_bytes:,} bytes are not scored")
    return stored_results(
        origins[0],
        origins[1],
        {
            "delta_cross_entropy_per_byte": compared.per_byte,
            "delta_cross_entropy_per_document": compared.per_document,
        },
        scored_tokens=int(np.isfinite(scored[0].nll_M).sum()),
        title=f"{candidate.name} against {reference.name}, by bytes",
        notes=notes,
        spans=spans,
    )
