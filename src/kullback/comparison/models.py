"""`kullback compare`, whole: from models and documents to plain results.

The pass is that of :mod:`kullback.evaluation.passes`, the measures those of
:mod:`kullback.comparison.measures`; here they become the document that ``--json`` prints and the
report shows (:mod:`kullback.results.text`).

Axes: M scored tokens, K candidates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from kullback.comparison.measures import (
    CONFIDENCE_EDGES,
    compare_tokens,
    kl_quantiles,
    pareto_front,
    worst_tokens,
)
from kullback.comparison.noise_floor import above_noise, noise_floor
from kullback.comparison.operands import Operand
from kullback.comparison.sensitivity import measure_sensitivity
from kullback.errors import InvalidValueError
from kullback.evaluation.measures import means_by, position_edges
from kullback.evaluation.on_text import (
    coverage_notes,
    curve,
    histogram,
    passages,
    plain,
    top_tokens,
)
from kullback.evaluation.passes import TokenizedText, divergence_rows
from kullback.models.interface import TextModel
from kullback.models.quantization import Scheme
from kullback.results.text import (
    ComparisonResults,
    Histogram,
    MeasurementData,
    Passage,
    SchemeResult,
    TextToken,
    WorstToken,
)
from kullback.scoring.divergence import DivergenceStatistics, concatenate_divergences
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import TextTokenizer
from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means

__all__ = ["Candidate", "Job", "compare_models"]

SHOWN_TOKENS = 1200
WORST = 20
CONTEXT_BYTES = 80
# log10 of KL in nats; what is nearer than 1e-10 stands in the first bin.
KL_EDGES = np.arange(-10.0, 2.25, 0.25)
MOVED_IS_NOT_WORSE = (
    "KL says how far the candidate moved from the reference, not that it is worse; "
    "ΔCE says how much worse it predicts this text"
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """Whatever is compared with the reference; `open` loads it when its turn comes."""

    name: str
    open: Callable[[], Operand]


@dataclass(frozen=True, eq=False)
class Job:
    """What to do beside the comparison itself, and whom to tell."""

    noise: bool = False
    noise_dtype: Callable[[], TextModel] | None = None
    """Loads the reference in another type, for the noise floor."""
    sensitivity: Scheme | None = None
    """Rank the reference's layers by what this scheme costs in each."""
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    command: str = ""
    with_passages: bool = False


