"""The description of a run: ``training.json``, from which a run can be resumed.

Its keys are ``data`` (what :func:`batches_of_run` builds the batches from), ``floor`` (the exact
entropy in nats/token, null on a text), ``config`` (`TrainingConfig`), ``model`` (`GPTConfig`) and
``torch`` and ``processor`` (the version and the vector instructions it began with).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import torch
from tokenizers import Tokenizer

from kullback.errors import RunError
from kullback.runtime.decoding import Hash
from kullback.runtime.files import write_atomically
from kullback.runtime.progress import Progress
from kullback.training.arithmetic import arithmetic_of_run
from kullback.training.batches import Batches
from kullback.training.config import TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.new_run import check_no_run
from kullback.training.run_folder import SHARDED_CHECKPOINTS, read_json
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.text_batches import TextBatches
from kullback.training.text_data import TextData, batches_of_shards, check_unchanged
from kullback.training.text_shards import NAMES, remove_tokens, shards_folder

__all__ = [
    "RunDescription",
    "batches_of_data",
    "batches_of_run",
    "check_is_new",
    "preparing",
    "read_description",
    "write_description",
]

T = TypeVar("T", TrainingConfig, GPTConfig)

# In a folder in which a run is prepared: what is written before training.json may be overwritten.
MARKER = ".preparing"
# The files of a run, except those that are written before training.json.
RUN_FILES = (
    "training.json",
    "checkpoint.safetensors",
    "checkpoint.before.safetensors",
    SHARDED_CHECKPOINTS,
    "config.json",
    "model.safetensors",
    "metrics.jsonl",
)


_Size = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
_Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _SourceSpec(msgspec.Struct):
    """What `source_from_spec` takes: a file, a name, or conjugation's verbs and held-out cells."""

    name: str | None = None
    grammar: str | None = None
    text: str | None = None
    order: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    unit: Literal["characters", "words"] | None = None
    verbs: list[str] | None = None
    holdout: list[tuple[str, str, str]] | None = None


class _SourceData(msgspec.Struct):
    """The data of a run on a source."""

    source: _SourceSpec
    sentences: _Size
    seed: _Seed
    fingerprint: Hash


class _TextData(msgspec.Struct):
    """The data of a run of version 0.1 on texts, which are read again."""

    text: Annotated[list[str], msgspec.Meta(min_length=1)]
    context: _Size
    windows: _Size
    seed: _Seed
    fingerprint: Hash


class _Steps(msgspec.Struct):
    """A configuration is complete only with its number of steps."""

    steps: int


class _Description(msgspec.Struct):
    """The JSON object of a ``training.json``."""

    data: dict[str, Any]
    config: dict[str, Any]
    model: dict[str, Any]
    floor: float | None
    torch: str = ""
    processor: str = ""

    def __post_init__(self) -> None:
        msgspec.convert(self.config, _Steps)
        msgspec.convert(self.data, _kind_of(self.data))


def _kind_of(data: Mapping[str, Any]) -> type[msgspec.Struct]:
    if "source" in data:
        return _SourceData
    return TextData if "shards" in data else _TextData


@dataclass(frozen=True)
class RunDescription:
    """The content of a ``training.json``."""

    path: Path
    data: Mapping[str, Any]
    floor: float | None
    config: TrainingConfig
    model: GPTConfig
    torch: str = ""
    """The version that the run began with; empty where that is unknown."""
    processor: str = ""
    """What `kullback.training.arithmetic.arithmetic_of_run` said where it began."""


def write_description(run: Path, batches: Batches, gpt: GPTConfig, config: TrainingConfig) -> None:
    """Begin a run in the folder `run`: write ``tokenizer.json``, then ``training.json``.

    From then on it can be resumed.  Raises `RunError` where the folder contains a run or a model.
    """
    check_is_new(run)
    description = {
        "data": dict(batches.spec),
        "floor": batches.floor,
        "config": asdict(config),
        "model": asdict(gpt),
        "torch": torch.__version__,
        "processor": arithmetic_of_run(config),
    }
    write_atomically(run / "tokenizer.json", batches.tokenizer.to_str(pretty=True).encode())
    content = json.dumps(description, indent=2, ensure_ascii=False).encode()
    write_atomically(run / "training.json", content)


