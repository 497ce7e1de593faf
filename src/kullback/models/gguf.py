"""GGUF files by their location: in llama.cpp, or dequantised in transformers."""

from __future__ import annotations

from dataclasses import replace

import torch

from kullback.errors import InvalidValueError
from kullback.models._llama_cpp_library import is_installed
from kullback.models.gguf_asserts import check_asserts
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.llama_cpp import LlamaCppModel
from kullback.models.locate import Location

__all__ = ["dequantised", "load_llama_cpp"]


def load_llama_cpp(
    location: Location, dtype: torch.dtype | None, device: torch.device | str
) -> LlamaCppModel:
    """The file at `location` in llama.cpp.

    Raises `InvalidValueError` for a `dtype` other than float32, the type of the logits, and for a
    `device` that this llama.cpp does not compute on; and as `LlamaCppModel.load` does.
    """
    assert location.gguf is not None, "the location is that of a .gguf file"
    assert location.header is not None, "the header of a .gguf file is read where it is located"
    if dtype not in (None, torch.float32):
        raise InvalidValueError(
            f"dtype (--dtype) is {str(dtype).removeprefix('torch.')}, and {location.name} runs in "
            "llama.cpp, which computes in the types of the file: leave it out, or name "
            f"{location.gguf}@transformers"
        )
    kind, _, index = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise InvalidValueError(
            f"device (--device) is {device}: {location.name} runs in llama.cpp, on auto, cpu or "
            f"cuda; leave it out, or name {location.gguf}@transformers"
        )
    if kind == "cuda" and index:
        raise InvalidValueError(
            f"device (--device) is {device}: {location.name} runs in llama.cpp, which uses all "
            f"GPUs that it sees; give cuda, and CUDA_VISIBLE_DEVICES={index} in the environment"
        )
    if kind == "cpu" and location.options is not None and location.options.ngl:
        raise InvalidValueError(
            f"device (--device) is cpu, and ngl is {location.options.ngl}, layers of "
            f"{location.gguf} on a GPU: leave out one of the two"
        )
    if location.header.of_model("attention.causal") is False:
        raise InvalidValueError(
            f"the model {location.name} is not a causal language model: each of its predictions "
            "sees the tokens after it; choose one that was trained to predict the next token"
        )
    check_asserts(location.header)
    shown = location.gguf.name
    if location.options is not None:
        shown = f"{shown}@{location.options}"
    return LlamaCppModel.load(location.header, shown, location.options, kind)


def dequantised(model: HuggingFaceModel, location: Location) -> HuggingFaceModel:
    """The model with a note that its numbers are not those of the file in llama.cpp."""
    remedy = (
        "" if is_installed() else "; pip install 'kullback[gguf]' runs the file as llama.cpp does"
    )
    note = (
        f"{model.name} is dequantised and runs in transformers: its numbers are of the weights, "
        f"not of llama.cpp's integer arithmetic{remedy}"
    )
    return replace(model, notes=(*model.notes, note))
