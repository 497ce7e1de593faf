"""What the memory allowed in a pass over a text."""

from __future__ import annotations

from dataclasses import dataclass, field

from kullback.runtime.turns import Turns

__all__ = ["BatchLimit"]


@dataclass(eq=False)
class BatchLimit:
    """What the memory allowed in a pass; shared by its threads."""

    tokens: int | None = None
    """Of a batch; None where it allowed all that were planned."""
    at_once: int | None = None
    """Windows that threads read at the same time; None where it allowed one a thread."""
    turns: Turns = field(default_factory=Turns, repr=False)

    @property
    def notes(self) -> list[str]:
        """What the user should know of it."""
        notes = []
        if self.tokens is not None:
            notes.append(
                f"the memory was too small for the usual batches: {self.tokens:,} tokens were read "
                "at a time, which takes longer and changes the numbers by rounding only"
            )
        if self.at_once is not None:
            notes.append(
                "the memory was too small for a window in each thread: at most "
                f"{self.at_once} {'was' if self.at_once == 1 else 'were'} read at the same time, "
                "which takes longer"
            )
        return notes

    @property
    def reached(self) -> tuple[int | None, int | None]:
        """The tokens and the windows, to tell another process."""
        return self.tokens, self.at_once

    def lower(self, tokens: int | None = None, at_once: int | None = None) -> None:
        """At most so many from now on; None changes nothing."""
        self.tokens = min((n for n in (self.tokens, tokens) if n is not None), default=None)
        self.at_once = min((n for n in (self.at_once, at_once) if n is not None), default=None)
        if at_once is not None:
            self.turns.lower(at_once)
