"""What the normaliser of a tokenizer takes from a text: case, accents, compatible characters.

The tokens are then of a changed text, and bits per byte leave out what is lost.  Whitespace, which
many tokenizers mark or join, is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from kullback.text.documents import Document
from kullback.text.tokenizer import TextTokenizer

__all__ = ["READ", "lost_text_note", "lost_text_notes"]

#: Characters at the beginning of a text that are looked at.
READ = 1 << 16
SHOWN = 20
# What tokenizers write for a space.
MARK = "▁"


def lost_text_note(tokenizer: TextTokenizer, text: str) -> str | None:
    """A sentence where the tokenizer changes the first characters of a text, else None."""
    normalizer = tokenizer.normalizer
    if normalizer is None or "ByteLevel" in repr(normalizer):  # that of bytes keeps all of them
        return None

    def read(word: str) -> str:
        return _visible(normalizer.normalize_str(word))

    word = _first_changed(text[:READ], read)
    if word is None:
        return None
    return (
        f"the tokenizer changes the text before it is cut ({word[:SHOWN]!r} is read as "
        f"{read(word)[:SHOWN]!r}): bits per byte leave out what is lost, and are lower than those "
        "of a tokenizer that keeps the text"
    )


def lost_text_notes(tokenizer: TextTokenizer, documents: Iterable[Document]) -> list[str]:
    """That sentence for the beginning of the first document with a text, in a list."""
    beginnings = (piece for document in documents for piece in islice(document.pieces(READ), 1))
    note = lost_text_note(tokenizer, next(beginnings, ""))
    return [] if note is None else [note]


def _first_changed(text: str, read: Callable[[str], str]) -> str | None:
    if read(text) == _visible(text):
        return None
    return next((word for word in text.split() if read(word) != _visible(word)), None)


def _visible(text: str) -> str:
    return "".join(text.replace(MARK, " ").split())
