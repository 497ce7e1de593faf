"""This process's place among those of torchrun, known without torch."""

from __future__ import annotations

import os

from kullback.errors import InvalidValueError

__all__ = ["check_one_process", "is_rank_zero", "process_count"]


def is_rank_zero() -> bool:
    """Whether this process writes and prints: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


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