def check_is_new(run: Path) -> None:
    """Raise `RunError` where training into `run` would overwrite something.

    Files that a run left which was killed while it was prepared may be overwritten.
    """
    check_no_run(run)
    existing = [name for name in RUN_FILES if (run / name).exists()]
    if not (run / MARKER).exists():
        tokens = shards_folder(run)
        files = [run / "tokenizer.json", *(tokens / name for name in NAMES)]
        existing += [str(path.relative_to(run)) for path in files if path.exists()]
    if existing:
        raise RunError(
            f"{run} already contains {' and '.join(existing)}, which training would overwrite; "
            "choose another folder with -o"
        )


@contextmanager
def preparing(run: Path) -> Iterator[None]:
    """Mark the folder of a run while what is written before ``training.json`` is written.

    Where the run does not begin, that is removed.
    """
    write_atomically(run / MARKER, b"")
    try:
        yield
    finally:
        if not (run / "training.json").exists():
            remove_tokens(run)
            (run / "tokenizer.json").unlink(missing_ok=True)
        (run / MARKER).unlink(missing_ok=True)


def read_description(run: Path) -> RunDescription:
    """The description of the run in the folder `run`.

    Raises `RunError` where there is no ``training.json``, or where it does not describe a run.
    """
    path = run / "training.json"
    if (run / MARKER).exists() and not path.exists():
        raise RunError(
            f"the run in {run} was stopped before its first step, or is being prepared now: there "
            "is nothing to resume; give its `kullback train` command again, without --resume"
        )
    content = read_json(path)
    try:
        checked = msgspec.convert(content, _Description)
        config, model = _built(TrainingConfig, checked.config), _built(GPTConfig, checked.model)
        began = checked.torch, checked.processor
        return RunDescription(path, content["data"], checked.floor, config, model, *began)
    except ValueError as error:
        raise _not_a_description(path, error) from None


def _built(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass of typed values; `ValueError` for other names, types and values."""
    names = {field.name for field in fields(kind)}
    unknown = sorted(values.keys() - names)
    if unknown:
        raise ValueError(f"{unknown[0]!r:.60} is unknown")
    for name, value in values.items():
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{name} must be below 2^63")
    return msgspec.convert(values, kind)


def batches_of_run(
    description: RunDescription, tokenizer: Tokenizer, progress: Progress | None = None
) -> Batches:
    """The batches of a run; `RunError` where its data has changed since it began.

    A text that is no longer there, and whose tokens are, is noted to `progress`.
    """
    return batches_of_data(description.path.parent, description.data, tokenizer, progress)


def batches_of_data(
    run: Path, spec: Mapping[str, Any], tokenizer: Tokenizer, progress: Progress | None = None
) -> Batches:
    """The batches of the data of a run in the folder `run`, as `batches_of_run`."""
    batches: Batches
    if "shards" in spec:
        data = msgspec.convert(spec, TextData)
        check_unchanged(run, data, progress or Progress())
        return batches_of_shards(run, data, tokenizer)
    try:
        if "source" in spec:
            from kullback.sources.catalogue import source_from_spec  # and SciPy

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
    except (KeyError, TypeError) as error:  # verbs or cells that conjugation does not have
        raise _not_a_description(run / "training.json", error) from None
    if not unchanged:
        raise RunError(
            "the data has changed since this run began (its fingerprint differs), so the run "
            "cannot be resumed exactly; restore the data, or train a new run"
        )
    return batches


def _not_a_description(path: Path, error: Exception) -> RunError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else error
    return RunError(f"{path} does not describe a run: {reason}; restore it, or train a new run")
