"""Quantised models on disk: folders that `transformers` loads, with torchao.

Integers and 8-bit floats are saved as torchao's tensors in safetensors, 16-bit floats as they are.
torchao has no packed form of the integers of `Scheme` that a CPU reads: each takes a byte.
Matrices that torchao does not quantise, because their layers are no ``nn.Linear`` (GPT-2's,
experts), are saved as floats that have the values of the scheme.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kullback.errors import InvalidValueError
from kullback.models._tokenizers import save_tokenizer
from kullback.models._wrappers import auto_class
from kullback.models.from_transformers import load_pretrained
from kullback.models.locate import Location, locate
from kullback.models.quantization import (
    FLOATS,
    Scheme,
    cast_all,
    check_not_quantised,
    linear_weights,
    packed_size_in_bytes,
    quantise_layers,
    require_torchao,
    size_in_bytes,
)
from kullback.models.quiet import quiet_loggers, quiet_transformers
from kullback.models.weight_matrices import WeightMatrix, unquantised_weights, weight_matrices
from kullback.results.quantised import QuantisedFolder
from kullback.runtime.files import draft_folder
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["save_quantised"]


def save_quantised(
    name: str | Path,
    scheme: Scheme,
    folder: str | Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> QuantisedFolder:
    """Quantise the matrices of the model `name` and save it as a folder.

    `progress` is told of two stages, and how many of the weights are done in each.  Raises
    `InvalidValueError` where the folder is not new or empty, the model cannot be loaded, the
    scheme does not fit its layers or changes no weight, `RunError` where the folder is in use or
    cannot be written, `MissingExtraError` without transformers or torchao.
    """
    check_outputs(Output("the output (-o)", folder, "new folder"), inputs=[name])
    if not scheme.is_cast:
        require_torchao()
    folder, progress = Path(folder), progress or Progress()
    progress.plan(2)
    with locked_output(folder):
        location = locate(str(name))
        _check_weights_alone(location)
        progress.stage(f"loading {name}")
        loaded = load_pretrained(location, torch.float32, trust_remote_code, progress.advance)
        check_not_quantised(location.name, loaded.model)
        for layer, matrix in linear_weights(loaded.model):
            scheme.check_fits(layer, matrix.shape)
        progress.stage(f"quantising {name} to {scheme.name}")
        # Of the original, which keeps its names; a model of torchao's tensors has others.
        unquantised = [] if scheme.is_cast else unquantised_weights(loaded.model)
        with (
            quiet_loggers(),
            quiet_transformers(progress.advance),
            draft_folder(folder) as draft,
        ):
            quantised = _quantised(loaded.model, scheme, draft / "original", location.name)
            shutil.rmtree(draft / "original", ignore_errors=True)
            quantised.model.save_pretrained(draft)
            save_tokenizer(loaded.tokenizer_of or location, loaded.tokenizer, draft)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    return QuantisedFolder(
        folder=str(folder),
        scheme=scheme.name,
        bytes_packed=packed_size_in_bytes(quantised.model) - quantised.bytes_unpacked,
        bytes_weights=sum(n for name, n in sizes.items() if name.endswith(".safetensors")),
        bytes_saved=sum(sizes.values()),
        unquantised=tuple(unquantised),
        notes=(*loaded.notes, *_dequantised(location), *quantised.notes),
    )


def _check_weights_alone(location: Location) -> None:
    """Raise `InvalidValueError` where the name says how llama.cpp runs the file."""
    if location.backend == "llama.cpp":
        raise InvalidValueError(
            f"{location.name} says how llama.cpp runs the file, and only its weights are "
            f"quantised: give {location.gguf}"
        )


def _dequantised(location: Location) -> tuple[str, ...]:
    """The note of a model that is made of a .gguf file."""
    if location.gguf is None:
        return ()
    return (
        f"the weights of {location.gguf} were dequantised first: the folder has the errors of both "
        "quantisations",
    )


@dataclass(frozen=True, eq=False)
class _Quantised:
    """A model that is ready to be saved."""

    model: PreTrainedModel
    bytes_unpacked: int = 0
    """How much more the matrices that are saved as floats take than packed."""
    notes: tuple[str, ...] = ()


def _quantised(model: PreTrainedModel, scheme: Scheme, original: Path, name: str) -> _Quantised:
    """The model with the weights of `scheme`; `original` is a folder to use.

    Raises `InvalidValueError` where there is nothing to quantise, where no weight changes, and
    where torchao and `weight_matrices` disagree on the layers.
    """
    if scheme.is_cast:
        with torch.no_grad():
            changed = cast_all(model, scheme).changed
        _check_changed(changed, name, scheme)
        # The type that transformers declares for `to` is not that of torch.
        converted: Any = model
        return _Quantised(converted.to(FLOATS[str(scheme.floating)]))
    matrices = weight_matrices(model)
    if not matrices:
        raise InvalidValueError(f"{name} cannot be quantised: it has no linear layers but its head")
    in_torchao = {weight.name for weight in matrices if weight.is_linear} - _unread(model)
    before = size_in_bytes(model)
    with torch.no_grad():
        rounding = quantise_layers(model, scheme, lambda layer: layer not in in_torchao)
    changed = rounding.changed
    if in_torchao:
        quantised = _in_torchao(model, in_torchao, scheme, original)
        done = [weight for weight in matrices if weight.name in in_torchao]
        changed = changed or _differs(quantised, done)
        _check_same_layers(quantised, done, name, scheme)
        model = quantised
    _check_changed(changed, name, scheme)
    floats = [weight for weight in matrices if weight.name not in in_torchao]
    return _Quantised(
        model, before - rounding.size_bytes, tuple(_floats_note(floats, scheme, before))
    )


@torch.inference_mode()
def _unread(model: PreTrainedModel) -> set[str]:
    """The ``nn.Linear`` layers whose weights the model uses without calling them (Mamba's dt_proj).

    torchao's tensors work only in the layer's own product.  A layer of whose kind, which is its
    name but for numbers, another is called counts as called: one of the experts, for example.
    """
    called: set[str] = set()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.add(_kind(name)))
        for name, layer in linear.items()
    ]
    try:
        model(input_ids=torch.arange(2, device=model.device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name in linear if _kind(name) not in called}


def _kind(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", "", name)


def _in_torchao(
    model: PreTrainedModel, layers: Set[str], scheme: Scheme, original: Path
) -> PreTrainedModel:
    """The model as transformers quantises the ``nn.Linear`` `layers` while it reads from disk."""
    from transformers import TorchAoConfig

    chosen = {id(model.get_submodule(layer).weight) for layer in layers}
    left = [
        layer
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) not in chosen
    ]
    model.save_pretrained(original)
    quantised: PreTrainedModel = auto_class(model.config).from_pretrained(
        original,
        dtype=torch.float32,
        quantization_config=TorchAoConfig(scheme.torchao_config(), modules_to_not_convert=left),
    )
    return quantised


def _differs(quantised: PreTrainedModel, matrices: Sequence[WeightMatrix]) -> bool:
    """Whether a matrix that torchao quantised has another value than before."""
    for weight in matrices:
        after = quantised.get_parameter(weight.parameter)
        values: Any = after
        if hasattr(after, "__tensor_flatten__") and not torch.equal(
            values.dequantize(), weight.matrix
        ):
            return True
    return False


def _check_same_layers(
    quantised: PreTrainedModel, matrices: Sequence[WeightMatrix], name: str, scheme: Scheme
) -> None:
    """Raise unless torchao quantised the layers that MODEL@SCHEME quantises, and no others."""
    wanted = {weight.parameter for weight in matrices}
    done = {
        parameter
        for parameter, weight in quantised.named_parameters()
        if hasattr(weight, "__tensor_flatten__")
    }
    if differing := sorted(wanted ^ done):
        raise InvalidValueError(
            f"the model {name} cannot be saved as {scheme.name}: transformers and torchao do not "
            f"quantise the same layers as {name}@{scheme.name}, {len(differing)} differ, the first "
            f"is {differing[0]}; measure {name}@{scheme.name} without saving it"
        )


def _check_changed(changed: bool, name: str, scheme: Scheme) -> None:
    if not changed:
        raise InvalidValueError(
            f"the model {name} has weights with the values of {scheme.name} already: the saved "
            "folder would be the same model; use it as it is, or choose a smaller scheme"
        )


def _floats_note(floats: Sequence[WeightMatrix], scheme: Scheme, whole: int) -> list[str]:
    """A note about the matrices that have the scheme's values, but are saved as float32."""
    if not floats:
        return []
    share = sum(4 * weight.matrix.numel() for weight in floats) / whole
    return [
        f"{100 * share:.1f} % of the weights, the first are {floats[0].name}, have the values of "
        f"{scheme.name} and are saved as float32: transformers reads integers only for layers of "
        "the class nn.Linear that it calls"
    ]
