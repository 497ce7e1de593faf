"""Weights that are read from safetensors files a part of the model at a time.

transformers itself makes the model, without numbers (on torch's meta device), and converts what is
read (renamed keys, experts merged into one matrix, types that a model keeps wider): only which
tensors are read when is decided here.  How they are read: `kullback.models.stored_tensors`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from kullback.models._loading_errors import not_streamed
from kullback.models.huggingface import output_matrix
from kullback.models.quiet import quiet_transformers
from kullback.models.stored_tensors import Blocks, StoredFile, block_bytes, read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kullback.models.layer_probe import Layers

__all__ = ["Loader", "Part", "StreamedWeights", "parts_of", "streaming_class"]

#: From a configuration to the class whose `from_pretrained` reads only what it must.
Loader: TypeAlias = "Callable[[PreTrainedConfig], Any]"
META = torch.device("meta")
# Bytes of a sample of a file, and how many samples there are: 16 MB of a file at most.
SAMPLE, SAMPLES = 1 << 14, 1 << 10


@dataclass(frozen=True)
class Part:
    """Weights of a model that are loaded and freed together."""

    name: str
    weights: tuple[str, ...]
    """By their names in the model."""


def parts_of(model: PreTrainedModel, layers: Layers) -> tuple[Part, list[Part], Part, Part]:
    """Embedding, layers, head, and what is left: by the names of their weights."""
    names = list(model.state_dict())
    modules = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}

    def part(name: str, module: object) -> Part:
        prefix = f"{modules[id(module)]}."
        return Part(name, tuple(weight for weight in names if weight.startswith(prefix)))

    embedding = part("embedding", model.get_input_embeddings())
    head = part("head", output_matrix(model))
    inner = [part(f"layer {i}", layer) for i, layer in enumerate(layers.modules)]
    taken = {weight for one in (embedding, head, *inner) for weight in one.weights}
    return embedding, inner, head, Part("rest", tuple(n for n in names if n not in taken))


class StreamedWeights:
    """The tensors of a model's files, by the parts of the model that they belong to.

    `load` puts the weights of a part on the device, `free` removes them.
    """

    def __init__(
        self, model: PreTrainedModel, files: Sequence[str], settings: Any, device: torch.device
    ) -> None:
        """`settings` are transformers' own of this loading; only headers are read."""
        self._model = model
        self._settings = replace(settings, device_map={"": device})
        self.read: list[str] = []
        """The keys of all tensors that were read, in order."""
        self._files = [StoredFile(file) for file in files]
        self._stored = {key: value for file in self._files for key, value in file.tensors.items()}
        self.report = _convert(model, {}, self._settings)
        """transformers' account of what is missing, misshapen and not used."""
        self._targets = self._find_targets()
        self._ahead: dict[str, Future[dict[str, Tensor]]] = {}
        self._reader = ThreadPoolExecutor(1)
        self._stop = threading.Event()
        self._blocks: Mapping[str, Blocks] = {}
        """The memory that some parts are read into, by their names; others get new memory."""

    def _find_targets(self) -> dict[str, str]:
        """The first weight of the model that each stored tensor becomes, by its key."""
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        mapping = self._settings.weight_mapping or []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
        expected = self._model.state_dict()
        prefix, targets = self._model.base_model_prefix, {}
        for key, stored in self._stored.items():
            name, pattern = rename_source_key(key, renamings, converters, prefix, expected)
            if name not in expected and key in expected:
                name, pattern = key, None
            if name not in expected:
                self.report.unexpected_keys.add(name)
                continue
            targets[key] = name
            self.report.missing_keys.discard(name)
            if pattern is None:
                if stored.shape != tuple(expected[name].shape):
                    shapes = (name, torch.Size(stored.shape), expected[name].shape)
                    self.report.mismatched_keys.add(shapes)
                continue
            first, *others = by_pattern[pattern].target_patterns
            for other in others:
                self.report.missing_keys.discard(name.replace(first, other))
        return targets

    def keys_of(self, part: Part) -> list[str]:
        """The stored tensors of a part; of a weight that is not stored, those it is tied to."""
        weights = set(part.weights)
        keys = [key for key, target in self._targets.items() if target in weights]
        stored = {self._targets[key] for key in keys}
        tied = {
            key: None for name in part.weights if name not in stored for key in self._tied(name)
        }
        return [*keys, *(key for key in tied if key not in keys)]

    def _tied(self, name: str) -> list[str]:
        """The stored tensors that a weight is tied to, where it is tied to any."""
        ties: Mapping[str, str] = getattr(self._model, "all_tied_weights_keys", None) or {}
        source = ties.get(name, name)
        same = {source, *(target for target, other in ties.items() if other == source)}
        return [key for key, target in self._targets.items() if target in same - {name}]

    def stored_bytes(self, part: Part) -> int:
        """What is read of the files for a part."""
        return sum(self._stored[key].size_bytes for key in self.keys_of(part))

    def loaded_bytes(self, part: Part) -> int:
        """What the weights of a part take when they are loaded."""
        weights = {id(weight): weight for weight in map(self._weight, part.weights)}
        return sum(weight.numel() * weight.dtype.itemsize for weight in weights.values())

    @contextmanager
    def reused_memory(self, parts: Sequence[Part]) -> Iterator[None]:
        """Inside, the parts are read into memory that each leaves to another one when it is freed.

        A part at a time, and one ahead, are read then.
        """
        stored = [[self._stored[key] for key in self.keys_of(part)] for part in parts]
        blocks = Blocks(max(map(block_bytes, stored), default=0))
        self._blocks = dict.fromkeys((part.name for part in parts), blocks)
        try:
            yield
        finally:
            self._blocks = {}

    def read_ahead(self, part: Part) -> None:
        """Begin to read what `load` will need for a part, in the background."""
        self._ahead[part.name] = self._reader.submit(self._tensors, part, self._stop)

    def stop_reading(self) -> None:
        """Forget what is read ahead; what is not read yet is not read."""
        self._stop.set()
        self._stop = threading.Event()
        self._ahead.clear()

    def _tensors(self, part: Part, stop: threading.Event | None = None) -> dict[str, Tensor]:
        """Read what `load` needs for a part."""
        stored = [self._stored[key] for key in self.keys_of(part)]
        blocks = self._blocks.get(part.name) or Blocks(block_bytes(stored))
        read = read_tensors(stored, blocks, stop)
        self.read.extend(read)
        return read

    def load(self, part: Part) -> None:
        """Put the weights of a part on the device, converted as transformers does it.

        Raises `InvalidValueError` where a file was changed since it was opened, `ValueError` where
        tensors that the files should hold are missing or misshapen, `OSError`, and `MemoryError`.
        """
        ahead = self._ahead.pop(part.name, None)
        with torch.inference_mode(False):
            tensors = self._tensors(part) if ahead is None else ahead.result()
        with torch.inference_mode(False), quiet_transformers():
            _convert(self._model, tensors, self._settings)
        del tensors
        for name in part.weights:
            if self._weight(name).is_meta:
                self._tie(part, name)
            weight = self._weight(name)
            if weight.is_meta:
                raise ValueError(f"{name} cannot be made of the tensors in the files")
            weight.requires_grad_(False)

    def _tie(self, part: Part, name: str) -> None:
        """Give a weight the numbers that were loaded under the name of another one."""
        for key in self._tied(name):
            other = self._targets[key]
            loaded = self._weight(other)
            if loaded.is_meta:
                continue
            self._set(name, loaded)
            if other not in part.weights:
                self._set(other, _without_numbers(loaded))

    def place_buffers(self) -> None:
        """Put the buffers that have numbers, which no file has, on the device."""
        for name, buffer in list(self._model.named_buffers()):
            owner, _, attribute = name.rpartition(".")
            if not buffer.is_meta:
                device = self._settings.device_map[""]
                setattr(self._model.get_submodule(owner), attribute, buffer.to(device))

    def free(self, part: Part) -> None:
        """Remove the weights of a part from memory."""
        for name in part.weights:
            self._set(name, _without_numbers(self._weight(name)))

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = self._model.get_parameter_or_buffer(name)
        return weight

    def _set(self, name: str, weight: Tensor) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self._model.get_submodule(owner), attribute, weight)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the size, time and samples of every file, header included."""
        digest = hashlib.sha256()
        sample = bytearray(SAMPLE)
        for file in self._files:
            size, changed_at = file.size_and_time
            digest.update(f"{size} {changed_at} ".encode())
            for begin in range(0, size, max(SAMPLE, size // SAMPLES)):
                part = memoryview(sample)[: size - begin]
                file.read(begin, part)
                digest.update(part)
        return digest.hexdigest()


def streaming_class(
    model_class: type[PreTrainedModel],
    name: str,
    device: torch.device,
    opened: list[StreamedWeights],
) -> type[PreTrainedModel]:
    """`model_class`, whose `from_pretrained` reads headers alone and puts the weights in `opened`.

    Its `device` is that which the weights will be on; `name` is the model's, for errors.
    """

    def load(
        model: PreTrainedModel, _state: object, files: Sequence[str] | None, settings: Any, *_: Any
    ) -> tuple[Any, None]:
        if not files or not all(file.endswith(".safetensors") for file in files):
            raise not_streamed(name, "its weights are in no .safetensors files")
        opened.append(StreamedWeights(model, files, settings, device))
        return opened[-1].report, None

    members = {
        "_load_pretrained_model": staticmethod(load),
        "device": property(lambda model: device),
        "__module__": model_class.__module__,
        "__doc__": model_class.__doc__,
    }
    made: type[PreTrainedModel] = type(model_class.__name__, (model_class,), members)
    return made


def _convert(model: PreTrainedModel, tensors: Mapping[str, Any], settings: Any) -> Any:
    """Let transformers put `tensors` into the model; returns its report."""
    from transformers.core_model_loading import convert_and_load_state_dict_in_model

    report, _ = convert_and_load_state_dict_in_model(model, dict(tensors), settings)
    return report


def _without_numbers(weight: Tensor) -> Tensor:
    empty = torch.empty_like(weight, device=META)
    return nn.Parameter(empty, requires_grad=False) if isinstance(weight, nn.Parameter) else empty
