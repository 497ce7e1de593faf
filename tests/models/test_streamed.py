"""Models that are read layer by layer, against the same models as a whole."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.models import stream_plan
from kullback.models.interface import TextModel
from kullback.models.layer_stream import LayerStream
from kullback.models.load import load_text_model
from kullback.models.load_streamed import load_streamed
from kullback.models.streamed import StreamedModel
from kullback.models.streamed_weights import Part, StreamedWeights
from kullback.runtime.progress import Progress
from tiny_architectures import saved_model

LENGTHS = (20, 33, 12)
ALL = slice(None)


def ids() -> list[np.ndarray]:
    """Random tokens."""
    draw = np.random.default_rng(1)
    return [draw.integers(0, 256, (1, length)) for length in LENGTHS]


class Notes(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def streamed(folder: Path, dtype: torch.dtype = torch.float32) -> StreamedModel:
    """A model that has read the random tokens."""
    model = load_streamed(str(folder), dtype)
    model.progress = Notes()
    model.prepare(ids(), 2)
    return model


def logits(model: StreamedModel | TextModel, i: int) -> Tensor:
    """All logits of an input."""
    return model.predict(torch.from_numpy(ids()[i])).logits(ALL)


FAST = {("llama", torch.float32), ("gpt2", torch.bfloat16), ("mixtral", torch.float32)}
CASES = [
    pytest.param(kind, dtype, marks=() if (kind, dtype) in FAST else pytest.mark.slow)
    for kind in ("llama", "gpt2", "gemma2", "mixtral", "bloom", "opt", "phi")
    for dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_the_same_bits_as_the_whole_model(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Logits, notes, context and size are those of the model loaded as a whole."""
    folder = saved_model(kind, tmp_path)
    whole, parts = load_text_model(str(folder), dtype), streamed(folder, dtype)
    torch.set_num_threads(1)
    for i in range(len(LENGTHS)):
        assert torch.equal(logits(parts, i), logits(whole, i))
    assert (parts.notes, parts.context) == (whole.notes, whole.context)
    assert parts.vocabulary_size == whole.vocabulary_size
    assert parts.dtype == whole.dtype


def sharded(folder: Path) -> Path:
    """The model with a file for each tensor of its layers, and one for the rest."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {key: f"{i}.safetensors" for i, key in enumerate(weights) if ".layers." in key}
    index = {key: files.get(key, "rest.safetensors") for key in weights}
    for name in sorted(set(index.values())):
        part = {key: value for key, value in weights.items() if index[key] == name}
        save_file(part, folder / name, {"format": "pt"})
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def test_every_tensor_is_read_once(tmp_path: Path) -> None:
    """Also where the model is in many files, and layers are read ahead."""
    parts = streamed(sharded(saved_model("llama", tmp_path)))
    logits(parts, 0)
    counts = Counter(parts.read)
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * 9 + 3


def test_only_a_tied_embedding_is_read_twice(tmp_path: Path) -> None:
    """Before the layers, and after them as the head."""
    parts = streamed(saved_model("gpt2", tmp_path))
    logits(parts, 0)
    twice = [key for key, count in Counter(parts.read).items() if count > 1]
    assert twice == ["transformer.wte.weight"]


def test_layers_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    """While a layer runs no other one has numbers, and in the end none has."""
    folder = saved_model("llama", tmp_path)
    model = load_streamed(str(folder))
    layers = model._model.base_model.layers
    loaded: list[list[bool]] = []
    for layer in layers:
        own = layer.mlp.forward

        def noted(x: Tensor, own=own) -> Tensor:  # type: ignore[no-untyped-def]
            loaded.append([not any(w.is_meta for w in one.parameters()) for one in layers])
            return own(x)

        layer.mlp.forward = noted
    model.progress = Notes()
    model.prepare(ids(), 2)
    assert {tuple(row) for row in loaded} == {(True, False), (False, True)}
    assert all(weight.is_meta for weight in layers.parameters())


def test_hidden_states_on_disk_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short they are in a file, which is announced; nothing is read ahead."""
    folder = saved_model("llama", tmp_path)
    in_memory = logits(streamed(folder), 1)
    monkeypatch.setattr(stream_plan, "available_memory", lambda: 1000)
    model = streamed(folder)
    assert torch.equal(logits(model, 1), in_memory)
    assert isinstance(model.progress, Notes)
    assert "temporary file" in model.progress.notes[0]


def test_the_next_part_is_read_beside_a_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer beside the embedding, and the head beside the last layer."""
    begun: list[str] = []
    own = StreamedWeights.read_ahead

    def noted(self: StreamedWeights, part: Part) -> None:
        begun.append(part.name)
        own(self, part)

    monkeypatch.setattr(StreamedWeights, "read_ahead", noted)
    streamed(saved_model("llama", tmp_path))
    assert begun == ["layer 0", "layer 1", "head"]


def test_a_large_input_is_begun_before_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one core would compute the last one while the others wait."""
    sizes: list[int] = []
    own = LayerStream.layer

    def noted(self: LayerStream, i: int, ids_NT: Tensor, hidden_NTD: Tensor) -> Tensor:
        sizes.append(ids_NT.numel())
        return own(self, i, ids_NT, hidden_NTD)

    monkeypatch.setattr(LayerStream, "layer", noted)
    model = load_streamed(str(saved_model("llama", tmp_path)))
    model.progress = Notes()
    model.prepare(ids(), 1)
    of_last = sizes[len(sizes) - len(model.text.shapes) :]
    assert of_last == sorted(of_last, reverse=True)
    assert of_last[:3] == [33, 20, 12]


