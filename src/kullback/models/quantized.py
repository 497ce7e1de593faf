"""``MODEL@SCHEME``: a model that is quantised while it is loaded, and its sizes.

``FOLDER@int4-g32`` is the model that ``kullback quantise FOLDER --scheme int4-g32`` saves: the
weights are those of the scheme, the arithmetic is that of the model
(`kullback.models.quantization`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from kullback.errors import InvalidValueError
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.llama_cpp import LlamaCppModel
from kullback.models.llama_cpp_options import split_gguf
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantization import (
    Scheme,
    cast_all,
    check_not_quantised,
    linear_weights,
    packed_size_in_bytes,
    quantise_layers,
    saved_size_in_bytes,
    size_in_bytes,
)
from kullback.models.quiet import no_steps
from kullback.models.weight_matrices import unquantised_weights
from kullback.models.weights_identity import WeightsIdentity
from kullback.results.quantised import list_unquantised
from kullback.runtime.progress import Steps

__all__ = ["SizedModel", "apply_scheme", "check_scheme_fits", "sized", "split_scheme"]


@dataclass(frozen=True, eq=False)
class SizedModel:
    """A model and the size of its weights in bytes; None where that is unknown."""

    model: TextModel
    size_bytes: int | None
    """Integers packed to their bits, their scales, and the other weights as they are in memory.

    Of a .gguf file that is not quantised further, the size of the file.
    """
    saved_bytes: int | None
    """What the weights take in the folder that ``kullback quantise`` saves, a byte for each integer
    of up to 8 bits; of a model without a scheme, what they take as it is loaded (of a .gguf file,
    the file)."""

    def __repr__(self) -> str:
        size = "of unknown size" if self.size_bytes is None else f"{self.size_bytes:,} bytes"
        return f"<SizedModel: {self.model.name}, {size}>"


def split_scheme(name: str) -> tuple[str, Scheme | None]:
    """The model's own name and its scheme, from ``MODEL@SCHEME``; an existing path is a model.

    What follows the @ of a .gguf file may say how it runs (`kullback.models.llama_cpp_options`),
    which is a part of its own name.

    >>> split_scheme("runs/mine@int4-g32")
    ('runs/mine', Scheme(bits=4, group=32, floating=None))
    >>> split_scheme("runs/mine")
    ('runs/mine', None)
    """
    base, at, scheme = name.rpartition("@")
    if not at or _exists(name) or split_gguf(name)[1] is not None:
        return name, None
    if not base or not scheme:
        raise InvalidValueError(
            f"{name} lacks {'a scheme after' if base else 'a model before'} the @: write "
            "MODEL@SCHEME, such as runs/mine@int8"
        )
    if "=" in scheme:
        raise InvalidValueError(
            f"{name} has options of llama.cpp after the @ ({scheme}), which only a .gguf file "
            "takes: leave them out, or name a file, as in MODEL.gguf@ctk=q8_0"
        )
    parsed = Scheme.parse(scheme)
    file, backend, _ = split_gguf(base)
    if backend == "llama.cpp" and not _exists(base):
        raise InvalidValueError(
            f"{name} has a scheme, and llama.cpp runs a file as it is stored: write "
            f"{file}@{scheme}, whose weights are dequantised and run in transformers"
        )
    model, second, earlier = base.rpartition("@")
    if second and _is_scheme(earlier) and not _exists(base):
        once = " or ".join(dict.fromkeys(f"{model}@{part}" for part in (earlier, scheme)))
        raise InvalidValueError(
            f"{name} has two schemes, and a model is quantised once: write {once}"
        )
    return base, parsed


def _is_scheme(text: str) -> bool:
    try:
        Scheme.parse(text)
    except InvalidValueError:
        return False
    return True


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL
        return False


def sized(model: TextModel) -> SizedModel:
    """`model` and the size of its weights as they are."""
    if isinstance(model, GPTTextModel):
        size = size_in_bytes(model.gpt)
        return SizedModel(model, size, size)
    if not isinstance(model, HuggingFaceModel | LlamaCppModel):
        return SizedModel(model, None, None)
    if model.file_bytes is not None:
        return SizedModel(model, model.file_bytes, model.file_bytes)
    assert isinstance(model, HuggingFaceModel), "llama.cpp's models are files"
    return SizedModel(model, packed_size_in_bytes(model.model), size_in_bytes(model.model))


def check_scheme_fits(model: TextModel, scheme: Scheme) -> None:
    """Raise `InvalidValueError` where `model` is quantised already, or the group of `scheme`
    does not divide a layer's columns.
    """
    if isinstance(model, GPTTextModel | HuggingFaceModel):
        module = model.gpt if isinstance(model, GPTTextModel) else model.model
        check_not_quantised(model.name, module)
        for layer, matrix in linear_weights(module):
            scheme.check_fits(layer, matrix.shape)


def apply_scheme(model: TextModel, scheme: Scheme | None, progress: Steps = no_steps) -> SizedModel:
    """`model` with its linear layers quantised; a `transformers` model is changed in place.

    Raises `InvalidValueError` where there are none, or the weights are not in this process, and as
    `kullback.models.quantization.quantise` does.
    """
    if scheme is None:
        return sized(model)
    if not isinstance(model, GPTTextModel | HuggingFaceModel):
        raise InvalidValueError(f"{model.name} cannot be quantised: its weights are not here")
    name = f"{model.name}@{scheme.name}"
    # The mini-GPT may be in use elsewhere; of a large model a copy would not fit into memory.
    if isinstance(model, GPTTextModel):
        model = replace(model, gpt=copy.deepcopy(model.gpt))
    module = model.gpt if isinstance(model, GPTTextModel) else model.model
    check_not_quantised(model.name, module)
    if not linear_weights(module):
        raise InvalidValueError(
            f"{model.name} cannot be quantised: it has no linear layers but its head"
        )
    saved = saved_size_in_bytes(module, scheme)
    with torch.no_grad():
        rounding = (
            cast_all(module, scheme)
            if scheme.is_cast
            else quantise_layers(module, scheme, progress=progress)
        )
    notes = (*model.notes, *_notes(name, module, scheme, rounding.changed))
    if isinstance(model, GPTTextModel):
        return SizedModel(replace(model, name=name, notes=notes), rounding.size_bytes, saved)
    quantised = replace(model, name=name, notes=notes, file_bytes=None, _identity=WeightsIdentity())
    return SizedModel(quantised, rounding.size_bytes, saved)


def _notes(name: str, module: nn.Module, scheme: Scheme, changed: bool) -> list[str]:
    """What the scheme leaves as it is, and whether it changes anything at all."""
    notes = []
    if not changed:
        notes.append(f"{name} has the weights of the original: they had these values already")
    if not scheme.is_cast:
        left = list_unquantised(unquantised_weights(module))
        notes.append(f"{name} leaves as they are {left}")
    return notes
