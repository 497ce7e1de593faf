"""GGUF files that transformers dequantises and runs: what it leaves out or gets wrong.

The tokenizer is built from the file (`kullback.models.gguf_tokenizer`), the configuration is
checked against the header (`kullback.models.gguf_config`), and every tensor must have its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from kullback.errors import InvalidValueError
from kullback.models.gguf_config import apply_header, check_types
from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_rope import FACTOR_TENSORS
from kullback.models.gguf_token_types import REMEDY
from kullback.models.gguf_tokenizer import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_placed", "check_readable", "header_defaults", "load_tokenizer",
           "loading_options", "prepare", "release_quantiser"]  # fmt: skip


def check_readable(file: GGUFFile) -> None:
    """Raise `InvalidValueError` for what transformers cannot read.

    Split files, of which it reads one part, entries that differ from layer to layer, and a name
    that it takes for an architecture.
    """
    check_types(file)
    if file.architecture == "llama" and file.metadata.get("general.name") == "mistral":
        raise InvalidValueError(
            f"the model {file.name} has general.name = 'mistral' in its header, which transformers "
            f"takes for an architecture that it cannot read: {REMEDY}"
        )
    if len(file.parts) > 1:
        raise InvalidValueError(
            f"the model {file.name} is split into {len(file.parts)} parts, which transformers "
            f"cannot read: {REMEDY}, or join them with llama.cpp's llama-gguf-split --merge"
        )


def load_tokenizer(file: GGUFFile) -> PreTrainedTokenizerBase:
    """The tokenizer of a file in the form of transformers; raises as `tokenizer_of` does."""
    from transformers import PreTrainedTokenizerFast

    built = tokenizer_of(file)
    named = {
        "bos_token": built.bos_token,
        "eos_token": built.eos_token,
        "unk_token": built.unk_token,
        "pad_token": built.pad_token,
    }
    # transformers takes "<s>" and "</s>" for those that are not given.
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call] # theirs
        tokenizer_object=built.tokenizer, **named
    )
    template = file.metadata.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def prepare(file: GGUFFile, config: PreTrainedConfig) -> None:
    """Make the configuration that transformers has read from a file say what its header says.

    Raises `InvalidValueError` naming an entry or a tensor that transformers does not apply.
    """
    apply_header(file, config)
    check_placed(file, _without_place(file, config))


def loading_options(file_name: str) -> dict[str, Any]:
    """The options with which transformers dequantises all weights of the file of that name.

    Where the package kernels is installed it would leave them packed, and multiply otherwise.
    """
    options: dict[str, Any] = {"gguf_file": file_name}
    try:
        from transformers import GgufConfig
    except ImportError:  # earlier versions have none, and dequantise
        return options
    return options | {"quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def header_defaults(file: GGUFFile | None) -> Iterator[None]:
    """Let transformers know, inside, what a file of Llama leaves out: as many key heads as heads.

    It puts the rows of queries and keys back in their order only where it knows both numbers.
    Raises `InvalidValueError` where transformers cannot be told.
    """
    heads: Any = None if file is None else file.of_model("attention.head_count")
    if (
        file is None
        or file.architecture != "llama"
        or file.of_model("attention.head_count_kv") is not None
    ):
        yield
        return
    try:
        from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING
    except ImportError:  # earlier versions have none
        raise InvalidValueError(
            f"the model {file.name} lacks llama.attention.head_count_kv in its header, without "
            f"which this version of transformers reads its keys wrongly: {REMEDY}"
        ) from None
    given = GGUF_CONFIG_DEFAULTS_MAPPING.get("llama")
    GGUF_CONFIG_DEFAULTS_MAPPING["llama"] = {**(given or {}), "num_key_value_heads": heads}
    try:
        yield
    finally:
        if given is None:
            del GGUF_CONFIG_DEFAULTS_MAPPING["llama"]
        else:
            GGUF_CONFIG_DEFAULTS_MAPPING["llama"] = given


def release_quantiser(model: PreTrainedModel) -> None:
    """Let a dequantised model be one of floats: transformers takes it for quantised otherwise."""
    quantiser: Any = getattr(model, "hf_quantizer", None)
    if quantiser is None:
        return
    if quantiser.quantization_config.dequantize or not getattr(quantiser, "supported", False):
        quantiser.remove_quantization_config(model)


def check_placed(file: GGUFFile, tensors: list[str]) -> None:
    """Raise `InvalidValueError` for tensors of the file that the model has no place for."""
    if tensors:
        more = f" (and {len(tensors) - 1} more)" if len(tensors) > 1 else ""
        raise InvalidValueError(
            f"the model {file.name} has the tensor {tensors[0]}{more}, which transformers has no "
            f"place for and leaves out: {REMEDY}"
        )


def _without_place(file: GGUFFile, config: PreTrainedConfig) -> list[str]:
    """The tensors that transformers drops; none for architectures whose report names them."""
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    if _has_report(file.architecture):
        return []
    # Their classes are untyped.
    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(config)
    kind: Any = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    processor = kind(config=config.to_dict())
    places = {*get_gguf_hf_weights_map(model, processor), *FACTOR_TENSORS}
    if file.architecture == "gpt2":
        places.add("output.weight")  # its processor places it
    return [
        tensor.name
        for tensor in file.tensors
        # Those of experts are placed without the ending.
        if not {tensor.name, tensor.name.removesuffix(".weight")} & places
    ]


def _has_report(architecture: str) -> bool:
    """Whether transformers reports the tensors of this architecture that have no place."""
    try:
        loading: Any = import_module("transformers.integrations.gguf")
    except ImportError:  # earlier versions have none
        return False
    return bool(loading.is_gguf_arch_supported(architecture))
