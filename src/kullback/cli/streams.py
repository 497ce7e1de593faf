"""Standard output and standard error that a full disk or a reader that left cannot break.

A failure to write standard output is an error in one sentence, except for a closed pipe, which
says that the reader has seen enough; what cannot be written to standard error is dropped, because
progress is no reason to stop hours of work.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from kullback.errors import KullbackError

__all__ = ["StandardOutputError", "checked_streams"]


class StandardOutputError(KullbackError):
    """Standard output cannot be written: the disk of the file that it goes to is full, say."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"standard output cannot be written: {reason}; send it to another place, then run the "
            "command again"
        )


class _Stream(ABC):
    """A text stream, or None for one that was closed before the program began."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._failed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Its descriptor; `OSError` where it has none."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def writelines(self, lines: list[str]) -> None:
        """Write all of them."""
        for line in lines:
            self.write(line)

    @abstractmethod
    def write(self, text: str, /) -> int:
        """Write text, as the stream does, and return its length."""

    def discard(self) -> None:
        """After a failure, drop what is in the buffer, which Python would write at its end."""
        if self._failed:
            with suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self.fileno())
                os.close(nothing)


class _Output(_Stream):
    """Standard output: a failure is a `StandardOutputError`, a closed pipe a `BrokenPipeError`."""

    def write(self, text: str) -> int:
        with self._explained():
            return self._open().write(text)

    def flush(self) -> None:
        """Write what is still in the buffer."""
        if self._stream is not None and not self._failed:
            with self._explained():
                self._stream.flush()

    def _open(self) -> TextIO:
        if self._stream is None:
            raise StandardOutputError("it is closed")
        return self._stream

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise StandardOutputError(error.strerror or str(error)) from error


class _Errors(_Stream):
    """Standard error: what cannot be written is dropped."""

    def write(self, text: str) -> int:
        if self._stream is not None and not self._failed:
            try:
                self._stream.write(text)
            except OSError:
                self._failed = True
        return len(text)

    def flush(self) -> None:
        """Write what is still in the buffer."""
        if self._stream is not None and not self._failed:
            try:
                self._stream.flush()
            except OSError:
                self._failed = True


@contextmanager
def checked_streams() -> Iterator[None]:
    """Replace standard output and standard error by checked ones, and restore them at the end.

    Raises `StandardOutputError` or `BrokenPipeError` where the rest of the buffer cannot be
    written.
    """
    streams = sys.stdout, sys.stderr
    output, errors = _Output(streams[0]), _Errors(streams[1])
    sys.stdout, sys.stderr = output, errors
    try:
        try:
            yield
        finally:
            output.flush()
            errors.flush()
    finally:
        output.discard()
        errors.discard()
        sys.stdout, sys.stderr = streams
