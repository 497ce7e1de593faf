"""Passes of candidates that are resumed."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from divergence_samples import random_rows
from kullback.comparison import divergence_columns, kept_pass
from kullback.comparison.divergence_columns import COLUMNS, DivergenceColumns
from kullback.comparison.kept_pass import KeptPasses
from kullback.evaluation.passes import TokenizedText
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.divergence import DivergenceStatistics, concatenate_divergences
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT, byte_tokenizer


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_an_interrupted_pass_is_resumed_bit_for_bit(limit, tmp_path, monkeypatch):
    """Rows of the first windows come from the disk; a finished pass is not computed again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(divergence_columns, "IN_MEMORY", limit)
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
    pieces = kept_pass._pieces

    def older_pieces(columns: DivergenceColumns) -> Iterator[bytes | memoryview]:
        yield memoryview(older.serialize())
        for part in columns.parts():
            arrays = {name: kept_pass._arrow(part[name]) for name in older.names}
            yield memoryview(pa.record_batch(list(arrays.values()), schema=older).serialize())

    monkeypatch.setattr(kept_pass, "_pieces", older_pieces)
    KeptPasses().rows(lambda: ["a"], tokenized, compute, ProcessGroup())
    monkeypatch.setattr(kept_pass, "_pieces", pieces)
    for _ in range(2):
        KeptPasses().rows(lambda: ["a"], tokenized, compute, ProcessGroup())
    assert begun == [0, 0]
