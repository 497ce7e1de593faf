"""The pass of one candidate, resumed where an earlier one was interrupted.

The rows of a finished pass are kept until the whole comparison is done, and those of the first
windows where it is interrupted (:mod:`kullback.runtime.interrupted`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kullback.evaluation.passes import TokenizedText
from kullback.runtime.interrupted import (
    forget,
    interrupted_path,
    read_interrupted,
    write_interrupted,
)
from kullback.scoring.divergence import DivergenceStatistics, concatenate_divergences
from kullback.scoring.token_statistics import TokenStatistics

__all__ = ["KeptPasses"]

SECONDS_WORTH_KEEPING = 2.0


class KeptPasses:
    """The passes of the candidates of one comparison."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def rows(
        self,
        identities: Sequence[str],
        tokenized: TokenizedText,
        compute: Callable[[int], Iterator[DivergenceStatistics]],
    ) -> DivergenceStatistics:
        """All rows of a pass; `compute` gives those of the windows from a number on.

        `identities` are the fingerprints of both models and their text, and whatever else the rows
        depend on.
        """
        path = interrupted_path(hashlib.sha256("\0".join(identities).encode()).hexdigest())
        parts: list[DivergenceStatistics] = []
        first = 0
        if path is not None:
            self._paths.append(path)
            earlier = _read(path, tokenized)
            if earlier is not None:
                first = int(np.searchsorted(tokenized.starts, len(earlier)))
                parts.append(earlier)
        if first == len(tokenized.windows):
            return parts[0]
        began = time.monotonic()
        try:
            for rows in compute(first):
                parts.append(rows)
        except KeyboardInterrupt as interruption:
            if path is not None and parts and _write(path, parts):
                done = sum(map(len, parts))
                interruption.add_note(
                    f"{done:,} of {len(tokenized):,} tokens of this candidate are kept"
                )
            raise
        divergences = concatenate_divergences(parts)
        if path is not None and time.monotonic() - began >= SECONDS_WORTH_KEEPING:
            _write(path, [divergences])
        return divergences

    def forget(self) -> None:
        """Remove all that was kept: the comparison is done."""
        for path in self._paths:
            forget(path)


def _write(path: Path, parts: Sequence[DivergenceStatistics]) -> bool:
    return write_interrupted(path, save(_columns(concatenate_divergences(parts))))


def _read(path: Path, tokenized: TokenizedText) -> DivergenceStatistics | None:
    """The rows of the first windows; None where none were kept, or they are of another version."""
    content = read_interrupted(path)
    if content is None:
        return None
    try:
        columns = load(content)
        divergences = _of_columns(columns)
    except (SafetensorError, KeyError):
        return None
    lengths = {len(column) for column in columns.values()}
    if lengths != {len(divergences)} or len(divergences) not in tokenized.starts[1:]:
        return None
    return divergences


def _columns(divergences: DivergenceStatistics) -> dict[str, np.ndarray]:
    """All arrays by their names; those of the two models after the model's name and a dot."""
    columns: dict[str, np.ndarray] = {}
    for field in fields(DivergenceStatistics):
        value = getattr(divergences, field.name)
        if isinstance(value, TokenStatistics):
            for inner in fields(TokenStatistics):
                name = f"{field.name}.{inner.name}"
                columns[name] = np.ascontiguousarray(getattr(value, inner.name))
        else:
            columns[field.name] = np.ascontiguousarray(value)
    return columns


def _of_columns(columns: dict[str, np.ndarray]) -> DivergenceStatistics:
    def of_model(model: str) -> TokenStatistics:
        names = [field.name for field in fields(TokenStatistics)]
        return TokenStatistics(**{name: columns[f"{model}.{name}"] for name in names})

    empty = DivergenceStatistics.empty(0)
    names = [field.name for field in fields(empty) if field.name not in ("reference", "candidate")]
    return replace(
        empty,
        reference=of_model("reference"),
        candidate=of_model("candidate"),
        **{name: columns[name] for name in names},
    )
