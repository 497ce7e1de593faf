"""Passes of candidates that are resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import numpy as np
import pytest

from divergence_samples import random_rows
from kullback.comparison import divergence_columns, kept_pass
from kullback.comparison.divergence_columns import COLUMNS, DivergenceColumns
from kullback.comparison.kept_pass import KeptPasses
from kullback.errors import RunError
from kullback.evaluation.passes import TokenizedText
from kullback.runtime.interrupted import InterruptedFile
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics, concatenate_divergences
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT, byte_tokenizer


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_an_interrupted_pass_is_resumed_bit_for_bit(limit, tmp_path, monkeypatch):
    """Rows of the first windows come from the disk; a finished pass is not computed again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(divergence_columns, "IN_MEMORY_EACH", limit)
    monkeypatch.setattr(divergence_columns, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(divergence_columns, "PART_ROWS", 50)
    monkeypatch.setattr(kept_pass, "SECONDS_WORTH_KEEPING", 0.0)
    documents = [Document("text", TEXT)]
    tokenized = TokenizedText.of(documents, Protocol(window=32), byte_tokenizer(), 32)
    sizes = np.diff(tokenized.starts).tolist()
    windows = [random_rows(count, seed) for seed, count in enumerate(sizes)]
    begun: list[int] = []

    def compute(first: int, stop: int | None = None) -> Iterator[DivergenceStatistics]:
        begun.append(first)
        yield from windows[first:stop]
        if stop is not None:
            raise KeyboardInterrupt

    passes = KeptPasses()
    with pytest.raises(KeyboardInterrupt) as interruption, passes.noted():
        passes.rows(lambda: ["a"], tokenized, lambda first: compute(first, 7), ProcessGroup())
    assert len(interruption.value.__notes__) == 1
    assert f"{sum(sizes[:7]):,} of {sum(sizes):,} tokens" in interruption.value.__notes__[0]
    expected = concatenate_divergences(windows)
    for _ in range(2):
        resumed = passes.rows(lambda: ["a"], tokenized, compute, ProcessGroup())
        for name in COLUMNS:
            np.testing.assert_array_equal(
                attrgetter(name)(resumed), attrgetter(name)(expected), err_msg=name
            )
    assert begun == [0, 7]
    with pytest.raises(KeyboardInterrupt) as later, passes.noted():
        raise KeyboardInterrupt
    assert "2 finished candidates" in later.value.__notes__[0]
    passes.forget()
    assert not [kept for kept in Path(tmp_path).rglob("*") if kept.is_file()]


def test_rows_kept_by_another_version_are_computed_anew(tmp_path, monkeypatch):
    """A file without the total variation, as before it was measured, is ignored."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_pass, "SECONDS_WORTH_KEEPING", 0.0)
    documents = [Document("text", TEXT[:200])]
    tokenized = TokenizedText.of(documents, Protocol(window=32), byte_tokenizer(), 32)
    windows = [random_rows(int(count), 1) for count in np.diff(tokenized.starts)]
    begun: list[int] = []

    def compute(first: int) -> Iterator[DivergenceStatistics]:
        begun.append(first)
        yield from windows[first:]

    older = kept_pass._SCHEMA.remove(kept_pass._SCHEMA.get_field_index("total_variation"))
    with monkeypatch.context() as patch:
        patch.setattr(kept_pass, "_SCHEMA", older)
        patch.setattr(kept_pass, "COLUMNS", {name: COLUMNS[name] for name in older.names})
        parts = DivergenceColumns.parts
        patch.setattr(
            DivergenceColumns,
            "parts",
            lambda columns, first, rows: (
                {name: part[name] for name in older.names} for part in parts(columns, first, rows)
            ),
        )
        KeptPasses().rows(lambda: ["a"], tokenized, compute, ProcessGroup())
    for _ in range(2):
        KeptPasses().rows(lambda: ["a"], tokenized, compute, ProcessGroup())
    assert begun == [0, 0]


def at_once(compute: Callable[[], object]) -> Callable[[], object]:
    """What a thread would do, done by the caller."""
    value = compute()
    return lambda: value


class Killed(BaseException):
    """Ends a pass as a kill does: nothing is kept because of it."""


@pytest.mark.parametrize("error", [RuntimeError("device"), RunError("cut short"), MemoryError()])
@pytest.mark.parametrize("stopped", [False, True])
def test_rows_that_cannot_be_kept_neither_end_a_pass_nor_hide_what_did(
    error, stopped, tmp_path, monkeypatch
):
    """In the thread that saves, and at the end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_pass, "SECONDS_WORTH_KEEPING", 0.0)
    monkeypatch.setattr(kept_pass, "SECONDS_PER_SAVE", 0.0)
    append = Mock(side_effect=error)
    monkeypatch.setattr(InterruptedFile, "append", append)
    tokenized = TokenizedText.of(
        [Document("text", TEXT[:200])], Protocol(window=32), byte_tokenizer(), 32
    )
    windows = [random_rows(int(count), 1) for count in np.diff(tokenized.starts)]

    def compute(first: int) -> Iterator[DivergenceStatistics]:
        yield windows[0]
        while not append.called:  # by the thread, which waits for the name of the file
            yield DivergenceStatistics.empty(0)
        if stopped:
            raise KeyboardInterrupt
        yield from windows[1:]

    def run() -> DivergenceStatistics:
        return KeptPasses().rows(lambda: ["a"], tokenized, compute, ProcessGroup())

    if stopped:
        with pytest.raises(KeyboardInterrupt) as interruption:
            run()
        assert not hasattr(interruption.value, "__notes__")
    else:
        assert len(run()) == len(tokenized)
    assert append.call_count == 2