def compare_models(
    reference: Operand,
    candidates: Sequence[Candidate],
    documents: Sequence[Document],
    protocol: Protocol,
    job: Job | None = None,
) -> ComparisonResults:
    """Everything about how far the candidates are from `reference` on `documents`.

    Each side is a model, or an exact recording of one.  The first candidate is shown in full; where
    there are several, all are ranked, with intervals that hold for all at once.  Raises
    `InvalidValueError` where tokenizers differ, where a recording is of another text or protocol,
    and where the job needs a model and the reference is a recording.
    """
    job = job or Job()
    _check_job(reference, job)
    reader, opened = _reader(reference, candidates)
    tokenized = TokenizedText.of(documents, protocol, reader.tokenizer, reader.context)
    reference.check(documents, tokenized, reader)
    began = time.perf_counter()
    first: DivergenceStatistics | None = None
    summaries: list[_Summary] = []
    notes = list(reference.notes)
    for i, candidate in enumerate(candidates):
        side = opened.pop(i) if i in opened else candidate.open()
        side.check(documents, tokenized, reader)
        rows = divergence_rows(
            reference,
            side,
            tokenized,
            progress=partial(job.progress, candidate.name),
            vocabulary_size=min(reference.vocabulary_size, side.vocabulary_size),
        )
        found = concatenate_divergences(list(rows))
        weights = str(side.fingerprint(documents, tokenized).parts.get("weights", ""))
        summaries.append(_Summary.of(candidate.name, side.size_bytes, weights, found))
        if side.model is None:
            notes += side.notes
        first = first or found
    assert first is not None
    floor, layers = {}, None
    if job.noise and reference.model is not None:
        floor = noise_floor(reference.model, tokenized, job.noise_dtype, job.progress)
    if job.sensitivity is not None and reference.model is not None:
        layers = measure_sensitivity(
            reference.model, job.sensitivity, tokenized, partial(job.progress, "layers, one by one")
        )
    measures = compare_tokens(first, tokenized.places)
    places, tokenizer = tokenized.places, reader.tokenizer
    padding = max(float(first.reference_padding.max()), float(first.candidate_padding.max()))
    notes += [*coverage_notes(tokenized), MOVED_IS_NOT_WORSE]
    if padding > 0:
        notes.append(
            f"words that only one of the models has were left out: at most {padding:.2g} of the "
            "probability at any token"
        )
    position_M = places.position_M.astype(np.float64)
    by_position = means_by(
        first.kl, position_M, position_edges(places.position_M), places.document_M, "nats/token"
    )
    by_confidence = means_by(
        first.kl, first.reference.top1_probability, CONFIDENCE_EDGES, places.document_M,
        "nats/token",
    )  # fmt: skip
    with_sizes = len(summaries) > 1 or summaries[0].size_bytes not in (None, reference.size_bytes)
    if with_sizes and reference.size_bytes is not None:
        notes.append(f"the weights of {reference.name} take {reference.size_bytes:,} bytes")
    identity = reference.fingerprint(documents, tokenized)
    return {
        "title": f"{candidates[0].name} against {reference.name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": job.command,
        "reference": reference.name,
        "candidate": candidates[0].name,
        "fingerprint": str(identity),
        "protocol": {**identity.parts, "candidate_weights": summaries[0].weights},
        "notes": notes,
        "documents": len(documents),
        "scored_tokens": tokenized.coverage.scored_tokens,
        "bytes": tokenized.coverage.bytes,
        "seconds": time.perf_counter() - began,
        "measures": {name: plain(one) for name, one in measures.items()},
        "noise_floor": floor,
        "above_noise": above_noise(plain(measures["kl"]), floor),
        "kl_quantiles": kl_quantiles(first.kl),
        "kl_histogram": _log_histogram(first.kl),
        "kl_by_position": curve(by_position),
        "kl_by_confidence": curve(by_confidence),
        "kl_by_token_class": {
            name: plain(mean_with_interval(first.kl[here], places.document_M[here], "nats/token"))
            for name, here in _token_classes(tokenized.targets, tokenizer)
        },
        "worst": _worst(first, tokenized, tokenizer),
        "passages": _passages(first, tokenized, tokenizer) if job.with_passages else [],
        "schemes": _ranked(summaries, tokenized, floor) if with_sizes else [],
        "sensitivity": [
            {"layer": one.group, "kl": plain(one.kl), "bytes_saved": one.bytes_saved}
            for one in (layers.groups if layers else [])
        ],
        "sensitivity_sum": layers.sum_of_parts if layers else None,
        "sensitivity_whole": layers.whole if layers else None,
    }


def _check_job(reference: Operand, job: Job) -> None:
    """Raise `InvalidValueError` where the reference's model is needed and is not here."""
    wanted = {
        "the noise floor": job.noise,
        "the sensitivity of layers": job.sensitivity is not None,
    }
    for what, needed in wanted.items():
        if needed and reference.model is None:
            raise InvalidValueError(
                f"{what} needs the model itself, and the reference {reference.name} is a "
                "recording: name the model, or leave that out"
            )


def _reader(
    reference: Operand, candidates: Sequence[Candidate]
) -> tuple[TextModel, dict[int, Operand]]:
    """The first model, whose tokenizer reads the text, and the candidates opened to find it."""
    opened: dict[int, Operand] = {}
    if not candidates:
        raise InvalidValueError("there is no candidate: name a model, or schemes with --schemes")
    if reference.model is not None:
        return reference.model, opened
    for i, candidate in enumerate(candidates):
        opened[i] = candidate.open()
        model = opened[i].model
        if model is not None:
            return model, opened
    raise InvalidValueError(
        "all sides are recordings, which have no tokenizer to read the text with: name a model "
        "among them, or compare two recordings alone"
    )


@dataclass(frozen=True, eq=False)
class _Summary:
    """What is kept of each candidate, when its model has gone."""

    name: str
    size_bytes: int | None
    weights: str
    kl_M: Float[np.ndarray, "M"]
    difference_M: Float[np.ndarray, "M"]
    agreement_M: Float[np.ndarray, "M"]

    @classmethod
    def of(
        cls, name: str, size_bytes: int | None, weights: str, found: DivergenceStatistics
    ) -> _Summary:
        before_M, after_M = found.reference.nll, found.candidate.nll
        difference_M = np.subtract(
            after_M, before_M, out=np.zeros(len(found)), where=after_M != before_M
        )
        agreement_M = found.top1_agreement.astype(np.float64)
        return cls(name, size_bytes, weights, found.kl, difference_M, agreement_M)


