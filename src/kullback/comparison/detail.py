"""The KL of one candidate by token class, position, the reference's confidence, and token.

Axes: M scored tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from kullback.comparison.measures import (
    CONFIDENCE_EDGES,
    compare_tokens,
    kl_quantiles,
    worst_tokens,
)
from kullback.evaluation.measures import Places, means_by, position_edges, weighted_mean
from kullback.evaluation.passages import SHOWN_TOKENS, passages, top_tokens
from kullback.evaluation.passes import TokenizedText
from kullback.results.build import curve, histogram
from kullback.results.comparison import CandidateComparison, Operand, WorstToken
from kullback.results.evaluation import Histogram, Passage, TextToken
from kullback.scoring.divergence import DivergenceStatistics
from kullback.text.tokenizer import TextTokenizer

__all__ = ["describe_candidate"]

WORST = 20
CONTEXT_BYTES = 80
# log10 of KL in nats; what is nearer than 1e-10 is in the first bin.
KL_EDGES = np.arange(-10.0, 2.25, 0.25)
CLASSES = {
    "word": re.compile(r"[ \n]?[^\W\d_]+"),
    "number": re.compile(r"\s?\d+"),
    "whitespace": re.compile(r"\s+"),
    "punctuation": re.compile(r"\s?[^\w\s]+"),
}
CLASS_NAMES = (
    "word begins", "word continues", "number", "punctuation", "whitespace", "other",
)  # fmt: skip


def describe_candidate(
    operand: Operand,
    divergences: DivergenceStatistics,
    tokenized: TokenizedText,
    tokenizer: TextTokenizer,
    with_passages: bool,
) -> CandidateComparison:
    """The measures of a candidate and where its KL comes from."""
    places, kl_M = tokenized.places, divergences.kl
    identical = not kl_M.any() and np.array_equal(
        divergences.reference.nll, divergences.candidate.nll
    )
    position_M = places.position_M.astype(np.float64)
    by_position = means_by(kl_M, position_M, position_edges(places.position_M), places)
    confidence_M = divergences.reference.top1_probability
    by_confidence = means_by(kl_M, confidence_M, CONFIDENCE_EDGES, places)
    return CandidateComparison(
        operand=operand,
        measures=compare_tokens(divergences, places),
        identical=bool(identical),
        kl_quantiles=kl_quantiles(kl_M),
        kl_histogram=_log_histogram(kl_M, places),
        kl_by_position=curve(by_position.x_B, by_position.means),
        kl_by_confidence=curve(by_confidence.x_B, by_confidence.means),
        kl_by_token_class={
            name: weighted_mean(kl_M, places, rows=rows)
            for name, rows in _token_classes(tokenized.targets, tokenizer)
        },
        worst_tokens=() if identical else _worst(divergences, tokenized, tokenizer),
        passages=_passages(divergences, tokenized, tokenizer) if with_passages else (),
    )


def _log_histogram(kl_M: Float[np.ndarray, "M"], places: Places) -> Histogram:
    smallest, largest = 10.0 ** KL_EDGES[0], 10.0 ** (KL_EDGES[-1] - 1e-9)
    return histogram(np.log10(np.clip(kl_M, smallest, largest)), KL_EDGES, places.weight_M)


def _token_classes(
    targets_M: Int[np.ndarray, "M"], tokenizer: TextTokenizer
) -> Iterator[tuple[str, Int[np.ndarray, "m"]]]:
    """The rows of each class of tokens that occurs."""
    class_V = np.zeros(int(targets_M.max()) + 1, np.int8)
    for token in np.flatnonzero(np.bincount(targets_M)):
        class_V[token] = CLASS_NAMES.index(_token_class(tokenizer.token_text(int(token))))
    class_M = class_V[targets_M]
    for number, name in enumerate(CLASS_NAMES):
        rows = np.flatnonzero(class_M == number)
        if len(rows):
            yield name, rows


def _token_class(text: str) -> str:
    for name, pattern in CLASSES.items():
        if pattern.fullmatch(text):
            if name != "word":
                return name
            return "word begins" if text[0].isspace() or text[0].isupper() else "word continues"
    return "other"


def _worst(
    divergences: DivergenceStatistics, tokenized: TokenizedText, tokenizer: TextTokenizer
) -> tuple[WorstToken, ...]:
    worst = []
    for row in map(int, worst_tokens(divergences.kl, WORST)):
        before, after = tokenized.text_around(row, CONTEXT_BYTES)
        worst.append(
            WorstToken(
                document=tokenized.documents[int(tokenized.places.document_M[row])].name,
                byte_start=int(tokenized.byte_spans[row, 0]),
                before=before,
                token=tokenized.text_of(row),
                after=after,
                kl=float(divergences.kl[row]),
                reference_nll=float(divergences.reference.nll[row]),
                candidate_nll=float(divergences.candidate.nll[row]),
                reference_top=top_tokens(divergences.reference, row, tokenizer),
                candidate_top=top_tokens(divergences.candidate, row, tokenizer),
            )
        )
    return tuple(worst)


def _passages(
    divergences: DivergenceStatistics, tokenized: TokenizedText, tokenizer: TextTokenizer
) -> tuple[Passage, ...]:
    reference, candidate = divergences.reference, divergences.candidate

    def token(row: int) -> TextToken:
        return TextToken(
            text=tokenized.text_of(row),
            nll=float(reference.nll[row]),
            rank=int(reference.rank[row]),
            top=top_tokens(reference, row, tokenizer),
            kl=float(divergences.kl[row]),
            candidate_nll=float(candidate.nll[row]),
            candidate_top=top_tokens(candidate, row, tokenizer),
        )

    return passages(tokenized, min(len(divergences), SHOWN_TOKENS), token)
