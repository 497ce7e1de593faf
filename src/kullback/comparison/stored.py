"""The result of comparing what is on disk, or models by bytes: measures, origins, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from kullback.results.comparison import (
    CandidateComparison,
    Comparison,
    ComparisonKind,
    DifferentBytes,
    Operand,
)
from kullback.results.measurement import Measurement
from kullback.text.documents import Document
from kullback.text.fingerprint import Fingerprint
from kullback.text.inputs import text_name

__all__ = ["origin", "stored_comparison"]


def origin(
    name: str, identity: Fingerprint | None = None, size_bytes: int | None = None
) -> Operand:
    """An operand and what its numbers depend on; `identity` is None where that is unknown."""
    if identity is None:
        return Operand(name=name, size_bytes=size_bytes)
    return Operand(
        name=name,
        size_bytes=size_bytes,
        fingerprint=str(identity),
        protocol=dict(identity.parts),
    )


def stored_comparison(
    kind: ComparisonKind,
    operands: tuple[Operand, Operand],
    measures: Mapping[str, Measurement],
    scored_tokens: int,
    *,
    kl_quantiles: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    spans: Sequence[DifferentBytes] = (),
    llama_cpp: str = "",
    documents: Sequence[Document] = (),
) -> Comparison:
    """One candidate's measures as a result; `operands` are reference and candidate.

    `documents` is the text, where it was read.
    """
    reference, candidate = operands
    by_bytes = ", by bytes" if kind == "by bytes" else ""
    return Comparison(
        title=f"{candidate.name} against {reference.name}{by_bytes}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command="",
        kind=kind,
        reference=reference,
        candidates=(
            CandidateComparison(
                operand=candidate,
                measures=dict(measures),
                identical=_identical(kl_quantiles),
                kl_quantiles=dict(kl_quantiles or {}),
                spans=tuple(spans),
            ),
        ),
        scored_tokens=scored_tokens,
        text=text_name(documents) if documents else "",
        documents=len(documents) or None,
        bytes=sum(document.n_bytes for document in documents) or None,
        notes=tuple(notes),
        llama_cpp=llama_cpp,
    )


def _identical(kl_quantiles: Mapping[str, float] | None) -> bool:
    """Whether every KL is 0."""
    return kl_quantiles is not None and kl_quantiles["maximum"] == 0.0
