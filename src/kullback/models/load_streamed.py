"""Loading of a model that will be read layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InvalidValueError
from kullback.models._loading_errors import explained, not_streamed
from kullback.models._tokenizers import text_tokenizer
from kullback.models._wrappers import model_class
from kullback.models.devices import best_device, check_device, own_device
from kullback.models.from_transformers import load_pretrained
from kullback.models.layer_probe import Unstreamable, find_layers
from kullback.models.llama_cpp_options import split_gguf
from kullback.models.load import torch_dtype
from kullback.models.locate import locate
from kullback.models.placement import Place
from kullback.models.quantized import split_scheme
from kullback.models.quiet import quiet_transformers
from kullback.models.streamed import StreamedModel
from kullback.models.streamed_weights import StreamedWeights, streaming_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["check_streamable", "load_streamed"]


def check_streamable(name: object) -> None:
    """Raise `InvalidValueError` where what a user has named is not read layer by layer.

    That is seen in the name: a model with a scheme, a .gguf file, a model that is loaded.
    """
    if not isinstance(name, str) and not hasattr(name, "__fspath__"):
        raise InvalidValueError(
            "stream (--stream) reads a model layer by layer from its files, and this one is loaded "
            "already: give its folder or name"
        )
    base, scheme = split_scheme(str(name))
    if scheme is not None:
        raise not_streamed(
            str(name), f"it is quantised by {scheme.name} while it is loaded, as a whole"
        )
    if split_gguf(base)[0].endswith(".gguf"):
        raise not_streamed(str(name), "it is a .gguf file")


def load_streamed(
    model: object, dtype: str | torch.dtype | None = None, device: torch.device | str = "auto"
) -> StreamedModel:
    """The model that `model` names, with only the weights outside of its layers read so far.

    `dtype` and `device` are as for `kullback.models.load.load_sized`, which raises as this does.
    `InvalidValueError`, too, where its layers cannot run one at a time, and where it has an
    adapter, code of its own, or weights that are quantised or in no .safetensors files.
    """
    check_streamable(model)
    name, dtype = str(model), torch_dtype(dtype)
    location = locate(name)
    device = best_device() if device == "auto" else own_device(device)
    check_device(device)
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    opened: list[StreamedWeights] = []

    def loader(config: PreTrainedConfig) -> Any:
        try:
            whole = model_class(config)
        except KeyError:
            raise not_streamed(name, "it comes with code of its own") from None
        return streaming_class(whole, name, device, opened)

    loaded = load_pretrained(location, dtype, False, place=Place(device), loader=loader)
    with explained(location, "tokenizer"):
        tokenizer = text_tokenizer(location, loaded.tokenizer)
    # At the first call it advises to install kernels, which would not be used.
    with quiet_transformers():
        try:
            layers = find_layers(loaded.model)
        except Unstreamable as reason:
            raise not_streamed(name, str(reason)) from reason
        longest = getattr(loaded.tokenizer, "model_max_length", None)
        return StreamedModel(
            location, loaded.model, layers, opened[0], tokenizer, longest, loaded.notes
        )
