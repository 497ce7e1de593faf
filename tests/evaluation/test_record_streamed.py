"""`record` with a model that is read layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kullback.comparison.compare import compare
from kullback.errors import InvalidValueError
from kullback.evaluation.record import record
from kullback.predictions.recording import read_header

OPTIONS: dict[str, Any] = {"window": 64, "stride": 64, "device": "cpu"}


@pytest.mark.parametrize("kind", ["exact", "top-k"])
def test_a_recording_is_that_of_the_whole_model(
    kind: Any, tiny_llama_folder: Path, text_file: Path, tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    """But for the fingerprint of the weights: compared, all numbers are the same bits."""
    name = str(tiny_llama_folder)
    paths = [tmp_path / "whole.rec", tmp_path / "streamed.rec"]
    for path, stream in zip(paths, (False, True), strict=True):
        record(name, text_file, path, distributions=kind, stream=stream, **OPTIONS)
    assert paths[0].stat().st_size == pytest.approx(paths[1].stat().st_size, abs=200)
    assert read_header(paths[1]).kind == kind
    if kind == "exact":
        result = compare(*paths)
        measures = result.candidates[0].measures
        assert measures["kl"].value == measures["delta_cross_entropy"].value == 0


def test_a_model_without_a_head_is_recorded(
    tiny_llama_folder: Path, text_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    """Its logits are known for a batch of windows, and are taken apart."""
    from kullback.models import huggingface

    record(tiny_llama_folder, text_file, tmp_path / "a.rec", distributions="top-k", **OPTIONS)
    monkeypatch.setattr(huggingface, "find_head", lambda *_: (None, "for a test"))
    path = tmp_path / "b.rec"
    record(tiny_llama_folder, text_file, path, distributions="top-k", stream=True, **OPTIONS)
    result = compare(tmp_path / "a.rec", path)
    assert result.candidates[0].measures["delta_cross_entropy"].value == pytest.approx(0, abs=1e-6)


def test_a_logits_file_is_refused(tiny_llama_folder: Path, text_file: Path, tmp_path: Path) -> None:
    """llama.cpp's protocol reads its windows one by one."""
    with pytest.raises(InvalidValueError, match=r"--stream.*--format.*leave out --stream"):
        record(tiny_llama_folder, text_file, tmp_path / "a.kld", format="llama.cpp", stream=True)