@pytest.mark.parametrize("windows_at_once", [1, 3])
def test_a_killed_pass_is_resumed_wherever_its_file_was_torn(
    windows_at_once, tmp_path, monkeypatch
):
    """Rows that were saved while the pass went on come back, those of whole windows; the rest is
    computed, and all are those of a pass that was not killed.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(divergence_columns, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(divergence_columns, "PART_ROWS", 50)  # ends inside of windows
    monkeypatch.setattr(kept_pass, "SECONDS_PER_SAVE", 0.0)
    monkeypatch.setattr(kept_pass, "in_background", at_once)
    tokenized = TokenizedText.of(
        [Document("text", TEXT[:500])], Protocol(window=32), byte_tokenizer(), 32
    )
    sizes = np.diff(tokenized.starts).tolist()
    windows = [random_rows(count, seed) for seed, count in enumerate(sizes)]
    expected = concatenate_divergences(windows)
    begun: list[int] = []

    def compute(first: int, stop: int | None = None) -> Iterator[DivergenceStatistics]:
        begun.append(first)
        for i in range(first, stop or len(windows), windows_at_once):
            yield concatenate_divergences(windows[i : i + windows_at_once])
        if stop is not None:
            raise Killed

    with pytest.raises(Killed):
        KeptPasses().rows(
            lambda: ["a"], tokenized, lambda first: compute(first, 12), ProcessGroup()
        )
    (path,) = [file for file in tmp_path.rglob("*") if file.is_file()]
    content = path.read_bytes()
    with closing(InterruptedFile(path)) as file:
        ends = [mark.end for _, mark in file.read()]
    assert ends[-1] == len(content)
    resumed = set()
    for size in sorted({end + more for end in ends for more in (-1, 0, 1)} | {0, 5}):
        path.write_bytes(content[:size])
        passes = KeptPasses()
        rows = passes.rows(lambda: ["a"], tokenized, compute, ProcessGroup())
        for name in COLUMNS:
            np.testing.assert_array_equal(
                attrgetter(name)(rows), attrgetter(name)(expected), err_msg=name
            )
        resumed.add(begun[-1])
        if size in (len(content), len(content) + 1):
            assert begun[-1] == 12
        passes.forget()
        assert not [kept for kept in tmp_path.rglob("*") if kept.is_file()]
    assert resumed == {0, *range(windows_at_once, 13, windows_at_once)}


def test_where_the_file_is_still_unknown_nothing_waits(tmp_path, monkeypatch):
    """The fingerprint of the weights is not waited for while the pass goes on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_pass, "SECONDS_PER_SAVE", 0.0)
    tokenized = TokenizedText.of(
        [Document("text", TEXT[:200])], Protocol(window=32), byte_tokenizer(), 32
    )
    windows = [random_rows(int(count), 1) for count in np.diff(tokenized.starts)]
    read = Event()

    def compute(first: int) -> Iterator[DivergenceStatistics]:
        yield from windows[first:]
        assert not [*tmp_path.rglob("*")]
        read.set()

    def identities() -> list[str]:
        assert read.wait(60)
        return ["a"]

    passes = KeptPasses()
    assert len(passes.rows(identities, tokenized, compute, ProcessGroup())) == len(tokenized)
