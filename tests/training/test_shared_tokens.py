"""Tokens that a second run on the same text takes from the first one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.models.train import train_model
from kullback.training.prepare_text import TextOptions, prepare_text
from kullback.training.progress import TrainingProgress
from kullback.training.shared_tokens import share_tokens
from kullback.training.text_batches import TextBatches
from kullback.training.text_shards import NAMES
from tiny_runs import contents, text

TINY: dict[str, Any] = {
    "width": 8, "layers": 1, "heads": 1, "mlp_width": 16, "context": 8, "batch": 4, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a step on ``weather.txt``, which is beside it."""
    folder = tmp_path_factory.mktemp("shared")
    text(folder)
    train_model(folder / "run", text=folder / "weather.txt", steps=1, vocabulary_size=270, **TINY)
    return folder / "run"


def shared(run: Path, other: Path, **changes: Any) -> TextBatches:
    """Return the batches of the tokens of `other`."""
    options = {"sources": (other.parent / "weather.txt",), "context": 8, "windows": 4} | changes
    return share_tokens(run, other, TextOptions(**options), TrainingProgress())


def test_the_files_are_linked_and_the_batches_are_the_same(trained: Path, tmp_path: Path) -> None:
    """Windows, seed and tokens are those of a run that had read the text by itself."""
    ours = shared(tmp_path / "run", trained, seed=5)
    options = TextOptions(
        (trained.parent / "weather.txt",), vocabulary_size=270, context=8, windows=4, seed=5
    )
    theirs = prepare_text(tmp_path / "other", options, TrainingProgress())
    assert ours.spec["fingerprint"] == theirs.spec["fingerprint"]
    for a, b in zip(ours.shards(3, 2), theirs.shards(3, 2), strict=True):
        assert np.array_equal(a.targets_M, b.targets_M)
    for name in NAMES:
        assert os.path.samefile(tmp_path / "run/tokens" / name, trained / "tokens" / name)


def test_tokens_that_were_left_by_a_killed_run_are_replaced(trained: Path, tmp_path: Path) -> None:
    """And where there are no links, the files are copied."""
    shared(tmp_path / "run", trained)
    (tmp_path / "run/tokens/train.bin").unlink()
    (tmp_path / "run/tokens/train.bin").write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", no_links)
        shared(tmp_path / "run", trained)
    for name in NAMES:
        file, original = tmp_path / "run/tokens" / name, trained / "tokens" / name
        assert file.read_bytes() == original.read_bytes()
        assert not os.path.samefile(file, original)


def no_links(*arguments: object) -> None:
    """What a file system without links says."""
    raise OSError(1, "Operation not permitted")


def test_a_run_trains_on_shared_tokens_and_is_resumed(trained: Path, tmp_path: Path) -> None:
    """Its model is that of the same run without them."""
    runs = tmp_path / "shared", tmp_path / "own"
    file = trained.parent / "weather.txt"
    train_model(runs[0], text=file, tokens_of=trained, steps=2, **TINY)
    train_model(runs[1], text=file, vocabulary_size=270, steps=2, **TINY)
    models = [(run / "model.safetensors").read_bytes() for run in runs]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "characters"}, ["tokenizer is characters", "tokens_of"]),
        ({"vocabulary_size": 300}, ["vocabulary_size is 300", "tokens_of"]),
        ({"text": "other.txt"}, ["tokens_of is", "weather.txt", "other.txt"]),
    ],
)
def test_what_does_not_fit_is_refused(
    trained: Path, tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    """Another text, and options of a tokenizer; nothing is written."""
    before = contents(tmp_path)
    given: dict[str, Any] = {"text": trained.parent / "weather.txt"} | options
    if given["text"] == "other.txt":
        given["text"] = trained.parent / "other.txt"
        given["text"].write_text("another text")
    with pytest.raises(InvalidValueError) as refused:
        train_model(tmp_path / "run", tokens_of=trained, steps=1, **TINY, **given)
    assert all(word in str(refused.value) for word in words)
    assert contents(tmp_path) == before


def test_runs_without_tokens_are_refused(trained: Path, weather_run: Path, tmp_path: Path) -> None:
    """A run on a source, no run at all, and tokens that have changed."""
    with pytest.raises(InvalidValueError, match="not trained on a text"):
        shared(tmp_path / "run", weather_run)
    with pytest.raises(InvalidValueError, match=r"field is body.*tokens_of"):
        shared(tmp_path / "run", trained, field="body")
    with pytest.raises(RunError, match="not a run folder"):
        shared(tmp_path / "run", tmp_path / "none")
    with pytest.raises(InvalidValueError, match=r"tokens_of.*source"):
        train_model(tmp_path / "run", source="conjugation", tokens_of=trained)
