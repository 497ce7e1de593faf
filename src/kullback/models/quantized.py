"""``MODEL@SCHEME``: a model that is quantised on the way in, and its size.

``FOLDER@int4-g32`` is the model that ``kullback quantise FOLDER --scheme int4-g32`` saves: the
weights are those of the scheme, the arithmetic is that of the model
(`kullback.models.quantization`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kullback.errors import InvalidValueError
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.interface import TextModel
from kullback.models.mini_gpt import GPTTextModel
from kullback.models.quantization import Scheme, quantise_layers, size_in_bytes

__all__ = ["SizedModel", "apply_scheme", "sized", "split_scheme"]


@dataclass(frozen=True, eq=False)
class SizedModel:
    """A model and what its weights take."""

    model: TextModel
    size_bytes: int | None
    """Integers packed to their bits, their scales, and the other weights as they are; or None."""


def split_scheme(name: str) -> tuple[str, Scheme | None]:
    """The model's own name and its scheme, from ``MODEL@SCHEME``; an existing path is a model.

    >>> split_scheme("runs/mine@int4-g32")
    ('runs/mine', Scheme(bits=4, group=32, floating=None))
    >>> split_scheme("runs/mine")
    ('runs/mine', None)
    """
    base, at, scheme = name.rpartition("@")
    if not at or Path(name).exists():
        return name, None
    return base, Scheme.parse(scheme)


def sized(model: TextModel) -> SizedModel:
    """`model` and the size of its weights as they are."""
    if isinstance(model, GPTTextModel):
        return SizedModel(model, size_in_bytes(model.gpt))
    if isinstance(model, HuggingFaceModel):
        return SizedModel(model, size_in_bytes(model.model))
    return SizedModel(model, None)


def apply_scheme(model: TextModel, scheme: Scheme | None) -> SizedModel:
    """`model` with its weights quantised; a `transformers` model is changed in place."""
    if scheme is None:
        return sized(model)
    if isinstance(model, GPTTextModel):
        gpt = copy.deepcopy(model.gpt)
        size = quantise_layers(gpt, scheme)
        return SizedModel(replace(model, gpt=gpt, name=f"{model.name}@{scheme.name}"), size)
    if not isinstance(model, HuggingFaceModel):
        raise InvalidValueError(f"{model.name} cannot be quantised: its weights are not here")
    with torch.no_grad():
        size = quantise_layers(model.model, scheme)
    name = f"{model.name}@{scheme.name}"
    return SizedModel(replace(model, name=name, _fingerprint=[]), size)
