"""Atomic writing of files, and checks of output paths before long work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kullback.errors import InvalidValueError, RunError

__all__ = ["check_outputs", "remove_leftovers", "write_atomically"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str | Path] = ()) -> None:
    """Raise `InvalidValueError` where an output cannot be written, before hours of work.

    `outputs` are files by the option that names them; none may be another one or an input.
    """
    read = {Path(name).resolve() for name in inputs}
    written: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise InvalidValueError(f"{option} is {path}, a folder: give the name of a file")
        absolute = path.resolve()
        if absolute in read:
            raise InvalidValueError(
                f"{option} is {path}, an input, which would be overwritten: name another file"
            )
        if absolute in written:
            raise InvalidValueError(
                f"{written[absolute]} and {option} are both {path}: name two different files"
            )
        written[absolute] = option
        folder = next(parent for parent in absolute.parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidValueError(f"{option} is {path}: {folder} is not a writable folder")


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` completely or not at all; `RunError` says why not.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and get the name
    in one step; until then an earlier file of that name stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; an existing file is unchanged. "
            "Free some space or choose another folder, then run the command again"
        ) from error
    finally:  # after Ctrl-C too
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes, which `write_atomically` left in `folder`.

    Only for a caller that has locked the folder: another process may still write its file.
    """
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            leftover.unlink()
