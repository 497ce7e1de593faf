"""`kullback.quantise` takes names and strings, and returns a result."""

from __future__ import annotations

from pathlib import Path

import pytest

import kullback
from kullback.errors import InvalidValueError
from kullback.results.quantised import QuantisedFolder


def test_strings_and_paths_are_taken(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """The scheme is a name, model and folder are strings or paths."""
    result = kullback.quantise(tiny_llama_folder, "int4", str(tmp_path / "int4"))
    assert result.folder == str(tmp_path / "int4")
    assert 0 < result.bytes_packed < result.bytes_saved
    assert QuantisedFolder.from_json(result.to_json()) == result


def test_an_unknown_scheme_is_named_before_the_model_is_looked_for(tmp_path: Path) -> None:
    """The error has the most similar scheme."""
    with pytest.raises(InvalidValueError, match=r"'int9' is unknown: did you mean int8\?"):
        kullback.quantise("./nowhere", "int9", tmp_path / "out")
