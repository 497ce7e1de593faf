"""The sentence about a training that does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from kullback.errors import RunError
from kullback.runtime.memory import is_out_of_memory

__all__ = ["explained_out_of_memory"]


@contextmanager
def explained_out_of_memory(device: torch.device, kept: Callable[[], str]) -> Iterator[None]:
    """Raise `RunError` where the memory of the device is too small for what is done inside.

    `kept` says what of the run is on disk, in a clause.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise RunError(
            f"the memory of {device} is too small for a training step ({first}): train with a "
            "smaller batch (--batch), --accumulate K or --checkpoint-activations, which need "
            f"less; {kept()}"
        ) from None
