"""KL of a model from itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kullback.comparison.compare import compare
from kullback.comparison.noise_floor import above_noise, noise_ratio
from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import options
from kullback.models.streamed import StreamedModel
from kullback.results.measurement import Measurement


def kl(value: float, half: float | None) -> Measurement:
    """A KL with half of its interval; None where there is none."""
    bounds = None if half is None else (value - half, value + half)
    error = math.inf if half is None else half / 2
    return Measurement(value, "nats/token", error, 100, 10, "", bounds=bounds)


@pytest.mark.parametrize(
    ("candidate", "shape", "above"),
    [
        (kl(3e-3, 1e-3), kl(1e-3, 0.5e-3), True),
        (kl(3e-3, 1e-3), kl(1e-3, 1.5e-3), False),
        (kl(3e-3, None), kl(1e-3, None), True),
        (kl(0.0, 0.0), kl(0.0, 0.0), False),
        (kl(math.inf, None), kl(1e-3, None), True),
    ],
)
def test_a_kl_is_above_the_noise_with_its_whole_interval(candidate, shape, above):
    """The low end of the KL must be above the high end of the floor; without one, the values."""
    assert above_noise(candidate, {"batch shape": shape}) is above


def test_without_a_batch_shape_it_is_unknown():
    """Another type alone is no floor: it may be noisier than the candidate."""
    assert above_noise(kl(1e-3, 1e-4), {"bfloat16": kl(1e-3, 1e-4)}) is None


def test_the_ratio_is_to_the_type_and_not_to_the_shape():
    """4.8 times the bfloat16 noise; without another type there is no ratio."""
    floor = {"batch shape": kl(1e-15, 0.0), "bfloat16": kl(1e-3, 1e-4)}
    assert noise_ratio(kl(4.8e-3, 1e-4), floor) == pytest.approx(4.8)
    assert noise_ratio(kl(4.8e-3, 1e-4), {"batch shape": kl(1e-15, 0.0)}) is None


@pytest.mark.parametrize("fails", [None, InvalidValueError("NaN"), RunError("memory")])
def test_a_large_copy_in_another_type_is_read_layer_by_layer(
    fails: Exception | None,
    tiny_llama_folder: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """With the numbers of the whole copy, which is loaded where that fails in the middle."""
    name = str(tiny_llama_folder)
    arguments: dict[str, Any] = {"text": text_file, "noise_floor": True, "window": 64}
    whole = compare(name, name, **arguments, device="cpu")
    read = Mock(side_effect=fails, wraps=StreamedModel.predict if fails is None else None)
    monkeypatch.setattr(StreamedModel, "predict", lambda model, inputs_NT: read(model, inputs_NT))
    monkeypatch.setattr(options, "LARGE_COPY", 0)
    parts = compare(name, name, **arguments, device="cpu")
    assert read.called
    assert parts.noise_floor == whole.noise_floor
    assert [*parts.noise_floor] == ["batch shape", "bfloat16"]
    more = [note for note in parts.notes if note not in whole.notes]
    assert len(more) == len(parts.notes) - len(whole.notes) == (fails is not None)
    for note in more:
        assert "whole copy of the reference beside it" in note
        assert str(fails) in note
