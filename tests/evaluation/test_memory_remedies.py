"""What a user is told to do where the memory is too small, and what is measured all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kullback
from kullback.errors import InvalidValueError
from kullback.evaluation import options as module
from kullback.evaluation.memory_remedies import memory_remedies
from kullback.evaluation.options import PassOptions
from kullback.models.huggingface import HuggingFaceModel
from kullback.runtime.progress import Note
from kullback.text.documents import Document

TEXT = Document("mine", "the night river " * 5)
FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize(
    ("models", "given", "named"),
    [
        (["folder"], {}, {"--stream", "--device-map", "--dtype", "--window"}),
        (["folder"], {"dtype": "bfloat16"}, {"--stream", "--device-map", "--window"}),
        (["folder"], {"dtype": torch.float32}, {"--stream", "--device-map", "--dtype", "--window"}),
        (["folder"], {"stream": True}, {"--dtype", "--window"}),
        (["folder"], {"stream": True, "dtype": torch.bfloat16}, {"--window"}),
        (["folder"], {"device_map": "auto"}, {"--dtype", "--window"}),
        (["folder"], {"schemes": "int8"}, {"--dtype", "--window"}),
        (["folder"], {"noise_floor": True}, {"--device-map", "--dtype", "--window"}),
        (["folder", "file.gguf"], {}, {"--window"}),
        (["file.gguf@transformers"], {}, {"--dtype", "--window"}),
        (["folder@int8"], {}, {"--dtype", "--window"}),
        ([object()], {}, {"--window"}),
    ],
)
def test_only_what_can_be_given_is_named(
    models: list[object], given: dict[str, object], named: set[str]
) -> None:
    """No option that was given already, and none that the others exclude."""
    words = memory_remedies(models, given).replace(",", " ").split()
    assert {word for word in words if word.startswith("--")} == named
    assert "--stream" not in memory_remedies(models, given, streams=False)


def test_what_a_recorded_file_fixes_is_not_named(
    tiny_llama_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """Its windows; beside logits and top-k rows a model is read as a whole, too."""
    forms: dict[str, dict[str, Any]] = {
        "exact": {"distributions": "exact"},
        "records.parquet": {},
        "top": {"distributions": "top-k", "k": 4},
        "logits": {"format": "llama.cpp"},
    }
    streams = {}
    for name, how in forms.items():
        kullback.record(tiny_llama_folder, text_file, tmp_path / name, window=16, **how)
        words = memory_remedies([tmp_path / name, "folder"], {})
        assert "--window" not in words
        assert "--dtype bfloat16" in words
        streams[name] = "--stream" in words
    assert streams == {"exact": True, "records.parquet": True, "top": False, "logits": False}


@pytest.mark.parametrize("name", ["", "@int8"])
def test_a_model_that_does_not_fit_while_it_is_loaded(
    name: str, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the memory ends, in the weights, the first forward or the quantisation."""

    def fail(*arguments: object, **settings: object) -> None:
        raise FULL

    if name:
        monkeypatch.setattr("kullback.models.quantized.quantise_layers", fail)
    else:
        monkeypatch.setattr(HuggingFaceModel, "wrap", fail)
    with pytest.raises(InvalidValueError, match=r"does not fit into memory.*--dtype") as error:
        PassOptions(device="cpu", dtype="float64").load(f"{tiny_llama_folder}{name}")
    assert ("--stream" in str(error.value)) == (not name)
    assert "leave out" not in str(error.value)


def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second model be too large by what is free."""
    monkeypatch.setattr(module, "free_on", lambda device: 1000)


def without_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memory end while a second model is loaded."""
    load = module.load_sized
    calls: list[object] = []

    def second_fails(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            raise FULL
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load_sized", second_fails)


@pytest.mark.parametrize("prevent", [without_memory, without_second])
def test_noise_that_cannot_be_measured_is_a_note(
    prevent: Callable[[pytest.MonkeyPatch], None],
    tiny_llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result of the pass is given where no float32 copy fits beside the model."""
    prevent(monkeypatch)
    result = kullback.evaluate(tiny_llama_folder, TEXT, dtype="bfloat16", passages=False)
    assert isinstance(result, kullback.Evaluation)
    (note,) = [note for note in result.notes if "against float32 was not measured" in note]
    assert "bfloat16" in note
    assert "float32 copy beside the model" in note


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_noise_of_a_large_model_is_measured_layer_by_layer(
    dtype: str,
    tiny_llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """No second copy as a whole is loaded, the figure is that of one, and nothing else is said."""
    notes, loads = [], []
    load = module.load_sized
    monkeypatch.setattr(module, "load_sized", lambda *given: loads.append(given) or load(*given))
    for least in (1 << 40, 0):
        monkeypatch.setattr(module, "LARGE_COPY", least)
        result = kullback.evaluate(tiny_llama_folder, TEXT, dtype=dtype, passages=False)
        assert isinstance(result, kullback.Evaluation)
        notes.append(result.notes)
    assert notes[0] == notes[1]
    assert any(f"{dtype} instead of float32 changes" in note for note in notes[0])
    assert len(loads) == 3
    assert not recwarn.list


def test_what_is_not_read_layer_by_layer_is_copied_for_its_noise(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is quantised as it is loaded, for example; a note says what the copy takes."""
    monkeypatch.setattr(module, "LARGE_COPY", 0)
    with pytest.warns(Note, match=r"whole copy in float32 beside it \(\d+ kB\): .*int8"):
        result = kullback.evaluate(
            f"{tiny_llama_folder}@int8", TEXT, dtype="bfloat16", passages=False
        )
    assert isinstance(result, kullback.Evaluation)
    assert any("bfloat16 instead of float32 changes" in note for note in result.notes)


def test_a_temperature_that_cannot_be_searched_is_a_note(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of the pass is given, without what the temperature saves: where the memory is too
    small, and where a target has probability 0.
    """

    def fail(*arguments: object) -> None:
        raise FULL

    def excluded(_, targets_M: torch.Tensor, temperature_T: np.ndarray) -> np.ndarray:
        return np.full((len(temperature_T), len(targets_M)), np.inf)

    for function, reason in ((fail, "memory"), (excluded, "probability 0")):
        monkeypatch.setattr("kullback.evaluation.on_text.tempered_nll", function)
        result = kullback.evaluate(tiny_llama_folder, TEXT, temperature=True, passages=False)
        assert isinstance(result, kullback.Evaluation)
        assert "temperature_saves" not in result.measures
        assert any("temperature" in note and reason in note for note in result.notes)
