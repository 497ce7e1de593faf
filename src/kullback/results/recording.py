"""The result of `kullback record`: what was written."""

from __future__ import annotations

from typing import ClassVar

from kullback.results.base import Result

__all__ = ["RecordingResult"]


class RecordingResult(Result, frozen=True, kw_only=True, tag="kullback.recording/1"):
    """A file of predictions or of token records."""

    named_by: ClassVar[str] = "file"

    file: str
    kind: str
    """"token records", "exact", "top-k" or "llama.cpp"."""
    tokens: int
    bytes: int
    """Of the file."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}, {self.tokens:,} tokens, {self.bytes:,} bytes"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(str(self))}</p>"
