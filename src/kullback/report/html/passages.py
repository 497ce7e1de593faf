"""The beginning of the text, token by token, in as many bytes as a page can take.

The candidates of a comparison read the same tokens: a token is shown once, with what each of them
makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kullback.results.evaluation import Passage, TextToken

__all__ = ["SHOWN_TOP", "Beginning", "ShownPassage", "beginning"]

#: The most probable tokens that are shown of each model.
SHOWN_TOP = 3
#: Models times tokens: each takes about 120 bytes of the page.
_MOST_CELLS = 2000
_MOST_TOKENS = 1200


@dataclass(frozen=True)
class ShownPassage:
    """Consecutive tokens of one document, each with the same token of the further candidates."""

    document: str
    byte_start: int
    tokens: tuple[tuple[TextToken, ...], ...]
    """One tuple a token: of the first candidate, the second, …"""


@dataclass(frozen=True)
class Beginning:
    """The passages that are shown, and how many tokens they have."""

    passages: tuple[ShownPassage, ...]
    tokens: int


def beginning(passages: Sequence[tuple[Passage, ...]], models: int) -> Beginning:
    """The first tokens of the text; `passages` are those of each candidate, or of one model.

    `models` is how many models a token is shown with, the reference included.  Candidates whose
    tokens are not those of the first are left out.
    """
    first = passages[0] if passages else ()
    alike = [theirs for theirs in passages if _shape(theirs) == _shape(first)]
    left = min(_MOST_TOKENS, _MOST_CELLS // max(1, models))
    shown, total = [], 0
    for i, passage in enumerate(first):
        tokens = tuple(zip(*(theirs[i].tokens[:left] for theirs in alike), strict=True))
        if tokens:
            shown.append(ShownPassage(passage.document, passage.byte_start, tokens))
        left -= len(tokens)
        total += len(tokens)
    return Beginning(tuple(shown), total)


def _shape(passages: Sequence[Passage]) -> list[tuple[str, int, int]]:
    return [(passage.document, passage.byte_start, len(passage.tokens)) for passage in passages]
