"""The number does not depend on the packages that a configuration would like to use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from kullback.errors import InvalidValueError
from kullback.models._implementations import pin_implementations
from kullback.models.load import load_text_model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "flash_attention_2"),
        ("attn_implementation", "kernels-community/flash-attn3"),
        ("experts_implementation", "sonicmoe"),
    ],
)
def test_a_choice_that_needs_another_package_is_not_followed(
    key: str, value: str, tiny_llama_folder: Path
) -> None:
    """The model runs with torch's own, and a note names what the configuration asks for."""
    path = tiny_llama_folder / "config.json"
    stored = path.read_text()
    path.write_text(json.dumps(json.loads(stored) | {key: value}))
    try:
        model = load_text_model(str(tiny_llama_folder))
    finally:
        path.write_text(stored)
    assert any(value in note for note in model.notes)
    assert getattr(model.model.config, f"_{key[:-15]}_implementation") in (
        "sdpa",
        "eager",
        "grouped_mm",
    )


def test_choices_inside_are_kept_where_they_need_nothing() -> None:
    """Of a model with parts only the part that asks for another package is changed."""
    config = AutoConfig.for_model("llava")
    config._attn_implementation = {"text_config": "flash_attention_2", "vision_config": "eager"}
    (note,) = pin_implementations("m", config)
    assert "flash_attention_2" in note
    assert config.text_config._attn_implementation is None
    assert config.vision_config._attn_implementation == "eager"


def test_a_scan_of_another_package_is_not_followed() -> None:
    """Mamba's choice of mambapy is set back, and named."""
    config = AutoConfig.for_model("mamba", use_mambapy=True)
    (note,) = pin_implementations("m", config)
    assert "mambapy" in note
    assert config.use_mambapy is False


def test_a_package_that_cannot_be_kept_out_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An xLSTM runs through the package xlstm wherever that is installed."""
    config = AutoConfig.for_model("xlstm")
    assert pin_implementations("m", config) == []
    (tmp_path / "xlstm.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidValueError, match="pip uninstall xlstm"):
        pin_implementations("m", config)
