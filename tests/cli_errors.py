"""The one sentence that a command says of bad input, after whatever it said of its progress."""

from __future__ import annotations

__all__ = ["the_error"]


def the_error(stderr: str) -> str:
    """The last line, which alone begins with the program's name."""
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("kullback: ")] == lines[-1:], stderr
    assert "Traceback" not in stderr, stderr
    return lines[-1]
