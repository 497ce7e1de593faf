"""Kinds of operands (model, records, recording, logits file), and the protocol of recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from kullback.errors import InvalidValueError
from kullback.evaluation.options import Model, PassOptions, model_name
from kullback.evaluation.token_records import is_records, read_metadata
from kullback.models.hub import check_reachable
from kullback.models.llama_cpp_options import split_gguf
from kullback.models.locate import locate
from kullback.models.quantized import split_scheme
from kullback.predictions.llama_cpp_logits import is_llama_cpp_logits
from kullback.predictions.recording import read_header
from kullback.runtime.inputs import check_regular
from kullback.text.protocol import Protocol

__all__ = [
    "Kind",
    "check_distinct",
    "check_models_exist",
    "is_recorded",
    "kinds_of",
    "labels_of",
    "place_of",
    "protocol_of_files",
    "recorded_parts",
]

Kind: TypeAlias = Literal["model", "exact", "top-k", "records", "logits"]

# Names that end so are files, and no models of the hub.
FILE_SUFFIXES = (".gguf", ".kld", ".parquet", ".rec")


def kinds_of(operands: Sequence[Model]) -> list[Kind]:
    """The kind of each operand, by the file that its name is.

    Raises `InvalidValueError` where a file or a folder is missing or damaged, and where a logits
    file of llama.cpp is beside another recorded file, or is the candidate of a model.
    """
    paths = [Path(name) for name in operands if isinstance(name, str | Path)]
    for path in paths:
        check_regular(path, "the operand")
        if path.suffix in FILE_SUFFIXES and not path.exists():
            raise InvalidValueError(f"there is no file {path}")
        if ".gguf@" in path.name and not path.exists():
            file = Path(split_gguf(split_scheme(str(path))[0])[0])
            if file.suffix == ".gguf" and not file.expanduser().exists():
                raise InvalidValueError(f"there is no file {file}")
    kinds = [_kind(operand) for operand in operands]
    if "logits" in kinds:
        _check_logits(operands, kinds)
    return kinds


def check_models_exist(operands: Sequence[Model], kinds: Sequence[Kind]) -> None:
    """Raise `InvalidValueError` where a folder, or a model of the hub, is not there.

    Before any is loaded; not of .gguf files, whose headers take seconds.
    """
    for operand, kind in zip(operands, kinds, strict=True):
        if kind == "model" and isinstance(operand, str | Path) and ".gguf" not in str(operand):
            location = locate(split_scheme(str(operand))[0])
            if find_spec("huggingface_hub"):
                check_reachable(location)


def _check_logits(operands: Sequence[Model], kinds: Sequence[Kind]) -> None:
    for operand, kind in zip(operands, kinds, strict=True):
        if kind not in ("logits", "model"):
            raise InvalidValueError(
                "a logits file of llama.cpp is compared with another such file or a model, and "
                f"{model_name(operand)} is neither"
            )
    if kinds[0] != "logits":
        file = next(
            operand for operand, kind in zip(operands, kinds, strict=True) if kind == "logits"
        )
        raise InvalidValueError(
            f"{file} is a logits file of llama.cpp: its clipped probabilities may be 0, so as a "
            "candidate it leaves the KL unbounded; name it first, as the reference"
        )


def check_distinct(candidates: Sequence[Model]) -> None:
    """Raise `InvalidValueError` where two candidates have the same name."""
    names: set[str] = set()
    for candidate in candidates:
        is_named = isinstance(candidate, str | Path)
        name = str(Path(str(candidate))) if is_named else model_name(candidate)
        place = place_of(str(candidate)) if is_named else name
        if place in names:
            raise InvalidValueError(
                f"the candidate {name} is named twice: name each candidate once"
                + ("" if is_named else ", and give loaded models different names (name_or_path)")
            )
        names.add(place)


def place_of(operand: str) -> str:
    """A name that is the same for all paths to one model; what is not on the disk stays as it is.

    >>> place_of("owner/model@int8")
    'owner/model@int8'
    """
    end = len(operand)
    while end > 0:
        path = Path(operand[:end]).expanduser()
        if path.exists():
            return f"{path.resolve()}{operand[end:]}"
        end = operand.rfind("@", 0, end)
    return str(Path(operand))


def _is_logits(operand: Model) -> bool:
    return isinstance(operand, str | Path) and is_llama_cpp_logits(Path(operand))


def _kind(operand: Model) -> Kind:
    if not isinstance(operand, str | Path):
        return "model"
    path = Path(operand)
    if _is_logits(operand):
        return "logits"
    if is_records(path):
        return "records"
    return read_header(path).kind if is_recorded(path) else "model"


def is_recorded(path: Path) -> bool:
    """Whether it can only be a recording, perhaps damaged: of other files only GGUF is read."""
    return path.is_file() and path.suffix != ".gguf"


def recorded_parts(operand: Model, kind: Kind) -> Mapping[str, object]:
    """What the numbers in a file depend on; nothing for a model or a logits file."""
    if kind == "records":
        return read_metadata(Path(str(operand))).fingerprint.parts
    if kind in ("exact", "top-k"):
        return read_header(Path(str(operand))).metadata
    return {}


def labels_of(operands: Sequence[Model], kinds: Sequence[Kind]) -> list[str]:
    """What a result calls the operands, of which the first have these kinds.

    A recording is called as the model that it is of, without its folders, and so are the models
    beside it, where their names then differ.  Recordings of models of one name are told apart by
    their files.
    """
    labels = [model_name(operand) for operand in operands]
    recorded = {
        i: parts["model"]
        for i, (operand, kind) in enumerate(zip(operands, kinds, strict=False))
        if kind in ("exact", "top-k") and "model" in (parts := recorded_parts(operand, kind))
    }
    if not recorded:
        return labels
    others = {i: _without_folders(name) for i, name in enumerate(labels) if i not in recorded}
    if len(set(others.values())) == len(others):
        labels = [others.get(i, name) for i, name in enumerate(labels)]
    names = {i: _without_folders(str(model)) for i, model in recorded.items()}
    for i, name in names.items():
        choices = [name, f"{name} (recorded)"]
        if list(names.values()).count(name) > 1:  # models of one name in two folders, perhaps
            choices = [f"{name} ({Path(str(operands[i])).name})"]
        labels[i] = next((label for label in choices if label not in labels), labels[i])
    return labels


def _without_folders(name: str) -> str:
    """The last part of a path; a name of the hub, which has one slash and is no path here, whole.

    >>> _without_folders("/models/book@int8"), _without_folders("owner/book")
    ('book@int8', 'owner/book')
    """
    base = name.partition("@")[0]
    return Path(name).name if Path(base).exists() or base.count("/") > 1 else name


def protocol_of_files(
    operands: Sequence[Model], kinds: Sequence[Kind], options: PassOptions
) -> Protocol:
    """The protocol of the options, and where they leave it open that of the first recorded file.

    Raises `InvalidValueError` where an option differs from what was recorded, before any model is
    loaded, naming the options to give.
    """
    for operand, kind in zip(operands, kinds, strict=True):
        recorded = recorded_parts(operand, kind).get("protocol")
        if not isinstance(recorded, Mapping):
            continue
        known = {field.name: recorded.get(field.name) for field in fields(Protocol)}
        # Files of earlier versions do not say it.
        known["special_tokens"] = known["special_tokens"] or "text"
        given = {
            name: value
            for name, value in (
                ("preset", options.protocol), ("window", options.window),
                ("stride", options.stride), ("bos", options.bos), ("joined", options.joined),
                ("special_tokens", options.special_tokens),
            )
            if value is not None
        }  # fmt: skip
        if any(known[name] != value for name, value in given.items()):
            raise InvalidValueError(
                f"{operand} was recorded under another protocol: give {_flags(known)}, or leave "
                "these options out"
            )
        return Protocol(**known)  # type: ignore[arg-type]  # checked by Protocol itself
    return options.to_protocol()


def _flags(protocol: Mapping[str, object]) -> str:
    """The options of the command line that make a protocol.

    >>> _flags({"preset": "sliding", "window": 64, "stride": 32, "bos": "auto", "joined": False})
    '--protocol sliding --window 64 --stride 32 --bos auto --no-joined'
    """
    flags = [f"--protocol {protocol['preset']}"]
    flags += [
        f"--{name.replace('_', '-')} {protocol[name]}"
        for name in ("window", "stride", "bos", "special_tokens")
        if protocol.get(name)
    ]
    if protocol["joined"] is not None:
        flags.append("--joined" if protocol["joined"] else "--no-joined")
    return " ".join(flags)
