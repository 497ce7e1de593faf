"""Files that are whole or not there: how results reach the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kullback.errors import InvalidValueError, RunError

__all__ = ["check_outputs", "remove_leftovers", "write_atomically"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str | Path] = ()) -> None:
    """Raise `InvalidValueError` where a file cannot be written as asked, before hours of work.

    `outputs` are files by the option that names them; one may be neither another nor an input.
    """
    read = {Path(name).resolve() for name in inputs}
    written: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise InvalidValueError(f"{option} is {path}, a folder: give the name of a file")
        place = path.resolve()
        if place in read:
            raise InvalidValueError(
                f"{option} is {path}, which is read, and would be overwritten: name another"
            )
        if place in written:
            raise InvalidValueError(
                f"{written[place]} and {option} are both {path}: give each a file of its own"
            )
        written[place] = option
        folder = next(parent for parent in place.parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidValueError(
                f"{option} is {path}: {folder} is not a folder that can be written to"
            )


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; `RunError` says why not.

    The bytes go to a file beside it, are flushed to the disk, and take the name in one step; what
    had the name before stays until then.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; what was there before is unharmed. "
            "Free some space or choose another folder, then run the command again"
        ) from error
    finally:  # after Ctrl-C too
        with suppress(OSError):
            beside.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed in the middle of `write_atomically` left in `folder`.

    Only for whoever has the folder alone: another process's file may still grow.
    """
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            leftover.unlink()
