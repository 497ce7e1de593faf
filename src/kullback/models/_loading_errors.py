"""Errors of the libraries that load models, as one sentence with the model's name and a remedy.

`huggingface_hub` raises a class for each condition, and transformers wraps it in an `OSError` whose
cause it is; so the whole chain of causes is looked at, and no message is read.  What transformers
says with a bare `ValueError` is checked before (`kullback.models.from_transformers`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pickle import UnpicklingError
from zipfile import BadZipFile

from kullback.errors import InvalidValueError, KullbackError, MissingExtraError
from kullback.models.locate import Location
from kullback.runtime.memory import causes, is_out_of_memory

__all__ = ["DOES_NOT_FIT", "explained", "is_unreachable", "not_streamed"]

# The commands that read a text name their own options (`kullback.evaluation.options`).
DOES_NOT_FIT = (
    "does not fit into memory: choose 16 bits (dtype bfloat16), several devices (device_map auto), "
    "another device or more memory"
)
UNREACHABLE = (
    "is neither a folder nor in the cache of the Hugging Face hub, and the hub cannot be reached: "
    "check the name and the connection, or download the model first"
)
OFFLINE = (
    "is neither a folder nor in the cache of the Hugging Face hub, and HF_HUB_OFFLINE keeps the "
    "hub from being asked: check the name, or unset HF_HUB_OFFLINE"
)


@contextmanager
def explained(location: Location, part: str) -> Iterator[None]:
    """Raise `KullbackError` with one sentence for whatever goes wrong while `part` is loaded.

    `part` is "configuration", "tokenizer" or "weights".  A library that is not installed is a
    `MissingExtraError`, all else an `InvalidValueError`.
    """
    try:
        yield
    except KullbackError:
        raise
    # Of any class: safetensors, huggingface_hub, gguf, tokenizers and json each have their own.
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, ImportError):
                raise MissingExtraError(
                    f"the model {location.name} needs a library that is not installed "
                    f"({first_sentence(cause)})"
                ) from error
        reasons = (_reason(cause, location) for cause in causes(error))
        reason = next(filter(None, reasons), None) or _unreadable(location, part, error)
        raise InvalidValueError(f"the model {location.name} {reason}") from error


def not_streamed(name: str, reason: str) -> InvalidValueError:
    """The error for a model that cannot be read layer by layer, with the reason."""
    return InvalidValueError(
        f"the model {name} cannot be read layer by layer: {reason}; leave out --stream"
    )


def _reason(error: BaseException, location: Location) -> str | None:
    """What an error of a known class says about a model, after its name; None for other classes."""
    if is_out_of_memory(error):
        return DOES_NOT_FIT
    reason = _reason_of_hub(error)
    if reason and location.path is not None:
        return (
            f"needs a file of the Hugging Face hub that cannot be loaded ({first_sentence(error)})"
            ": check the connection, or copy the file into the folder"
        )
    if reason:
        return reason
    # transformers raises bare instances of OSError; those of the operating system have a number.
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        return f"cannot be read or stored ({os.strerror(error.errno)}{where})"
    return None


def _reason_of_hub(error: BaseException) -> str | None:
    """What an error of `huggingface_hub`, or of its connection, says about a model on the hub."""
    from huggingface_hub import errors as hub
    from huggingface_hub import is_offline_mode

    # Subclasses first: a gated repository is one that is not found, too.
    sentences: dict[type[BaseException], str] = {
        hub.GatedRepoError: (
            "is gated on the Hugging Face hub: ask for access on its page there, then log in with "
            "`hf auth login`"
        ),
        hub.RepositoryNotFoundError: (
            "is neither a folder nor a model on the Hugging Face hub: check the name; a private "
            "model needs `hf auth login`"
        ),
        hub.DisabledRepoError: "is disabled on the Hugging Face hub: choose another model",
        hub.RevisionNotFoundError: (
            "has no main branch on the Hugging Face hub: choose another model, or download the "
            "files and give the folder"
        ),
        hub.RemoteEntryNotFoundError: (
            "lacks a file on the Hugging Face hub: choose a model in the form that transformers "
            "loads (config.json, weights, tokenizer)"
        ),
        hub.HFValidationError: (
            "is neither a folder nor a possible name on the Hugging Face hub: write OWNER/NAME, a "
            "folder or a .gguf file"
        ),
        hub.OfflineModeIsEnabled: OFFLINE,
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return sentence
    if isinstance(error, hub.HfHubHTTPError):
        return _reason_of_status(error.response.status_code)
    if isinstance(error, hub.LocalEntryNotFoundError):
        if is_offline_mode():
            return OFFLINE
        # The answer of the hub, where it gave one, is the cause of this error.
        return (error.__cause__ and _reason_of_hub(error.__cause__)) or UNREACHABLE
    return UNREACHABLE if is_unreachable(error) else None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error is that of a connection, without an answer of the hub."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError):
        return False
    # The base class of httpx's errors.
    (transport_error, *_) = hub.HfHubHTTPError.__bases__
    return isinstance(error, transport_error | ConnectionError | TimeoutError)


def _reason_of_status(status: int) -> str:
    """What an HTTP status of the hub says about a model."""
    if status in (401, 403):
        return (
            f"is refused by the Hugging Face hub (status {status}): log in with `hf auth login`, "
            "with a token that may read it"
        )
    if status == 429:
        return "is refused by the Hugging Face hub (too many requests): try again later"
    return f"cannot be loaded from the Hugging Face hub (status {status}): try again later"


def _unreadable(location: Location, part: str, error: Exception) -> str:
    """What can be said where no class of the chain names a cause: only some mean damage."""
    if part == "tokenizer":
        return f"has no tokenizer that can be read ({first_sentence(error)})"
    if not any(isinstance(cause, _damage()) for cause in causes(error)):
        return (
            f"cannot be loaded: its {part} made transformers raise {type(error).__name__} "
            f"({first_sentence(error)}); see whether config.json fits the weights, and whether a "
            "newer transformers loads it"
        )
    what = (
        "the file seems"
        if location.gguf
        else f"its {part} " + ("seem missing or" if part == "weights" else "seems")
    )
    return f"cannot be loaded, {what} damaged ({first_sentence(error)}); download it again"


def _damage() -> tuple[type[BaseException], ...]:
    """The classes that readers raise for a file whose bytes are not of its format."""
    from safetensors import SafetensorError

    # json's and UTF-8's errors are ValueErrors; transformers reports files that are absent or that
    # it cannot decode with a bare OSError.
    kinds = (SafetensorError, EOFError, UnpicklingError, BadZipFile, struct.error)
    return (*kinds, JSONDecodeError, UnicodeDecodeError, OSError)


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, or its class."""
    # A KeyError says only the key, as a rule.
    if isinstance(error, KeyError) and " " not in str(error):
        return f"{error} is missing"
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return line.split(". ")[0].strip().rstrip(".:") or type(error).__name__
