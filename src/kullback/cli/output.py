"""Output of commands: results to standard output, progress to standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.results.base import to_builtins

if TYPE_CHECKING:
    from rich.console import Console

    from kullback.report.terminal.progress import TerminalProgress
    from kullback.results.base import Result

__all__ = ["print_json", "print_result", "progress_console", "result_console", "terminal_progress"]


def progress_console() -> Console:
    """For progress: standard error."""
    from rich.console import Console

    return Console(stderr=True)


def terminal_progress() -> TerminalProgress:
    """Progress on standard error; none for the non-zero ranks of torchrun."""
    import os

    from kullback.report.terminal.progress import TerminalProgress

    is_rank_zero = os.environ.get("RANK", "0") == "0"
    return TerminalProgress(progress_console() if is_rank_zero else None)


def result_console() -> Console:
    """For tables: standard output, where a pipe gets a fixed width."""
    from rich.console import Console

    # In a file or a pipe a table keeps its width, whatever the terminal's.
    return Console() if sys.stdout.isatty() else Console(width=120)


def print_json(data: object) -> None:
    """Strict JSON; infinities and NaN are the strings "Infinity", "-Infinity" and "NaN"."""
    print(json.dumps(to_builtins(data), ensure_ascii=False, indent=1, allow_nan=False))


def print_result(
    result: Result, as_json: bool, report: Path | None = None, verbose: bool = False
) -> None:
    """The result on standard output, then its HTML report: whatever may happen to that.

    The non-zero ranks of torchrun print nothing.
    """
    from kullback import report as reports
    from kullback.results.evaluation import NonZeroRank

    if isinstance(result, NonZeroRank):
        return
    if as_json:
        print(result.to_json())
    else:
        result_console().print(reports.summary(result, verbose=verbose))
    if report is None:
        return
    reports.save_html(result, report)
    if not as_json:
        print(f"written: {report}")
