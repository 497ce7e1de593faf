"""Imports of large libraries without the garbage collections that they set off.

A library makes a hundred thousand objects while it is imported, all of which stay, and Python looks
through them for garbage again and again: a tenth of the time of `import torch`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kullback.runtime.scopes import shared_scope

__all__ = ["without_collections"]


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is collected inside; for imports, which make none.

    >>> with without_collections():
    ...     gc.isenabled()
    False
    """
    with shared_scope("garbage collection", _disable):
        yield


def _disable() -> Callable[[], None]:
    if not gc.isenabled():
        return lambda: None
    gc.disable()
    return gc.enable
