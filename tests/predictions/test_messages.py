"""Golden messages: the exact wording of one error of each family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.recording import Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.predictions.truncated import TruncatedPredictions
from tiny_recordings import METADATA, V, dense, targets


def message(error: pytest.ExceptionInfo[InvalidValueError]) -> str:
    """Return the text of an error."""
    return str(error.value)


def test_a_file_that_is_not_a_recording(tmp_path: Path) -> None:
    """Reading: the file, what it is, the fix."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(InvalidValueError) as error:
        Recording.open(path)
    assert message(error) == (
        f"{path} is a safetensors file, but not a recording: write one with `kullback record`"
    )


def test_a_file_that_is_not_base_logits(tmp_path: Path) -> None:
    """llama.cpp's files: the file, how it begins, the fix."""
    path = tmp_path / "base"
    path.write_bytes(b"GGUF0000")
    with pytest.raises(InvalidValueError) as error:
        LlamaCppLogits.open(path)
    assert message(error) == (
        f"{path} is not a base-logits file of llama.cpp: it begins with b'GGUF0000', not "
        "b'_logits_'; write one with llama-perplexity --kl-divergence-base FILE"
    )


def test_rows_that_cannot_be_recorded(tmp_path: Path) -> None:
    """Writing: the argument, the value and its position, the limits."""
    tokens = targets(30)
    tokens[4] = V
    with (
        pytest.raises(InvalidValueError) as error,
        RecordingWriter(tmp_path / "x", "exact", METADATA, V) as writer,
    ):
        writer.append(dense(), tokens, tokens, tokens)
    assert message(error) == "targets[4] is 61: it must be in [0, 61)"


def test_a_measure_of_the_whole_distribution() -> None:
    """Truncated predictions: what there is, what is needed, both fixes."""
    top = TruncatedPredictions.of(dense(), torch.from_numpy(targets(30)), k=4)
    with pytest.raises(InvalidValueError) as error:
        top.logits(slice(0, 1))
    assert message(error) == (
        "these predictions hold the 4 most probable of 61 tokens, and the measure needs the whole "
        "distribution: record with --distributions exact, or ask for the bounds of "
        "kullback.scoring.kl_bounds"
    )
