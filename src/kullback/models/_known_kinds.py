"""Kinds of models that transformers does not know, as one sentence."""

from __future__ import annotations

import re

from kullback.errors import InvalidValueError
from kullback.models.gguf_token_types import REMEDY

__all__ = ["check_architecture", "unknown_kind"]


def check_architecture(name: str, architecture: str) -> None:
    """Raise `InvalidValueError` where transformers does not list `architecture` for GGUF files.

    Only after a failure: it loads some that are not in its list.
    """
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    # llama.cpp's "qwen3moe" is "qwen3_moe" there.
    listed = {kind.replace("_", "") for kind in GGUF_SUPPORTED_ARCHITECTURES}
    if re.sub("[-_]", "", architecture) not in listed:
        raise InvalidValueError(
            f"the model {name} is of a kind, {architecture}, that this version of transformers "
            f"does not read from .gguf files: {REMEDY}"
        ) from None


def unknown_kind(name: str, kind: str) -> InvalidValueError:
    """The error for a kind of model that transformers does not know."""
    return InvalidValueError(
        f"the model {name} is of a kind, {kind}, that this version of transformers does not know: "
        "pip install --upgrade transformers"
    )
