"""Files of a run folder: the model as a Hugging Face folder, and what a run can be resumed from.

::

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json   a Hugging Face folder
    training.json            data, hyperparameters and sizes   (kullback.training.description)
    metrics.jsonl            one line every few steps          (kullback.training.metrics)
    checkpoint.safetensors   the complete state after a step   (kullback.training.checkpoint)
    checkpoint.before.safetensors   the same, of the checkpoint before
    checkpoint-sharded/      both, of a sharded run     (kullback.training.sharded_checkpoint)
    tokens/                  the tokens of a text              (kullback.training.text_shards)
    .preparing               while tokens and tokenizer are written, before training.json
    .lock, .lock.pid         the process that writes           (kullback.training.lock)

Every file is written under a temporary name and renamed, so that no reader, crash or full disk
leaves a partial file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.files import replaced, write_atomically
from kullback.runtime.inputs import open_regular
from kullback.runtime.weights import tensor_bytes
from kullback.text.special_tokens import BOS_ID, EOS_ID
from kullback.text.tokenizer_file import read_tokenizer
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.interruption import resume_command

__all__ = [
    "SHARDED_CHECKPOINTS",
    "load_model",
    "load_tensors",
    "load_tokenizer",
    "load_weights",
    "read_json",
    "save_model",
    "save_streamed",
    "save_tensors",
    "without_remedy",
]


#: The folder of the checkpoints of a sharded run.
SHARDED_CHECKPOINTS = "checkpoint-sharded"


def without_remedy(error: RunError) -> str:
    """What is wrong with a file, without what to do."""
    return str(error).partition("; ")[0]


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged or truncated ({error}); restore it, or train the run again")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; `RunError` when it is missing or damaged."""
    try:
        return decode_json(read_bounded(path), dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        if (path.parent / "floor.json").is_file():
            raise RunError(
                f"{path.parent} is an exported source, not a model: train on it, and give the "
                f"folder of the model, with --source {path.parent} where that is elsewhere"
            ) from None
        raise RunError(
            f"{path.parent} is not a run folder: it has no {path.name}; "
            "give a folder that `kullback train` wrote"
        ) from None
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}): check its name and permissions"
        ) from None
    except ValueError as error:
        raise _damaged(path, error) from None


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``; `RunError` where it is missing or damaged."""
    try:
        return read_tokenizer(path)
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing, and token ids cannot be decoded without it; restore it, or train "
            "the run again"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    before_publishing: Callable[[], None] = lambda: None,
) -> None:
    """Write a safetensors file of float32 tensors atomically, one tensor at a time.

    `before_publishing` is called when the content is on the disk, before the file has its name.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with replaced(path) as file:
        _write_streamed(file, shapes, (tensors[name] for name in sorted(tensors)), metadata)
        file.flush()
        os.fsync(file.fileno())
        before_publishing()


def save_streamed(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor]
) -> None:
    """Write a safetensors file of float32 tensors, in the order of their names, one at a time.

    Only one tensor needs to be in memory.
    """
    with replaced(path) as file:
        _write_streamed(file, shapes, tensors, {"format": "pt"})


def _write_streamed(
    file: IO[bytes],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """The bytes that `safetensors.torch.save` returns, which makes two copies of all tensors."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(shapes):
        begin, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [begin, end]}
    content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little") + content)
    for tensor in tensors:
        file.write(tensor_bytes(tensor.float()))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; `RunError` if missing or truncated."""
    try:
        with open_regular(path):  # before the library, which would wait at a pipe
            pass
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run is incomplete; train it again") from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def save_model(
    folder: Path,
    model: GPT,
    tokenizer_json: str,
    tokenizer_config: str,
    special_ids: tuple[int | None, int | None] = (BOS_ID, EOS_ID),
    weights: Iterable[Tensor] | None = None,
) -> None:
    """Write `model` as a Hugging Face folder; the weights last, so that they imply the rest.

    `special_ids` are those of BOS and EOS, None where the tokenizer has none.  `weights` are those
    of the model in the order of their names, where they are not all in memory.
    """
    config = model.config.to_huggingface(*special_ids)
    write_atomically(folder / "config.json", _pretty(config))
    write_atomically(folder / "tokenizer.json", tokenizer_json.encode())
    write_atomically(folder / "tokenizer_config.json", tokenizer_config.encode())
    if weights is None:
        save_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})
    else:
        shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        save_streamed(folder / "model.safetensors", shapes, weights)


def load_model(folder: Path) -> GPT:
    """The model of a run folder; `RunError` where files are missing, truncated or do not match."""
    if not (folder / "model.safetensors").exists() and (folder / "training.json").exists():
        raise RunError(
            f"{folder} contains a run that is not finished: resume it ({resume_command(folder)})"
        )
    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise RunError(
            f"{folder} contains a model of type {config.get('model_type')!r}, not a mini-GPT; "
            "give a folder that `kullback train` wrote"
        )
    weights, _ = load_tensors(folder / "model.safetensors")
    try:
        sizes = GPTConfig.from_huggingface(config)
        _check_sizes(sizes, weights)
        model = GPT(sizes)
    except (KeyError, TypeError, InvalidValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(
            f"{folder / 'config.json'} does not describe a mini-GPT: {reason}; restore it, or give "
            "a folder that `kullback train` wrote"
        ) from None
    load_weights(model, weights, folder / "model.safetensors")
    return model


def load_weights(model: GPT, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights`, read from `path`, into `model`.

    Raises `RunError` naming the first whose name or shape differs, or that is not finite.
    """
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        shape = tuple(expected[name].shape) if name in expected else "no such weight"
        stored = tuple(weights[name].shape) if name in weights else "no such weight"
        if shape != stored:
            raise RunError(
                f"{path} belongs to another model: {name} is {stored} in it, and the "
                f"configuration asks for {shape}; restore the file that belongs here"
            )
        if not torch.isfinite(weights[name]).all():
            raise RunError(
                f"{path} is damaged: {name} contains NaN or infinity; restore it, or train the run "
                "again"
            )
    model.load_state_dict(dict(weights))


def _check_sizes(config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise `InvalidValueError` for sizes far beyond the weights, before they are allocated.

    (Where they differ by less, `load_weights` names the first weight that does not fit.)
    """
    stored = sum(weight.numel() for weight in weights.values())
    if config.parameters > 10 * stored + 1_000_000:
        raise InvalidValueError(
            f"it has {config.parameters:,} parameters ({config.layers:,} layers of width "
            f"{config.width:,}, a vocabulary of {config.vocabulary_size:,}), and the weights are "
            f"{stored:,} numbers"
        )


def _pretty(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
