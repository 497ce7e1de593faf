"""Spellings of special tokens in a text: how they are read, and how many there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

__all__ = ["Spelled", "count_strings", "spelled_note"]

#: How the spelling of a special token in a text is read: as its characters, or as the token.
Spelled = Literal["text", "tokens"]

SHOWN = 3  # of the spellings in a note


def count_strings(strings: Sequence[str], pieces: Iterable[str]) -> Counter[str]:
    """How often each of the strings occurs in a text that comes in pieces.

    Of overlapping ones the first counts, of those that begin at one place the longest.

    >>> count_strings(["<s>", "</s>"], ["<s>Hello<", "/s><s>"])
    Counter({'<s>': 2, '</s>': 1})
    """
    counts: Counter[str] = Counter()
    wanted = sorted(filter(None, set(strings)), key=lambda string: (-len(string), string))
    if not wanted:
        return counts
    pattern, overlap = re.compile("|".join(map(re.escape, wanted))), len(wanted[0]) - 1
    text = ""
    for piece in _with_end(pieces):
        text += piece or ""
        # What begins later may be the beginning of a longer string, but at the end of the text.
        limit = len(text) if piece is None else len(text) - overlap
        done = max(limit, 0)
        for match in pattern.finditer(text):
            if match.start() >= limit:
                break
            counts[match[0]] += 1
            done = max(done, match.end())
        text = text[done:]
    return counts


def spelled_note(counts: Counter[str], special_tokens: Spelled) -> list[str]:
    """A note where a text spells special tokens."""
    if not counts:
        return []
    shown = ", ".join(f"{string} {count:,}" for string, count in counts.most_common(SHOWN))
    more = f" and {len(counts) - SHOWN} others" if len(counts) > SHOWN else ""
    times = f"{counts.total():,} time{'s' * (counts.total() != 1)}"
    how = {
        "text": "read as ordinary characters (--special-tokens tokens reads them as the tokens)",
        "tokens": "read as the tokens (--special-tokens text reads them as ordinary characters)",
    }[special_tokens]
    return [f"the text spells special tokens {times} ({shown}{more}): {how}"]


def _with_end(pieces: Iterable[str]) -> Iterator[str | None]:
    """The pieces, then None."""
    yield from pieces
    yield None
