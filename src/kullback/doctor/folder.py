"""The folder of a diagnosis, with the data, the model and the output of the command.

::

    data/            the export that the command trains on
    out/             what it saves
    output.txt       what it prints
    unfinished.txt   while the diagnosis has no result; the next one replaces these four
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kullback.errors import InvalidValueError, KullbackError
from kullback.runtime.decoding import read_bounded
from kullback.runtime.files import write_atomically
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.temporary import temporary_folder

__all__ = ["DATA", "OUT", "OUTPUT", "kept_folder", "temporary_diagnosis"]

DATA, OUT, OUTPUT, UNFINISHED = "data", "out", "output.txt", "unfinished.txt"
SENTENCE = (
    "This diagnosis of kullback doctor has not ended: the next one in this folder replaces data, "
    "out and output.txt.\n"
)


@contextmanager
def kept_folder(folder: Path) -> Iterator[Path]:
    """A new folder, or that of a diagnosis that failed, which is replaced.

    Raises `InvalidValueError` where it has other content, `RunError` where another process writes
    into it, and where it cannot be written.
    """
    _check(folder)
    with locked_output(folder, make=True):
        _check(folder)
        _remove_failed(folder)
        write_atomically(folder / UNFINISHED, SENTENCE.encode())
        try:
            yield folder
        except BaseException as error:
            if not any((folder / name).exists() for name in (DATA, OUT, OUTPUT)):
                (folder / UNFINISHED).unlink(missing_ok=True)
            elif isinstance(error, KeyboardInterrupt):
                error.add_note(f"{folder} has what the command wrote, which will be replaced")
            raise
        (folder / UNFINISHED).unlink(missing_ok=True)


@contextmanager
def temporary_diagnosis() -> Iterator[Path]:
    """A temporary folder, removed at the end unless an error speaks of what is in it."""
    folder = Path(tempfile.mkdtemp(prefix="kullback-doctor-", dir=temporary_folder()))
    kept = False
    try:
        yield folder
    except KullbackError as error:
        kept = (folder / OUT).exists() or _has_content(folder / OUTPUT) or str(folder) in str(error)
        if not kept:
            raise
        raise type(error)(
            f"{error}; data, model and output of the command are kept in {folder}"
        ) from None
    finally:  # after Ctrl-C too
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _has_content(file: Path) -> bool:
    with suppress(OSError):
        return file.stat().st_size > 0
    return False


def _check(folder: Path) -> None:
    """Raise `InvalidValueError` where something is in the folder that no failed diagnosis left."""
    check_outputs(Output("-o", folder, "folder"))  # before it is looked into
    if not _has_failed(folder):
        check_outputs(Output("-o", folder, "new folder"))
        return
    ours = {DATA, OUT, OUTPUT, UNFINISHED}
    for path in sorted(folder.iterdir()):
        if path.name not in ours and not path.name.startswith(f".{folder.resolve().name}."):
            raise InvalidValueError(
                f"-o is {folder}, where a diagnosis failed, and {path.name} is not of it: move it "
                "away, or name a new folder"
            )


def _remove_failed(folder: Path) -> None:
    """Remove what a failed diagnosis left."""
    for name in (DATA, OUT, OUTPUT):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / UNFINISHED).unlink(missing_ok=True)


def _has_failed(folder: Path) -> bool:
    """Whether a diagnosis without a result is in the folder."""
    try:
        return read_bounded(folder / UNFINISHED) == SENTENCE.encode()
    except (OSError, ValueError):
        return False
