"""Where results and progress go: results to standard output, progress to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

__all__ = ["loading", "print_json", "progress_console", "result_console"]

# What `json.dumps` takes; typed dictionaries are mappings to objects.
Data: TypeAlias = "Mapping[str, object] | Sequence[object] | str | float | bool | None"


def progress_console() -> Console:
    """For progress: standard error."""
    from rich.console import Console

    return Console(stderr=True)


def loading(name: str) -> Status:
    """While a model loads: a context that says so in a terminal."""
    from rich.markup import escape

    return progress_console().status(f"loading {escape(name)}")


def result_console() -> Console:
    """For tables: standard output, where a pipe gets a fixed width."""
    from rich.console import Console

    # In a file or a pipe a table keeps its width, whatever the terminal's.
    return Console() if sys.stdout.isatty() else Console(width=120)


def print_json(data: Data) -> None:
    """Strict JSON: infinities and NaN, which it has no words for, become null."""
    print(json.dumps(_finite(data), ensure_ascii=False, indent=1, allow_nan=False))


def _finite(data: object) -> object:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
