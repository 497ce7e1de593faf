"""`compare` with models that are read layer by layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kullback.comparison import compare as comparing
from kullback.comparison.compare import compare
from kullback.errors import InvalidValueError


def test_the_same_numbers_as_without_it(
    tiny_llama_folder: Path,
    other_tiny_llama_folder: Path,
    text_file: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Sizes and notes are those of the whole models, too."""
    names = str(tiny_llama_folder), str(other_tiny_llama_folder)
    options: dict[str, Any] = {"window": 64, "stride": 64, "device": "cpu"}
    whole = compare(*names, text_file, **options)
    parts = compare(*names, text_file, stream=True, **options)
    measures = whole.candidates[0].measures
    for name, measure in parts.candidates[0].measures.items():
        assert measure.value == pytest.approx(measures[name].value, rel=1e-4, abs=1e-5)
    assert parts.reference.size_bytes == whole.reference.size_bytes
    assert parts.notes == whole.notes


@pytest.mark.slow
def test_a_model_against_itself_is_exactly_0(
    tiny_llama_folder: Path, text_file: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Both pass through the same arithmetic."""
    name = str(tiny_llama_folder)
    result = compare(name, name, text_file, stream=True)
    assert result.candidates[0].measures["kl"].value == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"noise_floor": True}, "noise-floor"),
        ({"schemes": "int8"}, "int8"),
        ({"schemes": "int8", "sensitivity": True}, "sensitivity"),
    ],
)
def test_what_needs_whole_models_is_refused(
    options: dict[str, Any], word: str, tiny_llama_folder: Path, text_file: Path
) -> None:
    """By name, before anything is loaded."""
    name = str(tiny_llama_folder)
    with pytest.raises(InvalidValueError, match=word):
        compare(name, name, text_file, stream=True, **options)


def test_a_scheme_in_a_name_is_refused(tiny_llama_folder: Path, text_file: Path) -> None:
    """It quantises a whole model."""
    name = str(tiny_llama_folder)
    with pytest.raises(InvalidValueError, match=r"int8.*leave out --stream"):
        compare(name, f"{name}@int8", text_file, stream=True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_shorter_context_is_refused_before_the_candidate_is_read(
    stream: bool,
    tiny_llama_folder: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference may take hours; the candidate's configuration says it at once."""
    short = tmp_path / "short"
    shutil.copytree(tiny_llama_folder, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16}))
    loaded: list[str] = []
    load = comparing._load

    def counted(name: Any, request: Any) -> Any:
        loaded.append(Path(name).name)
        return load(name, request)

    monkeypatch.setattr(comparing, "_load", counted)
    with pytest.raises(InvalidValueError, match=r"window is 32: .*short reads at most 16 tokens"):
        compare(str(tiny_llama_folder), str(short), text_file, window=32, stream=stream)
    assert loaded == [tiny_llama_folder.name]
