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
    bytes_weights: int
    """Of the weights as saved, a byte for every integer."""
    bytes_saved: int
    """Of all files in the folder: the weights, the tokenizer and the configuration."""

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.scheme}, weights of {self.bytes_weights:,} bytes as saved "
            f"({self.bytes_packed:,} packed); tokenizer and configuration take "
            f"{self.bytes_saved - self.bytes_weights:,} more"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"
