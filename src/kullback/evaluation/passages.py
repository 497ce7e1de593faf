"""The beginning of a text, token by token, as reports show it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kullback.evaluation.passes import TokenizedText
from kullback.results.evaluation import Passage, TextToken
from kullback.scoring.token_statistics import TokenStatistics
from kullback.text.tokenizer import TextTokenizer

__all__ = ["SHOWN_TOKENS", "TOP_K", "passages", "text_passages", "top_tokens"]

# Tokens at the beginning of the text that a report shows, and the most probable ones of each.
SHOWN_TOKENS = 1200
TOP_K = 5


def passages(
    tokenized: TokenizedText, count: int, token: Callable[[int], TextToken]
) -> tuple[Passage, ...]:
    """The first `count` rows as they follow one another in their documents."""
    shown: list[tuple[int, int, list[TextToken]]] = []
    places, spans_M2 = tokenized.places, tokenized.byte_spans
    for row in range(count):
        document = int(places.document_M[row])
        follows = row > 0 and places.document_M[row - 1] == document
        if not follows or spans_M2[row, 0] != spans_M2[row - 1, 1]:
            shown.append((document, int(spans_M2[row, 0]), []))
        shown[-1][2].append(token(row))
    return tuple(
        Passage(tokenized.documents[document].name, start, tuple(tokens))
        for document, start, tokens in shown
    )


def text_passages(
    tokenized: TokenizedText, statistics: TokenStatistics, tokenizer: TextTokenizer
) -> tuple[Passage, ...]:
    """The beginning of the text with one model's surprisals; `statistics` are of its first rows."""

    def token(row: int) -> TextToken:
        return TextToken(
            text=tokenized.text_of(row),
            nll=float(statistics.nll[row]),
            rank=int(statistics.rank[row]),
            top=top_tokens(statistics, row, tokenizer),
        )

    return passages(tokenized, min(len(statistics), SHOWN_TOKENS), token)


def top_tokens(
    statistics: TokenStatistics, row: int, tokenizer: TextTokenizer
) -> tuple[tuple[str, float], ...]:
    """The most probable tokens of a row and their probabilities."""
    tokens, log_probabilities = statistics.top_tokens[row], statistics.top_log_probabilities[row]
    return tuple(
        (tokenizer.token_text(int(token)), float(np.exp(log_probability)))
        for token, log_probability in zip(tokens, log_probabilities, strict=True)
        if token >= 0
    )