def test_padding_is_tried_to_the_longest_that_is_padded(tmp_path: Path) -> None:
    """Windows of one length are not padded, and no long probe passes through the layers."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    model.progress = Notes()
    for longest in (1, 24):
        assert model.sharing(longest) == "padded"
        model.prepare([(batch()[0] + longest) % 256], 2)
        probes = model.text.shapes[model.text.first_probe :]
        assert ((1, 24) in probes) == (longest == 24)


def test_a_layer_of_nan_is_named(tmp_path: Path) -> None:
    """Stand-ins return NaN, so a layer that reads one is noticed; so is a damaged one."""
    folder = saved_model("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidValueError, match=r"layer 1 of .*leave out --stream"):
        streamed(folder)


@pytest.mark.parametrize("change", ["cut short", "deleted"])
def test_a_file_that_changes_while_the_text_passes(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is written to is named; one that is deleted is open, and read to its end."""
    folder = saved_model("llama", tmp_path)
    expected, path = logits(streamed(folder), 0), folder / "model.safetensors"
    monkeypatch.setattr(stream_plan, "available_memory", lambda: 1000)  # nothing is read ahead
    model, own = load_streamed(str(folder)), LayerStream.layer
    model.progress = Notes()

    def changed(self: LayerStream, i: int, *arguments: Tensor) -> Tensor:
        if path.exists():
            os.truncate(path, 1000) if change == "cut short" else path.unlink()
        return own(self, i, *arguments)

    monkeypatch.setattr(LayerStream, "layer", changed)
    if change == "deleted":
        model.prepare(ids(), 2)
        assert torch.equal(logits(model, 0), expected)
        return
    with pytest.raises(InvalidValueError, match=r"model\.safetensors was changed"):
        model.prepare(ids(), 2)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    """Another weight is another fingerprint."""
    folder = saved_model("llama", tmp_path)
    before = load_streamed(str(folder)).weights_fingerprint()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_streamed(str(folder)).weights_fingerprint() != before


def test_single_inputs_are_refused(tmp_path: Path) -> None:
    """The text is read as a whole."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    with pytest.raises(InvalidValueError, match="--stream"):
        model.predict(torch.zeros(1, 3, dtype=torch.long))


def test_a_random_model_is_refused(tmp_path: Path) -> None:
    """The same short input passes through the layers twice."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    mlp = model._model.base_model.layers[1].mlp
    own = mlp.forward
    mlp.forward = lambda x: own(x) + torch.rand(1)
    model.progress = Notes()
    with pytest.raises(InvalidValueError, match="random"):
        model.prepare(ids(), 2)


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    """Inputs that are there are kept; equal ones are read once; others replace them."""
    model = streamed(saved_model("llama", tmp_path))
    count = len(model.read)
    model.prepare(ids()[:1], 2)
    assert len(model.read) == count
    model.prepare([ids()[0][:, :5]] * 3, 2)
    assert len(model.read) > count
    assert model.text.first_probe == 1
    with pytest.raises(InvalidValueError, match="--stream"):
        logits(model, 0)


def test_an_interrupted_text_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has passed through some layers only is not taken for read."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    model.progress = Notes()
    own = LayerStream.layer

    def interrupted(self: LayerStream, i: int, *arguments: Tensor) -> Tensor:
        if i == 1:
            raise KeyboardInterrupt
        return own(self, i, *arguments)

    monkeypatch.setattr(LayerStream, "layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.prepare(ids(), 2)
    with pytest.raises(InvalidValueError, match="--stream"):
        logits(model, 0)
    monkeypatch.setattr(LayerStream, "layer", own)
    model.prepare(ids(), 2)
    assert torch.equal(logits(model, 0), logits(streamed(tmp_path), 0))


def test_memory_that_is_too_small_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the window and what to do."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    model.progress = Notes()

    def too_large(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(LayerStream, "layer", too_large)
    with pytest.raises(RunError, match=r"33 tokens.*--window"):
        model.prepare(ids(), 2)


def batch() -> list[np.ndarray]:
    """Three sequences in one batch."""
    return [np.random.default_rng(2).integers(0, 256, (3, 24))]


def massive(hidden_NTD: Tensor) -> Tensor:
    """With a massive activation at the first position, as trained models have them."""
    hidden_NTD[:, 0, 0] = 1e7
    return hidden_NTD


@pytest.mark.parametrize(
    ("change", "sharing"),
    [
        (lambda x: x + x.mean(dim=0, keepdim=True), "alone"),
        (lambda x: x * (1 + x.shape[1] / 8), "equal lengths"),
        (lambda x: x + 0.1, "padded"),
        # One huge value, which is the scale of no other position.
        (lambda x: massive(x + x.mean(dim=0, keepdim=True)), "alone"),
        (lambda x: massive(x * (1 + x.shape[1] / 8)), "equal lengths"),
        (lambda x: massive(x + 0.1), "padded"),
    ],
)
def test_what_may_share_a_batch_is_tried(change, sharing: str, tmp_path: Path) -> None:
    """A layer that mixes sequences, or depends on their padding, is noticed beside the text."""
    model = load_streamed(str(saved_model("llama", tmp_path)))
    mlp = model._model.base_model.layers[1].mlp
    own = mlp.forward
    mlp.forward = lambda x: change(own(x))
    model.progress = Notes()
    assert model.sharing(24) == "padded"
    assert model.prepare(batch(), 2) == (sharing == "padded")
    assert model.sharing(24) == sharing
    again = batch() if sharing != "alone" else [batch()[0][n : n + 1] for n in range(3)]
    assert model.prepare(again, 2)
    notes = [note for note in model.progress.notes if "read again" in note]
    assert bool(notes) == (sharing != "padded")
