"""SentencePiece's byte-pair encoding as llama.cpp runs it, in the merges of `tokenizers`.

llama.cpp merges whichever two neighbours are a token together: the best score first, and of equal
scores the leftmost.  A merge of `tokenizers` is of one pair and has a rank of its own: the best
rank first, and of the same pair the leftmost.  So where tokens of equal scores can overlap in a
text the two differ, which is refused, but for runs of one character (▁▁, ▁▁▁, ...), which Llama's
vocabulary has: with the longest first they grow from the left as in llama.cpp, which is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise

from tokenizers import Tokenizer, models

__all__ = ["SPACE", "merges_by_score", "overlaps"]

SPACE = "▁"
# Runs are checked up to this many times the longest token.
RUNS = 4


def merges_by_score(
    tokens: Mapping[str, int], scores: Sequence[float], user: Set[str]
) -> list[tuple[str, str]]:
    """All pairs of tokens that are a token together, in the order in which they are merged.

    `user` are the tokens that are found in a text before.  Raises `ValueError` with what the
    tokenizer does that merges cannot.
    """
    ways: dict[str, list[tuple[str, str]]] = {}
    by_score: dict[float, list[str]] = {}
    for token, id_ in tokens.items():
        # Spaces are spelled ▁ in a text.
        if len(token) < 2 or " " in token or (token in user and SPACE not in token):
            continue
        if of_token := list(_ways(token, tokens)):
            ways[token] = of_token
            by_score.setdefault(scores[id_], []).append(token)
    runs: set[str] = set()
    for score, equal in by_score.items():
        for left, right in overlaps(equal) if len(equal) > 1 else ():
            if {*left} != {*right} or len({*left}) > 1:
                raise ValueError(
                    f"gives tokens that overlap, {left!r} and {right!r}, the same score ({score:g})"
                )
            runs |= {left, right}

    def rank(pair: tuple[str, str]) -> tuple[float, int, bool, int]:
        token = "".join(pair)
        id_ = tokens[token]
        # Of two ways to make a token, the one that is leftmost where they overlap.
        return (
            -scores[id_],
            -len(token) if token in runs else 0,
            not token.startswith(pair[1]),
            id_,
        )

    merges = sorted((pair for pairs in ways.values() for pair in pairs), key=rank)
    for letter in {run[0] for run in runs}:
        _check_runs(letter, tokens, scores, merges)
    return merges


def overlaps(tokens: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of tokens of which the first ends with what the second, another one, begins with."""
    tokens = list(tokens)
    beginning: dict[str, list[str]] = {}
    for token in tokens:
        for end in range(1, len(token)):
            beginning.setdefault(token[:end], []).append(token)
    for token in tokens:
        for begin in range(1, len(token)):
            for other in beginning.get(token[begin:], ()):
                if other != token:
                    yield token, other


def _ways(token: str, tokens: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of tokens that `token` is made of."""
    for cut in range(1, len(token)):
        left, right = token[:cut], token[cut:]
        if left in tokens and right in tokens:
            yield left, right
        elif all(len(part) == 1 or part in tokens for part in (left, right)):
            raise ValueError(f"has the token {token!r}, and none for one of its characters")


def _check_runs(
    letter: str,
    tokens: Mapping[str, int],
    scores: Sequence[float],
    merges: Sequence[tuple[str, str]],
) -> None:
    """Raise `ValueError` where merges do not cut runs of `letter` as llama.cpp does."""
    lengths = {len(t): scores[i] for t, i in tokens.items() if t == letter * len(t) and t}
    vocabulary = {letter * n: n for n in lengths}
    within = [pair for pair in merges if {*"".join(pair)} == {letter}]
    tokenizer = Tokenizer(models.BPE(vocabulary, within))
    for length in range(2, RUNS * max(lengths) + 1):
        merged = [len(token) for token in tokenizer.encode(letter * length).tokens]
        if merged != _cut_run(length, lengths):
            raise ValueError(
                f"gives runs of {letter!r} of several lengths the same score, in an order that is "
                "not that of merges"
            )


def _cut_run(length: int, scores: Mapping[int, float]) -> list[int]:
    """The lengths of the tokens of a run of one character, by llama.cpp's order."""
    parts = [1] * length
    while True:
        pairs = [
            (-scores[a + b], place)
            for place, (a, b) in enumerate(pairwise(parts))
            if a + b in scores
        ]
        if not pairs:
            return parts
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
