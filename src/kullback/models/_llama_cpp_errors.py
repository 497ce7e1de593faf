"""What llama.cpp logs where it refuses a file, as a sentence with the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kullback.errors import InvalidValueError, RunError

__all__ = ["no_context", "no_model"]

UNKNOWN_ARCHITECTURE = re.compile(r"unknown model architecture: '([^']*)'")
UNKNOWN_SPLIT = re.compile(r"unknown pre-tokenizer type: '([^']*)'")
TOO_FEW_GPUS = re.compile(r"invalid value for main_gpu: \d+ \(available devices: (\d+)\)")
INCOMPLETE = re.compile(r"not within the file bounds|failed to read|corrupted|incomplete|truncated")
MEMORY = re.compile(r"failed to allocate|unable to allocate|out of memory|alloc_buffer", re.I)
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# "llama_model_load: error loading model: ..." and the like: the names of functions say nothing.
PREFIX = re.compile(r"^(\w+: )+(error loading model: )?")


def no_model(name: str, errors: Sequence[str], library: str) -> InvalidValueError | RunError:
    """Why llama.cpp does not load a file, from what it logged."""
    said = "\n".join(errors)
    unknown = UNKNOWN_ARCHITECTURE.search(said)
    if unknown:
        return InvalidValueError(
            f"the model {name} is of an architecture, {unknown[1]!r}, that {library} does not "
            "know: upgrade the package that brings llama.cpp"
        )
    split = UNKNOWN_SPLIT.search(said)
    if split:
        return InvalidValueError(
            f"the model {name} names a pre-tokenizer, {split[1]!r}, that {library} does not know: "
            "upgrade the package that brings llama.cpp, or convert the model again with that one"
        )
    gpus = TOO_FEW_GPUS.search(said)
    if gpus:
        return InvalidValueError(
            f"torchrun starts more processes on this machine than {library}, which runs {name}, "
            f"finds GPUs: give --nproc-per-node {gpus[1]}, or --device cpu"
        )
    if MEMORY.search(said):
        return RunError(
            f"there is no memory for the weights of {name}: close other programs, or choose a "
            "smaller file"
        )
    why = _first(errors)
    if INCOMPLETE.search(said):
        return InvalidValueError(
            f"the model {name} is damaged or incomplete ({why}): download it again"
        )
    part = ", or give all parts of one model" if PART.search(name) else ""
    return InvalidValueError(
        f"{library} does not load the model {name} ({why}): download it again, or convert it with "
        f"that version of llama.cpp{part}"
    )


def no_context(name: str, size: int, errors: Sequence[str]) -> InvalidValueError | RunError:
    """Why llama.cpp makes no context of `size` tokens, from what it logged."""
    said, why = "\n".join(errors), _first(errors)
    if MEMORY.search(said) or not errors:
        return RunError(
            f"there is no memory for {size:,} tokens in the KV cache of {name}: give a shorter "
            "--window, or store it in fewer bits (FILE.gguf@ctk=q8_0,ctv=q8_0)"
        )
    return InvalidValueError(f"llama.cpp cannot run {name} as asked ({why}): change its options")


def _first(errors: Sequence[str]) -> str:
    """The first line that was logged, which is the cause of those after it."""
    return PREFIX.sub("", errors[0]) if errors else "it gives no reason"