def _ranked(
    summaries: Sequence[_Summary], tokenized: TokenizedText, floor: Mapping[str, MeasurementData]
) -> list[SchemeResult]:
    """All candidates, the nearest first, with intervals that hold for all of them at once."""
    document_M = tokenized.places.document_M

    def family(rows: list[np.ndarray], unit: str) -> list[MeasurementData]:
        return [plain(one) for one in simultaneous_means(np.stack(rows), document_M, unit)]

    kls = family([each.kl_M for each in summaries], "nats/token")
    differences = family([each.difference_M for each in summaries], "nats/token")
    agreements = family([each.agreement_M for each in summaries], "")
    found: list[SchemeResult] = [
        {
            "name": each.name,
            "bytes": each.size_bytes,
            "kl": kls[i],
            "delta_cross_entropy": differences[i],
            "top1_agreement": agreements[i],
            "on_pareto_front": on_front,
            "above_noise": above_noise(kls[i], floor),
        }
        for i, (each, on_front) in enumerate(zip(summaries, _on_front(summaries), strict=True))
    ]
    order = np.argsort([float(each.kl_M.mean()) for each in summaries], kind="stable")
    return [found[i] for i in order]


def _on_front(summaries: Sequence[_Summary]) -> list[bool]:
    """Which candidates no other beats in size and in KL; none whose size nobody knows."""
    sizes = {i: each.size_bytes for i, each in enumerate(summaries) if each.size_bytes is not None}
    front = pareto_front(list(sizes.values()), [float(summaries[i].kl_M.mean()) for i in sizes])
    found = {i for i, on_front in zip(sizes, front, strict=True) if on_front}
    return [i in found for i in range(len(summaries))]


def _log_histogram(kl_M: Float[np.ndarray, "M"]) -> Histogram:
    smallest = 10.0 ** KL_EDGES[0]
    return histogram(np.log10(np.clip(kl_M, smallest, 10.0 ** (KL_EDGES[-1] - 1e-9))), KL_EDGES)


CLASSES = {
    "word": re.compile(r"[ \n]?[^\W\d_]+"),
    "number": re.compile(r"\s?\d+"),
    "blank": re.compile(r"\s+"),
    "punctuation": re.compile(r"\s?[^\w\s]+"),
}


def _token_classes(
    targets_M: Int[np.ndarray, "M"], tokenizer: TextTokenizer
) -> Iterator[tuple[str, Int[np.ndarray, "m"]]]:
    """The rows of each class of tokens that occurs: a word that begins, one that goes on ..."""
    ids, inverse_M = np.unique(targets_M, return_inverse=True)
    names = np.array([_token_class(tokenizer.token_text(int(token))) for token in ids])
    class_M = names[inverse_M]
    for name in ("word begins", "word goes on", "number", "punctuation", "blank", "other"):
        here = np.flatnonzero(class_M == name)
        if len(here):
            yield name, here


def _token_class(text: str) -> str:
    for name, pattern in CLASSES.items():
        if pattern.fullmatch(text):
            if name != "word":
                return name
            return "word begins" if text[0].isspace() or text[0].isupper() else "word goes on"
    return "other"


def _worst(
    found: DivergenceStatistics, tokenized: TokenizedText, tokenizer: TextTokenizer
) -> list[WorstToken]:
    shown: list[WorstToken] = []
    for row in worst_tokens(found.kl, WORST):
        before, after = tokenized.text_around(int(row), CONTEXT_BYTES)
        shown.append(
            {
                "document": tokenized.documents[int(tokenized.places.document_M[row])].name,
                "byte_start": int(tokenized.byte_spans[row, 0]),
                "before": before,
                "token": tokenized.text_of(int(row)),
                "after": after,
                "kl": float(found.kl[row]),
                "reference_nll": float(found.reference.nll[row]),
                "candidate_nll": float(found.candidate.nll[row]),
                "reference_top": top_tokens(found.reference, int(row), tokenizer),
                "candidate_top": top_tokens(found.candidate, int(row), tokenizer),
            }
        )
    return shown


def _passages(
    found: DivergenceStatistics, tokenized: TokenizedText, tokenizer: TextTokenizer
) -> list[Passage]:
    def token(row: int) -> TextToken:
        return {
            "text": tokenized.text_of(row),
            "nll": float(found.reference.nll[row]),
            "rank": int(found.reference.rank[row]),
            "top": top_tokens(found.reference, row, tokenizer),
            "kl": float(found.kl[row]),
            "candidate_nll": float(found.candidate.nll[row]),
            "candidate_top": top_tokens(found.candidate, row, tokenizer),
        }

    return passages(tokenized, min(len(found), SHOWN_TOKENS), token)
