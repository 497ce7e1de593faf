"""Reading of a ``tokenizer.json``, which may be anybody's."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from kullback.runtime.decoding import read_bounded

__all__ = ["MOST_TOKENS", "read_tokenizer"]

MOST_TOKENS = 10_000_000
"""Ids are below it: tables of all tokens are kept in memory, and the largest known vocabularies
have about a million tokens."""
MOST_BYTES = 1 << 30


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises `OSError` where the file cannot be read, `ValueError` with the reason where it is no
    tokenizer or has ids from `MOST_TOKENS` on.
    """
    content = read_bounded(path, MOST_BYTES).decode("utf-8")
    try:
        tokenizer = Tokenizer.from_str(content)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # The library raises a bare Exception for damaged JSON, and where its Rust code panics a
    # PanicException, which is no Exception.
    except BaseException as error:
        raise ValueError(str(error)) from None
    token, largest = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if largest >= MOST_TOKENS:
        raise ValueError(
            f"the token {token!r} has the id {largest}, and ids must be below {MOST_TOKENS:,}"
        )
    return tokenizer
