"""The benchmark of models larger than memory, in its small form."""

from __future__ import annotations

from pathlib import Path

import pytest

import larger_than_memory as benchmark
from kullback.models.load import load_text_model
from kullback.models.load_streamed import load_streamed


def test_the_generated_folder_is_a_model(tmp_path: Path) -> None:
    """A shard for each layer, which both ways of loading read."""
    size = benchmark.generate(tmp_path / "model", benchmark.SMALL)
    assert size == load_streamed(tmp_path / "model", device="cpu").size_bytes
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == benchmark.SMALL.layers + 2
    assert load_text_model(str(tmp_path / "model")).vocabulary_size == benchmark.SMALL.vocabulary


@pytest.mark.slow
def test_both_ways_give_the_same_measures(tmp_path: Path) -> None:
    """In processes of their own, the streamed one under a limit of its memory."""
    _, streamed, whole = benchmark.measure(tmp_path, benchmark.SMALL, benchmark.LIMIT)
    assert not benchmark.differences(streamed, whole)
