"""Output of commands: results to standard output, progress and errors to standard error.

Every line goes through `print_line`, `print_lines`, `print_error`, `print_document` or a
`VisibleConsole`: names, texts, tokens and messages of libraries are foreign, and a terminal must
execute nothing of them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kullback.cli.streams import StandardOutputError
from kullback.results.base import to_builtins
from kullback.runtime.escaping import escaped_json, visible, visible_lines
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Note
from kullback.runtime.ranks import is_first_to_say, is_rank_zero

if TYPE_CHECKING:
    from kullback.report.terminal.console import VisibleConsole
    from kullback.report.terminal.progress import TerminalProgress
    from kullback.results.base import Result

__all__ = [
    "print_document",
    "print_error",
    "print_json",
    "print_line",
    "print_lines",
    "print_result",
    "progress_console",
    "reserved",
    "result_console",
    "terminal_progress",
    "visible_warnings",
]

BEGAN = time.monotonic()
# At each end of an error; a path has at most 4,096.
MOST_CHARACTERS = 3_000


def print_line(text: str) -> None:
    """One line on standard output: a name that contains a line end stays in it."""
    print(visible(text))


def print_lines(text: str) -> None:
    """Lines on standard output."""
    print(visible_lines(text))


def print_error(sentence: str, more: str = "") -> None:
    """One line on standard error, which begins with the program's name.

    Where several processes of torchrun say the same sentence, one does, and what it knows `more`.
    """
    if is_first_to_say(sentence):
        print(f"kullback: {_bounded(visible(sentence + more))}", file=sys.stderr)


def _bounded(sentence: str) -> str:
    """A sentence without its middle where a name in it has thousands of characters."""
    if len(sentence) <= 2 * MOST_CHARACTERS:
        return sentence
    return f"{sentence[:MOST_CHARACTERS]} … {sentence[-MOST_CHARACTERS:]}"


def print_document(document: str) -> None:
    """A JSON document on standard output."""
    print(escaped_json(document))


@contextmanager
def visible_warnings() -> Iterator[None]:
    """Show what a warning contains instead of sending it to the terminal; a note is one line."""
    original = warnings.formatwarning

    def visible_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, Note):
            return f"note: {visible(str(message))}\n"
        return visible_lines(original(message, category, filename, lineno, line))

    warnings.formatwarning = visible_warning
    try:
        yield
    finally:
        warnings.formatwarning = original


def progress_console() -> VisibleConsole:
    """For progress: standard error."""
    from kullback.report.terminal.console import VisibleConsole

    return VisibleConsole(stderr=True)


def terminal_progress(timed: bool = False) -> TerminalProgress:
    """Progress on standard error, `timed` with the seconds of all stages since the program began.

    None for the non-zero ranks of torchrun.
    """
    from kullback.report.terminal.progress import TerminalProgress

    console = progress_console() if is_rank_zero() else None
    return TerminalProgress(console, BEGAN if timed else None)


def result_console() -> VisibleConsole:
    """For tables: standard output, where a pipe gets a fixed width."""
    from kullback.report.terminal.console import VisibleConsole

    # In a file or a pipe a table keeps its width, whatever the terminal's.
    return VisibleConsole() if sys.stdout.isatty() else VisibleConsole(width=120)


def print_json(data: object) -> None:
    """Strict JSON; infinities and NaN are the strings "Infinity", "-Infinity" and "NaN"."""
    print_document(json.dumps(to_builtins(data), ensure_ascii=False, indent=1, allow_nan=False))


def print_result(
    result: Result,
    as_json: bool,
    report: Path | None = None,
    verbose: bool = False,
    force: bool = False,
) -> None:
    """The result on standard output, then its HTML report: whatever may happen to that.

    Where standard output cannot be written, the result goes to standard error, unless its reader
    has closed it, and the report is written before the error is raised.  The non-zero ranks of
    torchrun print nothing.
    """
    from kullback import report as reports
    from kullback.results.evaluation import NonZeroRank

    if isinstance(result, NonZeroRank):
        return
    failure: Exception | None = None
    try:
        if as_json:
            print_document(result.to_json())
        else:
            result_console().print(reports.summary(result, verbose=verbose))
        sys.stdout.flush()
    except BrokenPipeError as error:
        failure = error
    except StandardOutputError as error:
        failure = error
        text = escaped_json(result.to_json()) if as_json else visible_lines(str(result))
        print(text, file=sys.stderr)
    if report is not None:
        reports.save_html(result, report, force)
    if failure is not None:
        raise failure
    if report is not None and not as_json:
        print_line(f"written: {report}")


@contextmanager
def reserved(
    *outputs: Output, inputs: Sequence[str | Path] = (), force: bool = False
) -> Iterator[None]:
    """Check the outputs, then hold the lock of the first of them, in rank 0 of torchrun.

    Raises as `check_outputs` and `locked_output` do.
    """
    check_outputs(*outputs, inputs=inputs, force=force)
    path = outputs[0].path
    with locked_output(Path(path) if path is not None and is_rank_zero() else None):
        yield
