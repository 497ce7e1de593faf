"""The writer of recordings: what it stores, what it refuses, and what a failure leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kullback.errors import InvalidValueError, RunError
from kullback.predictions.base import (
    DensePredictions,
    FactoredPredictions,
    Head,
    Predictions,
)
from kullback.predictions.recording import Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.predictions.truncated import TruncatedPredictions
from tiny_recordings import METADATA, V, dense, gpt, targets, write


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_damaged_numbers_are_not_recorded(kind, tmp_path):
    """Predictions with NaN are refused when they are recorded, not when the recording is read."""
    hidden = torch.randn(4, 8)
    hidden[2, 3] = torch.nan
    head = Head(torch.randn(V, 8))
    damaged: Predictions = FactoredPredictions(hidden, head)
    if kind == "dense":
        damaged = DensePredictions(hidden @ head.weight_VD.T)
    with (
        pytest.raises(InvalidValueError, match=r"row 2 .* NaN"),
        RecordingWriter(tmp_path / "x.rec", "exact", {}, V, 8) as writer,
    ):
        writer.append(damaged, np.zeros(4, np.int64), np.zeros(4, np.int64), np.arange(4))
    assert not (tmp_path / "x.rec").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_hidden_states_are_kept_in_the_narrowest_type_without_loss(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """16-bit models take two bytes a number on disk, others what they have."""
    generator = torch.Generator().manual_seed(0)
    live = torch.float64 if dtype == torch.float64 else torch.float32
    hidden = torch.randn(30, 7, generator=generator).to(dtype)
    weight = torch.randn(V, 7, generator=generator).to(dtype)
    recording = write(tmp_path / "x", FactoredPredictions(hidden.to(live), Head(weight)))
    assert load_file(tmp_path / "x")["hidden"].dtype == dtype
    read = recording.predictions(slice(4, 30))
    assert isinstance(read, FactoredPredictions)
    assert read.hidden_MD.dtype == live
    torch.testing.assert_close(read.hidden_MD, hidden[4:].to(live), rtol=0, atol=0)
    assert all(c.data_ptr() % c.itemsize == 0 for c in recording.columns.values())


def test_the_file_does_not_depend_on_how_rows_are_appended(tmp_path: Path) -> None:
    """One append or many make the same bytes."""
    factored = gpt(1)
    # Computed once: a matmul of fewer rows may round differently.
    dense = DensePredictions(factored.logits(slice(None)))
    for kind, live in (("exact", factored), ("top-k", dense)):
        write(tmp_path / "once", live, kind, pieces=1, k=5)
        write(tmp_path / "many", live, kind, pieces=7, k=5)
        assert (tmp_path / "once").read_bytes() == (tmp_path / "many").read_bytes()


def test_tokens_beyond_the_vocabulary_are_left_out_of_a_top_k_recording(tmp_path: Path) -> None:
    """Where the model has padding tokens, the distribution is that over the others."""
    padded = DensePredictions(torch.cat([dense().logits_MV, torch.full((30, 3), 9.0)], dim=1))
    first = write(tmp_path / "padded", padded, "top-k", k=4).predictions(slice(0, 30))
    second = write(tmp_path / "unpadded", dense(), "top-k", k=4).predictions(slice(0, 30))
    assert isinstance(first, TruncatedPredictions)
    assert isinstance(second, TruncatedPredictions)
    assert torch.equal(first.top_log_probabilities_MK, second.top_log_probabilities_MK)
    with pytest.raises(InvalidValueError, match=r"vocabulary_size is 61.*64 tokens"):
        write(tmp_path / "x", padded)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """After an error the old file is unchanged and the folder contains nothing else but rows."""
    (tmp_path / "x").write_text("before")

    def attempt(error: BaseException) -> None:
        with RecordingWriter(tmp_path / "x", "top-k", METADATA, V, k=3) as writer:
            writer.append(dense(), targets(30), targets(30), targets(30))
            raise error

    for error, left in ((KeyboardInterrupt(), [".x.rows", "x"]), (InvalidValueError(), ["x"])):
        with pytest.raises(type(error)):
            attempt(error)
        assert sorted(path.name for path in tmp_path.iterdir()) == left
        assert (tmp_path / "x").read_text() == "before"


def test_a_killed_write_leaves_no_recording(tmp_path: Path) -> None:
    """A process that is killed while writing leaves nothing under the name."""
    code = (
        "import os, sys, numpy as np, torch; from pathlib import Path\n"
        "from kullback.predictions.base import DensePredictions\n"
        "from kullback.predictions.recording_writer import RecordingWriter\n"
        "n = np.arange(5)\n"
        "with RecordingWriter(Path(sys.argv[1]), 'exact', {}, 9) as writer:\n"
        "    writer.append(DensePredictions(torch.zeros(5, 9)), n, n, n)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert answer.returncode == -9
    assert not (tmp_path / "x").exists()


def test_bad_rows_are_refused_where_they_are_appended(tmp_path: Path) -> None:
    """Lengths, token ids, kinds, NaN, another model's head and lost digits are named."""
    n = np.arange(30)

    def attempt(*several: Predictions, places: np.ndarray = n, **options: Any) -> None:
        with RecordingWriter(
            tmp_path / "x", metadata=METADATA, vocabulary_size=V,
            **{"kind": "exact", **options},
        ) as writer:  # fmt: skip
            for predictions in several:
                writer.append(predictions, places, places, places)

    nan = dense()
    nan.logits_MV[17, 3] = torch.nan
    cases: list[tuple[str, Any]] = [
        (r"targets\[0\] is 61", lambda: attempt(dense(), places=n + V)),
        ("targets has shape", lambda: attempt(dense(), places=n[:4])),
        ("kind is 'all'", lambda: attempt(dense(), kind="all")),
        ("k is 0", lambda: attempt(dense(), kind="top-k", k=0)),
        ("row 47 .*NaN", lambda: attempt(dense(), nan, kind="top-k", k=3)),
        ("nothing was recorded", attempt),
        ("metadata", lambda: RecordingWriter(tmp_path / "x", "exact", {"a": n}, V)),
    ]
    rows = slice(0, 30)
    first, second = gpt(1).select(torch.arange(30)), gpt(2).select(torch.arange(30))
    cases.append(("head of these rows", lambda: attempt(first, second)))
    cases.append(("same number of rows", lambda: attempt(dense(), first)))
    assert isinstance(first, FactoredPredictions)
    head = Head(first.head.weight_VD.to(torch.bfloat16))
    rounded = FactoredPredictions(first.hidden_MD.bfloat16().float(), head)
    sharper = FactoredPredictions(first.hidden_MD, head)
    cases.append(("row 30 .*bfloat16.*hidden_dtype", lambda: attempt(rounded, sharper)))
    for message, case in cases:
        with pytest.raises(InvalidValueError, match=message):
            case()
    attempt(rounded, sharper, hidden_dtype=torch.float32)
    assert torch.equal(
        Recording.open(tmp_path / "x").predictions(slice(30, 60)).logits(rows), sharper.logits(rows)
    )


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A path below a file is a `RunError` that names the recording."""
    with pytest.raises(InvalidValueError, match="is a folder"):
        RecordingWriter(tmp_path, "exact", METADATA, V)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file/x"):
        write(tmp_path / "file" / "x", dense())
