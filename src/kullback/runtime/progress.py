"""The interface through which long work reports its steps."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Note", "Progress", "Steps", "Tokens", "never_back"]

#: Called with the tokens done, and all of them.
Tokens: TypeAlias = Callable[[int, int], None]
#: Called with the steps done, and all of them: weights that are loaded, layers that are quantised.
Steps: TypeAlias = Callable[[int, int], None]


def never_back(progress: Tokens) -> Tokens:
    """`progress` without counts below one before: those of several threads, of which one is ahead.

    >>> told = never_back(lambda done, total: print(done, total))
    >>> for done in (2, 5, 4, 6):
    ...     told(done, 9)
    2 9
    5 9
    6 9
    """
    most, lock = 0, threading.Lock()

    def told(done: int, total: int) -> None:
        nonlocal most
        with lock:
            if done < most:
                return
            most = done
            progress(done, total)

    return told


class Note(UserWarning):
    """Something that the user should know and that is in no result."""


class Progress:
    """Receives stages and counts of tokens; this one ignores all but notes.

    The terminal's is `kullback.report.terminal.progress.TerminalProgress`.
    """

    def plan(self, stages: int) -> None:
        """How many stages there will be, so that each can be shown as "stage 4 of 8"."""

    def stage(self, what: str) -> None:
        """A stage begins; nothing is known of how long it takes."""

    def part(self, what: str) -> None:
        """A part of the work begins that takes less than a stage; shown with seconds alone."""

    def note(self, text: str) -> None:
        """Something that the user should know and that is in no result; here a warning."""
        warnings.warn(text, Note, stacklevel=3)

    def tokens(self, done: int, total: int) -> None:
        """`done` of the stage's `total` tokens are done."""

    def advance(self, done: int, total: int) -> None:
        """`done` of the stage's `total` weights or layers are done."""
