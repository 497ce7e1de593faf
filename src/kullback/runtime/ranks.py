"""This process's place among those of torchrun, known without torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kullback.errors import InvalidValueError

__all__ = ["check_one_process", "is_first_to_say", "is_rank_zero", "others_said", "process_count"]

SAID = "kullback-said-"


def is_rank_zero() -> bool:
    """Whether this process writes and prints: the only one, or the first of torchrun's."""
    return _rank() == "0"


def _rank() -> str:
    return os.environ.get("RANK", "0")


def is_first_to_say(sentence: str) -> bool:
    """Whether no other process that this torchrun started on this machine has said `sentence`.

    What is said is marked in the folder that torchrun makes for its processes; without torchrun
    every process is the first.
    """
    folder = _shared_folder()
    if folder is None:
        return True
    mark = folder / f"{SAID}{hashlib.sha256(sentence.encode()).hexdigest()[:16]}"
    try:
        with mark.open("x") as file:
            file.write(_rank())
    except FileExistsError:
        return mark.read_text() == _rank()
    except OSError:  # a full disk
        return True
    return True


def others_said() -> bool:
    """Whether another process of this torchrun on this machine has said what is wrong.

    For a process that has said nothing itself.
    """
    folder = _shared_folder()
    return folder is not None and any(folder.glob(f"{SAID}*"))


def _shared_folder() -> Path | None:
    """The folder of all processes that this torchrun has started here, and not before a restart."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # of this process, in a folder of its own
    if not file or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    folder = Path(file).parent.parent
    return folder if folder.is_dir() else None


def check_one_process(what: str) -> None:
    """Raise `InvalidValueError` where torchrun starts several processes: `what` is done by one."""
    if process_count("WORLD_SIZE") > 1:
        raise InvalidValueError(
            f"WORLD_SIZE is above 1: {what} by one process; start it without torchrun"
        )


def process_count(name: str, default: int = 1, least: int = 1) -> int:
    """A number of processes in the environment, as torchrun sets it.

    Raises `InvalidValueError` for what torchrun never sets.
    """
    value = os.environ.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and int(value) >= least):
        raise InvalidValueError(
            f"the environment variable {name} is {value!r}: it must be a number of processes, as "
            "torchrun sets it; unset it, or start the program with torchrun"
        )
    return int(value)
