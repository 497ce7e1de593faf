"""The lock of a run folder: one process at a time may write into it.

The lock is on the file ``.lock``, and ``.lock.pid`` contains the process that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kullback.errors import RunError
from kullback.runtime import locks
from kullback.runtime.files import remove_leftovers

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder, which is created where missing, for this process.

    Raises `RunError` naming the process that has locked it already, or saying why it cannot be
    used as a run folder.
    """

    def refusal(process: str) -> str:
        return (
            f"{folder} is in use by process {process}; wait for it, stop it, or choose another "
            "folder with -o"
        )

    with ExitStack() as held:
        try:
            held.enter_context(locks.made_folder(folder))
            held.enter_context(locks.locked(folder / ".lock", refusal, remove=True))
        except OSError as error:
            raise RunError(
                f"{folder} cannot be used as a run folder: {error.strerror}; free some space, or "
                "choose another folder with -o"
            ) from None
        remove_leftovers(folder)
        yield
