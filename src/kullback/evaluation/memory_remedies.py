"""What a command that reads a text with models can do where the memory is too small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kullback.errors import InvalidValueError
from kullback.models.llama_cpp_options import split_gguf
from kullback.models.quantized import split_scheme
from kullback.predictions.llama_cpp_logits import is_llama_cpp_logits
from kullback.predictions.recording import read_header

__all__ = ["memory_remedies"]

NARROW = ("bfloat16", "float16")
# Options that exclude --stream and --device-map, and further ones that exclude --stream.
EXCLUDE_BOTH = ("stream", "device_map", "schemes")
EXCLUDE_STREAM = ("trust_remote_code", "backend", "noise_floor", "sensitivity")


def memory_remedies(
    models: Sequence[object], given: Mapping[str, object], streams: bool = True
) -> str:
    """The options that need less memory and were not given, as the end of a sentence.

    `given` are options by their names in the API, `streams` says whether there is a --stream.

    >>> memory_remedies(["folder"], {"stream": True})
    'use --dtype bfloat16, a shorter --window or more memory'
    """
    remedies = []
    files = [path for path in map(_recorded, models) if path is not None]
    if not any(map(given.get, EXCLUDE_BOTH)) and all(map(_is_stored_whole, models)):
        streams &= not any(map(_is_read_whole, files))
        if streams and not any(map(given.get, EXCLUDE_STREAM)):
            remedies.append("--stream (the model is then read layer by layer)")
        remedies.append("--device-map auto")
    narrow = str(given.get("dtype")).removeprefix("torch.") in NARROW
    if not narrow and all(map(_takes_dtype, models)):
        remedies.append("--dtype bfloat16")
    if not files:  # whose windows are those that were recorded
        remedies.append("a shorter --window")
    return f"use {', '.join(remedies)} or more memory" if remedies else "use more memory"


def _recorded(model: object) -> Path | None:
    """The file, where it is one and no model."""
    if not isinstance(model, str | Path) or not Path(model).is_file():
        return None
    return None if Path(model).suffix == ".gguf" else Path(model)


def _is_read_whole(file: Path) -> bool:
    """Whether a model that is read beside this file cannot be read layer by layer."""
    if is_llama_cpp_logits(file):
        return True
    try:
        return read_header(file).kind == "top-k"
    except InvalidValueError:  # token records
        return False


def _takes_dtype(model: object) -> bool:
    """Whether it is named, and loaded in a type that can be chosen: llama.cpp has its own."""
    if not isinstance(model, str | Path):
        return False
    file, backend, _ = split_gguf(split_scheme(str(model))[0])
    return not file.endswith(".gguf") or backend == "transformers"


def _is_stored_whole(model: object) -> bool:
    """Whether it is named, and its weights are read as they are stored, by transformers."""
    if not isinstance(model, str | Path):
        return False
    base, scheme = split_scheme(str(model))
    return scheme is None and not split_gguf(base)[0].endswith(".gguf")
