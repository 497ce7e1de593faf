"""The one sentence that a command says of bad input, after whatever it said of its progress."""

from __future__ import annotations

from collections.abc import Sequence

from kullback.cli import main

__all__ = ["exit_code", "the_error"]


def exit_code(arguments: Sequence[str]) -> int:
    """The code with which a command ends, whether the parser refuses it or the command."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def the_error(stderr: str) -> str:
    """The last line, which alone begins with the program's name."""
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("kullback: ")] == lines[-1:], stderr
    assert "Traceback" not in stderr, stderr
    return lines[-1]
