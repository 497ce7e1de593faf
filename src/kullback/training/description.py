"""The description of a run: ``training.json``, from which a run can be resumed.

Its keys are ``data`` (what :func:`batches_of_run` builds the batches from), ``floor`` (the exact
entropy in nats/token, null on a text), ``config`` (`TrainingConfig`), ``model`` (`GPTConfig`) and
``torch`` (the version that trained).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import write_atomically
from kullback.sources.catalogue import source_from_spec
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.gpt import GPTConfig
from kullback.training.interruption import resume_command
from kullback.training.run_folder import read_json
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.text_batches import TextBatches

__all__ = [
    "RunDescription",
    "batches_of_run",
    "check_no_run",
    "read_description",
    "write_description",
]

# The files of a run, except tokenizer.json, which is written first.
RUN_FILES = (
    "training.json",
    "checkpoint.safetensors",
    "config.json",
    "model.safetensors",
    "metrics.jsonl",
)


@dataclass(frozen=True)
class RunDescription:
    """The content of a ``training.json``."""

    path: Path
    data: Mapping[str, Any]
    floor: float | None
    config: TrainingConfig
    model: GPTConfig


def write_description(run: Path, batches: Batches, gpt: GPTConfig, config: TrainingConfig) -> None:
    """Begin a run in the folder `run`: write ``tokenizer.json``, then ``training.json``.

    From then on it can be resumed.  Raises `RunError` where the folder contains a run or a model.
    """
    tokenizer = batches.tokenizer.to_str(pretty=True).encode()
    _check_is_new(run, tokenizer)
    description = {
        "data": dict(batches.spec),
        "floor": batches.floor,
        "config": asdict(config),
        "model": asdict(gpt),
        "torch": torch.__version__,
    }
    write_atomically(run / "tokenizer.json", tokenizer)
    content = json.dumps(description, indent=2, ensure_ascii=False).encode()
    write_atomically(run / "training.json", content)


def check_no_run(run: Path) -> None:
    """Raise `RunError` where the folder contains a run."""
    if (run / "training.json").exists():
        raise RunError(
            f"{run} already contains a run; resume it ({resume_command(run)}), or choose another "
            "folder"
        )


def _check_is_new(run: Path, tokenizer: bytes) -> None:
    """Raise `RunError` where training into `run` would overwrite something."""
    check_no_run(run)
    existing = [name for name in RUN_FILES if (run / name).exists()]
    # A run that was killed before its training.json was written leaves an equal tokenizer.json.
    path = run / "tokenizer.json"
    if path.exists() and path.read_bytes() != tokenizer:
        existing.append("tokenizer.json")
    if existing:
        raise RunError(
            f"{run} already contains {' and '.join(existing)}, which training would overwrite; "
            "choose another folder with -o"
        )


def read_description(run: Path) -> RunDescription:
    """The description of the run in the folder `run`.

    Raises `RunError` where there is no ``training.json``, or where it does not describe a run.
    """
    path = run / "training.json"
    content = read_json(path)
    try:
        if "steps" not in content["config"]:
            raise KeyError("steps")
        config, model = TrainingConfig(**content["config"]), GPTConfig(**content["model"])
        return RunDescription(path, content["data"], content["floor"], config, model)
    except (KeyError, TypeError, InvalidValueError) as error:
        raise _not_a_description(path, error) from None


def batches_of_run(description: RunDescription, tokenizer: Tokenizer) -> Batches:
    """The batches of a run; `RunError` where its data has changed since it began."""
    spec = description.data
    batches: Batches
    try:
        if "source" in spec:
            source = source_from_spec(spec["source"])
            batches = SentenceBatches(source, spec["sentences"], spec["seed"])
        else:
            batches = TextBatches.read(
                [Path(path) for path in spec["text"]],
                context=spec["context"],
                windows=spec["windows"],
                seed=spec["seed"],
                tokenizer=tokenizer,
            )
        unchanged = batches.spec["fingerprint"] == spec["fingerprint"]
    except (KeyError, TypeError) as error:
        raise _not_a_description(description.path, error) from None
    if not unchanged:
        raise RunError(
            "the data has changed since this run began (its fingerprint differs), so the run "
            "cannot be resumed exactly; restore the data, or train a new run"
        )
    return batches


def _not_a_description(path: Path, error: Exception) -> RunError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else error
    return RunError(f"{path} does not describe a run: {reason}; restore it, or train a new run")
