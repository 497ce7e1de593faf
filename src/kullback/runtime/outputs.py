"""The decision whether a path may be written, before anything is read or computed.

`check_outputs` refuses, for every command and every option that writes:

- an empty name, ``-``, and what is under ``/dev``, ``/proc`` or ``/sys``;
- a device, FIFO or socket, a folder for a file and a file for a folder;
- an input, or a file that a folder of the inputs contains or links to, under whatever name: files
  are compared by device and inode;
- whatever is inside the folder of a model, of a run or of a text that is read;
- an existing file of another kind, unless it is forced: a report replaces a report of kullback, a
  recording a recording, and an empty file may be replaced by anything;
- a folder that is not empty, for what needs a new one;
- names that are too long, and folders and files that are read-only.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from kullback.errors import InvalidValueError
from kullback.runtime.contents import NAMES, FileKind, is_kind
from kullback.runtime.files import TEMPORARY_BYTES

__all__ = ["Output", "OutputKind", "check_outputs"]

OutputKind: TypeAlias = FileKind | Literal["new folder", "folder"]

# Where a path means a device, a stream or the state of the system, whatever is there now.
_SYSTEM = ("/dev", "/proc", "/sys")
_SHARED_MEMORY = "/dev/shm"
_SPECIAL = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
}
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


@dataclass(frozen=True)
class Output:
    """A path that will be written; one of None is none."""

    option: str
    """What names it: ``--report``, or the keyword of a function."""
    path: str | Path | None
    kind: OutputKind


@dataclass
class _Inputs:
    """What is read, by device and inode."""

    files: dict[tuple[int, int], Path] = field(default_factory=dict)
    folders: dict[tuple[int, int], Path] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str | Path]) -> _Inputs:
        inputs = cls()
        for name in names:
            path = _existing(name)
            state = None if path is None else _state(path)
            if path is None or state is None:
                continue
            kind = inputs.folders if stat.S_ISDIR(state.st_mode) else inputs.files
            kind[_identity(state)] = path
        return inputs

    def file(self, state: os.stat_result) -> Path | None:
        """The input that is the file of this state, among the files and in the folders."""
        if _identity(state) in self.files:
            return self.files[_identity(state)]
        for folder in self.folders.values():
            for file in _files_in(folder):
                other = _state(file)
                if other is not None and _identity(other) == _identity(state):
                    return file
        return None


def check_outputs(*outputs: Output, inputs: Sequence[str | Path] = (), force: bool = False) -> None:
    """Raise `InvalidValueError` where an output may not or cannot be written.

    `inputs` are the names of models, texts and other files that are read; names that are no paths
    (of the hub, of a source) are passed over, and a quantisation after "@" is left out.  `force`
    permits the replacement of a file of another kind, and nothing else.
    """
    read = _Inputs.of(inputs)
    written: dict[object, str] = {}
    for output in outputs:
        if output.path is None:
            continue
        said = f"{output.option} is {output.path}"
        target, state = _target(output, said)
        key = target if state is None else _identity(state)
        if key in written:
            raise InvalidValueError(
                f"{written[key]} and {output.option} are both {output.path}: name two different "
                "files"
            )
        written[key] = output.option
        _check_input(output, state, read, said)
        _check_surroundings(target, read, output, said)
        if output.kind in ("folder", "new folder"):
            _check_folder(output, target, state, said)
        elif state is not None:
            _check_file(output, target, state, force, said)
        _check_name(target, state, output, said)


def _target(output: Output, said: str) -> tuple[Path, os.stat_result | None]:
    """Where the path leads, and the state of what is there."""
    name = str(output.path)
    thing = "folder" if output.kind in ("folder", "new folder") else "file"
    if not name:
        raise InvalidValueError(f"{output.option} is empty: give the name of a {thing}")
    if name == "-":
        raise InvalidValueError(
            f"{said}: it is not written to standard output; give the name of a {thing} (--json "
            "prints the results)"
        )
    try:
        target = Path(os.path.realpath(name))
        state = _state(target, strict=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidValueError(f"{said}: {reason}; choose another {thing}") from None
    for path in (os.path.abspath(name), str(target)):
        if path.startswith(tuple(f"{root}/" for root in _SYSTEM)) and not path.startswith(
            f"{_SHARED_MEMORY}/"
        ):
            raise InvalidValueError(
                f"{said}, which is no place for a {thing}: devices, streams and the state of the "
                f"system are there; choose another {thing}"
            )
    special = None if state is None else _SPECIAL.get(stat.S_IFMT(state.st_mode))
    if special is not None:
        raise InvalidValueError(f"{said}, {special}: give the name of a {thing}")
    return target, state


def _check_folder(output: Output, target: Path, state: os.stat_result | None, said: str) -> None:
    if state is None:
        return
    if not stat.S_ISDIR(state.st_mode):
        raise InvalidValueError(f"{said}, a file: give the name of a folder")
    if output.kind == "new folder":
        of_killed_runs = re.compile(rf"\.{re.escape(target.name)}\.(lock|lock\.pid|\w+\.part)")
        try:
            there = sorted(os.listdir(target))
        except OSError as error:
            raise InvalidValueError(f"{said}: {error.strerror}; name a new folder") from None
        kept = [name for name in there if not of_killed_runs.fullmatch(name)]
        if kept:
            raise InvalidValueError(
                f"{said}, a folder that exists already and contains {kept[0]}: nothing in it is "
                "overwritten; name a new or empty folder"
            )


def _check_input(output: Output, state: os.stat_result | None, read: _Inputs, said: str) -> None:
    if state is None or not stat.S_ISREG(state.st_mode):
        return
    used = read.file(state)
    if used is not None:
        same = "an input" if str(used) == str(output.path) else f"the input {used}"
        raise InvalidValueError(f"{said}, {same}, which would be overwritten: name another file")


def _check_file(output: Output, path: Path, state: os.stat_result, force: bool, said: str) -> None:
    """The checks of an existing file, which would be replaced."""
    if stat.S_ISDIR(state.st_mode):
        raise InvalidValueError(f"{said}, a folder: give the name of a file")
    if not os.access(path, os.W_OK):
        raise InvalidValueError(
            f"{said}, which is read-only: name another file, or make it writable"
        )
    assert output.kind in NAMES
    if state.st_size and not force and not is_kind(path, output.kind):
        raise InvalidValueError(
            f"{said}, an existing file that is not {NAMES[output.kind]}: it would be lost; name "
            "another file, or add --force (in Python: force=True)"
        )


def _check_surroundings(target: Path, read: _Inputs, output: Output, said: str) -> None:
    """The checks of the folders that the target is in."""
    is_folder = output.kind in ("folder", "new folder")
    for parent in (target, *target.parents) if is_folder else target.parents:
        parent_state = _state(parent)
        if parent_state is None:
            continue
        if _identity(parent_state) in read.folders:
            raise InvalidValueError(
                f"{said}, inside {read.folders[_identity(parent_state)]}, which is read: name a "
                "place outside it"
            )
        if parent != target and _is_model_folder(parent):
            raise InvalidValueError(
                f"{said}, inside the folder of a model, {parent}: name a place outside it"
            )


def _check_name(target: Path, state: os.stat_result | None, output: Output, said: str) -> None:
    """The checks of the name, of folders that are missing and of the first one that is there."""
    missing = target if state is None else target.parent
    names = [target.name]
    while _state(missing) is None:
        names.append(missing.name)
        missing = missing.parent
    if not missing.is_dir() or not os.access(missing, os.W_OK | os.X_OK):
        raise InvalidValueError(f"{said}: {missing} is not a writable folder; choose another place")
    longest = os.pathconf(missing, "PC_NAME_MAX") - TEMPORARY_BYTES
    for name in names:
        if len(os.fsencode(name)) > longest:
            raise InvalidValueError(
                f"{output.option} has a name of {len(os.fsencode(name))} bytes ({name[:20]}...): "
                f"it may have {longest} here; choose a shorter one"
            )


def _is_model_folder(folder: Path) -> bool:
    """Whether it is a run, a model folder, or a model in the cache of the hub."""
    try:
        if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
            return True
        if (folder / "training.json").is_file() and (folder / "tokenizer.json").is_file():
            return True
        if not (folder / "config.json").is_file():
            return False
        return any(name.endswith(_WEIGHTS) for name in _names(folder))
    except OSError:  # a folder that may be entered and not be read
        return False


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def _files_in(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders below; links are followed, each folder once."""
    walked: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        state = _state(Path(parent))
        if state is None or _identity(state) in walked:
            folders.clear()
            continue
        walked.add(_identity(state))
        yield from (Path(parent, file) for file in files)


def _existing(name: str | Path) -> Path | None:
    """The path that is meant, without what follows an @; None where nothing is there.

    A backend or options and a quantisation may follow: ``m.gguf@transformers@int8``.
    """
    text = str(name)
    while text:
        path = Path(text).expanduser()
        if text != "-" and _state(path) is not None:
            return path
        text = text.rpartition("@")[0]
    return None


def _state(path: Path, strict: bool = False) -> os.stat_result | None:
    """Of what the path leads to; None where there is nothing, or it cannot be seen."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        if strict:
            raise
        return None


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
