"""The result of `kullback quantise`: a folder that transformers loads, and its sizes."""

from __future__ import annotations

from html import escape
from typing import ClassVar

from kullback.results.base import Result

__all__ = ["QuantisedFolder"]


class QuantisedFolder(Result, frozen=True, kw_only=True, tag="kullback.quantised/1"):
    """A saved model and its sizes in bytes."""

    named_by: ClassVar[str] = "folder"

    folder: str
    scheme: str
    bytes_packed: int
    """Of the weights, their integers packed to their bits."""
    bytes_saved: int
    """Of all files in the folder."""

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.scheme}, {self.bytes_saved:,} bytes as saved; its weights take "
            f"{self.bytes_packed:,} bytes packed"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"
