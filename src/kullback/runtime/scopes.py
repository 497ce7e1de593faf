"""Scopes that several threads share: a change that holds while at least one of them is inside."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

__all__ = ["is_held", "shared_scope"]


@dataclass
class _Scope:
    undo: Callable[[], None]
    entered: int = 0


_lock = Lock()
_scopes: dict[Hashable, _Scope] = {}


@contextmanager
def shared_scope(key: Hashable, apply: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Hold the change `key`: `apply` makes it and returns the function that undoes it.

    The first thread that enters makes the change, the last one that leaves undoes it.

    >>> log = []
    >>> def apply():
    ...     log.append("made")
    ...     return lambda: log.append("undone")
    >>> with shared_scope("example", apply), shared_scope("example", apply):
    ...     log
    ['made']
    >>> log
    ['made', 'undone']
    """
    with _lock:
        scope = _scopes.get(key)
        if scope is None:
            scope = _scopes[key] = _Scope(apply())
        scope.entered += 1
    try:
        yield
    finally:
        with _lock:
            scope.entered -= 1
            if not scope.entered:
                del _scopes[key]
                scope.undo()


def is_held(key: Hashable) -> bool:
    """Whether any thread holds the change `key`."""
    with _lock:
        return key in _scopes
