"""A run folder: what a training run leaves on disk, and how it stays whole.

::

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json   a Hugging Face folder
    training.json       what was trained on what, and how: enough to resume
    metrics.jsonl       one line every few steps
    checkpoint.safetensors   weights, optimiser state and step: what resuming needs

Every file is written beside its final name and moved there in one step, so a reader, a crash or a
full disk never meets half a file.  One process at a time may write: it holds a lock on ``.lock``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import remove_leftovers, write_atomically
from kullback.training.gpt import GPT, GPTConfig

__all__ = [
    "load_model",
    "load_tensors",
    "load_tokenizer",
    "locked",
    "read_json",
    "save_model",
    "save_tensors",
]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; `RunError` when it is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path.parent} is not a run folder: it has no {path.name}; "
            "give a folder that `kullback train` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is damaged or truncated ({error}); restore it, or train the run again"
        ) from None
    if not isinstance(data, dict):
        raise RunError(
            f"{path} is damaged: it holds a {type(data).__name__}, not a JSON object; restore it, "
            "or train the run again"
        )
    return data


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``; `RunError` where it is missing or damaged."""
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: tokens mean nothing without it; restore it, or train the run again"
        ) from None
    except Exception as error:  # tokenizers raises nothing more specific
        raise RunError(
            f"{path} is damaged or truncated ({error}); restore it, or train the run again"
        ) from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata=dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; `RunError` if missing or truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run is not complete; train it again") from None
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path} is damaged or truncated ({error}); restore it, or train the run again"
        ) from None


def save_model(folder: Path, model: GPT, tokenizer_json: str, tokenizer_config: str) -> None:
    """Write `model` as a Hugging Face folder; the weights last, so that they imply the rest."""
    config = model.config.to_huggingface(bos_token_id=0, eos_token_id=1)
    write_atomically(folder / "config.json", _pretty(config))
    write_atomically(folder / "tokenizer.json", tokenizer_json.encode())
    write_atomically(folder / "tokenizer_config.json", tokenizer_config.encode())
    save_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})


def load_model(folder: Path) -> GPT:
    """The model of a run folder; `RunError` where files are missing, cut short or do not fit."""
    if not (folder / "model.safetensors").exists() and (folder / "training.json").exists():
        raise RunError(
            f"{folder} holds a run that is not finished: go on with it "
            f"(kullback train --resume {shlex.quote(str(folder))})"
        )
    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise RunError(
            f"{folder} holds a model of type {config.get('model_type')!r}, not one of ours; "
            "give a folder that `kullback train` wrote"
        )
    try:
        model = GPT(GPTConfig.from_huggingface(config))
    except (KeyError, TypeError, InvalidValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(
            f"{folder / 'config.json'} does not describe a model of ours: {reason}; restore it, or "
            "give a folder that `kullback train` wrote"
        ) from None
    weights, _ = load_tensors(folder / "model.safetensors")
    restore(model, weights, folder / "model.safetensors")
    return model


def restore(model: GPT, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put `weights` into `model`; `RunError` naming the first one that does not fit."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        ours = tuple(expected[name].shape) if name in expected else "no such weight"
        theirs = tuple(weights[name].shape) if name in weights else "no such weight"
        if ours != theirs:
            raise RunError(
                f"{path} belongs to another model: {name} is {theirs} there, and the "
                f"configuration asks for {ours}; put the file back that belongs here"
            )
    model.load_state_dict(dict(weights))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; `RunError` naming the process that has it already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except OSError as error:
        raise _unusable(folder, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise RunError(
                f"{folder} is in use by process {holder}; wait for it, stop it, or choose "
                "another folder with -o"
            ) from None
        except OSError as error:  # a file system without locks
            raise _unusable(folder, error) from None
        try:
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        except OSError as error:
            raise _unusable(folder, error) from None
        remove_leftovers(folder)
        yield


def _unusable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} cannot be used as a run folder: {error.strerror}; free some space, or choose "
        "another folder with -o"
    )


def _pretty(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
