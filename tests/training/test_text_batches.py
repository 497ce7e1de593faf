"""Batches of windows of a text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.training.text_batches import TextBatches
from tiny_runs import text


def test_the_last_tenth_of_a_text_never_trains(tmp_path: Path):
    """Training windows lie in the first nine tenths, validation windows tile the last one."""
    batches = text(tmp_path)
    total = len(batches.training) + len(batches.held_out)
    place = TextBatches.of_tokens(np.arange(total), batches.tokenizer, (), batches.context, 400, 0)
    place = replace(place, held_out_bytes=np.zeros(total, int))
    split = total * 9 // 10
    drawn = [shard for step in range(40) for shard in place.shards(step, 1)]
    seen = {i for s in drawn for i in (*s.inputs_M.tolist(), *s.targets_M.tolist())}
    assert max(seen) == split - 1
    assert len(seen) > 0.99 * split
    held = [i for shard in place.validation() for i in shard.targets_M.tolist()]
    assert held == list(range(split + 1, total))


def test_the_bytes_of_tokens_are_those_of_the_text(tmp_path: Path):
    """The tokens of a text have as many bytes as its file; the special tokens have none."""
    batches = text(tmp_path)
    sizes = batches.token_bytes
    tokens = np.concatenate([batches.training[:], batches.held_out[:]])
    assert sizes[tokens].sum() == (tmp_path / "weather.txt").stat().st_size
    assert sizes[:2].tolist() == [0, 0]


def test_text_shards_know_no_surprisal(tmp_path: Path):
    """A text's tokens carry no true surprisal and its floor is unknown."""
    batches = text(tmp_path)
    assert batches.floor is None
    assert all(shard.surprisals_M is None for shard in batches.shards(0, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context is 0: it must be a whole number of at least 1"),
        ({"windows": -2}, "windows is -2: it must be a whole number of at least 1"),
        ({"seed": -1}, "seed is -1: it must be a whole number of at least 0"),
        ({"context": 5000}, "with a context of 5000 each needs at least 5001; give more text"),
        (
            {"vocabulary_size": 20},
            "vocabulary_size is 20: it must be a whole number of at least 258",
        ),
        ({"vocabulary_size": 10**11}, "vocabulary_size is 100000000000: it must be"),
    ],
)
def test_impossible_text_batches(changes: dict[str, int], message: str, tmp_path: Path):
    """Impossible windows of a text are an error that names the value and the remedy."""
    text(tmp_path)
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        TextBatches.read([tmp_path / "weather.txt"], **({"vocabulary_size": 270} | changes))


def test_validation_shards_are_made_when_they_are_read(tmp_path: Path):
    """Nothing of the validation split is read before, and a part of it reads that part."""
    batches = text(tmp_path)
    read: list[int] = []

    class Counted:
        def __len__(self) -> int:
            return len(batches.held_out)

        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            read.append(places.size)
            return batches.held_out[places]

    counted = replace(batches, held_out=Counted())
    shards, before = counted.validation(), counted.preceding(10**9, 3)
    assert len(shards) == len(before) > 2
    assert not read
    last = [shard.targets_M.tolist() for shard in shards[-2:]]
    assert len(read) == 2
    assert last == [shard.targets_M.tolist() for shard in list(batches.validation())[-2:]]
    assert [len(rows) for rows in before] == [len(shard.lengths_N) for shard in shards]
