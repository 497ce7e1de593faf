"""Checks that grammars, automata, languages and verb tables share: sums, files, prefixes."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kullback.errors import GrammarError, ImpossiblePrefixError
from kullback.runtime.decoding import read_bounded

__all__ = ["SUM_TOLERANCE", "check_sum", "impossible_prefix", "read_toml"]

# Probabilities typed by hand ("0.333, 0.333, 0.334") sum to 1 no better than this; beyond it, a
# weight is missing rather than rounded.
SUM_TOLERANCE = 1e-9
# Of a TOML file.
MOST_BYTES, MOST_DEPTH = 64 << 20, 16


def check_sum(what: str, probabilities: Iterable[float], remedy: str) -> None:
    """Raise `GrammarError` unless the probabilities sum to 1 within `SUM_TOLERANCE`."""
    total = sum(probabilities)
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise GrammarError(f"{what} sum to {total:.12g}, not 1; {remedy}")


def read_toml(path: Path | Traversable, what: str) -> dict[str, Any]:
    """The content of a TOML file; `GrammarError` if it cannot be read or is not TOML."""
    try:
        content = read_bounded(path, MOST_BYTES) if isinstance(path, Path) else path.read_bytes()
        data = _parsed(content.decode("utf-8-sig").replace("\r\n", "\n"))
        _check_depth(data)
        return data
    except OSError as error:
        raise GrammarError(
            f"the {what} {path} cannot be read: {error.strerror}; check the path"
        ) from None
    except ValueError as error:
        raise GrammarError(f"{path} is not a TOML file: {error}") from None
    except RecursionError:
        raise GrammarError(f"{path} is no {what}: its lists are nested too deep") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's limit for the digits of an integer
        raise ValueError(
            f"a number in it has more than {sys.get_int_max_str_digits():,} digits"
        ) from None


def _check_depth(data: object) -> None:
    """Raise `ValueError` where tables and lists are nested deeper than in any grammar."""
    level: list[object] = [data]
    for _ in range(MOST_DEPTH):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        if not inner:
            return
        level = inner
    raise ValueError(f"its tables are nested more than {MOST_DEPTH} deep")


def impossible_prefix(
    name: str, vocabulary: Sequence[str], prefix: Sequence[int], position: int
) -> ImpossiblePrefixError:
    """The error for a prefix whose token at `position` is the first impossible one."""
    before = " ".join(vocabulary[token] for token in prefix[:position]) or "the beginning"
    token = prefix[position]
    shown = repr(vocabulary[token]) if 0 <= token < len(vocabulary) else f"id {token}"
    return ImpossiblePrefixError(
        f"{name} cannot produce {shown} (token {position} of the prefix) after {before!r}"
    )
