"""Each error class of the hub's library is one sentence with the model's name and a remedy."""

from __future__ import annotations

import errno
import struct
from importlib import import_module
from pathlib import Path
from zipfile import BadZipFile

import pytest
import torch
import transformers.utils.hub
from huggingface_hub import constants
from huggingface_hub import errors as hub
from safetensors import SafetensorError

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models import from_transformers
from kullback.models._loading_errors import explained
from kullback.models.load import load_text_model
from kullback.models.locate import Location

NAME = "someone/model"
# The library of HTTP that this huggingface_hub uses, httpx or a successor.
http = import_module(hub.Response.__module__.partition(".")[0])


def answer(status: int) -> object:
    """An answer of the hub."""
    return http.Response(status, request=http.Request("GET", "https://huggingface.co/x"))


def refused(kind: type[hub.HfHubHTTPError], status: int) -> hub.HfHubHTTPError:
    """An error of the hub's library about an answer."""
    return kind("Many words.\nOn two lines.", response=answer(status))


def caused(error: Exception, cause: Exception) -> Exception:
    """`error` as raised from `cause`."""
    error.__cause__ = cause
    return error


def not_in_cache(cause: Exception | None = None) -> Exception:
    """What the hub's library raises where a file is neither in the cache nor to be had."""
    error = hub.LocalEntryNotFoundError("Please check your connection.")
    return error if cause is None else caused(error, cause)


ERRORS: dict[str, tuple[Exception, list[str]]] = {
    "gated": (refused(hub.GatedRepoError, 403), ["gated", "ask for access", "hf auth login"]),
    "not found": (refused(hub.RepositoryNotFoundError, 404), ["nor a model on", "check the name"]),
    "disabled": (refused(hub.DisabledRepoError, 403), ["disabled", "another model"]),
    "revision": (refused(hub.RevisionNotFoundError, 404), ["no main branch"]),
    "name": (hub.HFValidationError("Repo id must be ..."), ["nor a possible name", "OWNER/NAME"]),
    "offline": (hub.OfflineModeIsEnabled("Cannot reach."), ["HF_HUB_OFFLINE", "check the name"]),
    "unreachable": (not_in_cache(), ["cannot be reached", "connection"]),
    "connection": (http.ConnectError("[Errno -2]"), ["cannot be reached", "connection"]),
    "connection below": (not_in_cache(http.ConnectTimeout("slow")), ["cannot be reached"]),
    "socket": (ConnectionResetError("reset"), ["cannot be reached"]),
    "timeout": (TimeoutError("slow"), ["cannot be reached"]),
    "login": (refused(hub.HfHubHTTPError, 401), ["401", "hf auth login"]),
    "busy": (not_in_cache(refused(hub.HfHubHTTPError, 429)), ["too many requests", "later"]),
    "down": (not_in_cache(refused(hub.HfHubHTTPError, 503)), ["503", "later"]),
    "full": (OSError(errno.ENOSPC, "x", "/cache/f"), ["No space left", "/cache/f"]),
    "permission": (PermissionError(errno.EACCES, "x", "/c/f"), ["Permission denied", "/c/f"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_each_class_of_the_hub_is_a_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the wrapping of transformers, the sentence has the name and the remedy."""
    error, words = ERRORS[kind]

    def download(*arguments: object, **settings: object) -> str:
        raise error

    monkeypatch.setattr(from_transformers, "check_reachable", lambda location: None)
    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", download)
    with pytest.raises(InvalidValueError) as caught:
        load_text_model(NAME)
    message = str(caught.value)
    assert message.startswith(f"the model {NAME} ")
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE a model that is not in the cache is not looked for."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidValueError, match=r"someone/no-such-model.*unset HF_HUB_OFFLINE"):
        load_text_model("someone/no-such-model")


def message_of(error: Exception, part: str = "weights", path: Path | None = None) -> str:
    """What becomes of an error raised while a part is loaded."""
    with pytest.raises(InvalidValueError) as caught, explained(Location(NAME, path), part):
        raise error
    return str(caught.value)


def test_the_sentence_of_a_model_that_is_not_found() -> None:
    """The sentences of this family, in full, by one of them."""
    assert message_of(refused(hub.RepositoryNotFoundError, 404)) == (
        "the model someone/model is neither a folder nor a model on the Hugging Face hub: check "
        "the name; a private model needs `hf auth login`"
    )


def test_a_missing_file_on_the_hub() -> None:
    """A repository without a file that is needed is not called damaged."""
    message = message_of(refused(hub.RemoteEntryNotFoundError, 404))
    assert "lacks a file on the Hugging Face hub" in message
    assert "damaged" not in message


def test_a_local_folder_that_needs_the_hub(tmp_path: Path) -> None:
    """A folder whose files refer to the hub is not said to be no folder."""
    message = message_of(not_in_cache(), path=tmp_path)
    assert "needs a file of the Hugging Face hub" in message
    assert "neither a folder" not in message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_too_little_memory(error: Exception) -> None:
    """A model that does not fit into memory is not called damaged."""
    message = message_of(error)
    assert "does not fit into memory: choose 16 bits" in message
    assert "damaged" not in message
    assert "config.json" not in message


def test_a_missing_library() -> None:
    """An ImportError below another error names the library."""
    error = caused(ValueError("Couldn't instantiate."), ImportError("needs sentencepiece. Install"))
    with (
        pytest.raises(MissingExtraError, match=r"someone/model needs.*sentencepiece"),
        explained(Location(NAME, None), "tokenizer"),
    ):
        raise error


def test_an_error_that_was_handled_and_set_aside_is_not_looked_at() -> None:
    """`raise ... from None` ends the chain of causes."""
    error = ValueError("bad header")
    error.__context__, error.__suppress_context__ = ConnectionError("tried the hub first"), True
    assert "bad header" in message_of(error)
    error.__suppress_context__ = False
    assert "cannot be reached" in message_of(error)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("weights", "weights seem missing or damaged (Bad header)"),
        ("configuration", "configuration seems damaged (Bad header)"),
        ("tokenizer", "has no tokenizer that can be read (Bad header)"),
    ],
)
@pytest.mark.parametrize("kind", [SafetensorError, EOFError, BadZipFile, struct.error])
def test_only_some_classes_mean_damage(part: str, words: str, kind: type[Exception]) -> None:
    """The classes that readers raise for bytes that are not of their format."""
    assert words in message_of(kind("\nBad header. Try again.\nMore."), part)


@pytest.mark.parametrize("part", ["weights", "configuration"])
def test_other_errors_are_named_with_their_class(part: str) -> None:
    """An error of an unknown class says nothing about the file."""
    message = message_of(AttributeError("no attribute rope. Try again."), part)
    assert "AttributeError (no attribute rope)" in message
    assert part in message
    assert "damaged" not in message


def test_a_bare_key_error() -> None:
    """All that a KeyError says is the key."""
    assert "('added_tokens' is missing)" in message_of(KeyError("added_tokens"), "tokenizer")
