"""The result of `kullback quantise`: a folder that transformers loads, and its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import ClassVar

from kullback.results.base import Data, Result

__all__ = ["QuantisedFolder", "UnquantisedWeights", "list_unquantised"]

# Entries that take less than this share of all weights are summed up in a sentence.
LEAST_SHARE = 0.005


class UnquantisedWeights(Data, frozen=True, kw_only=True):
    """Weights that a scheme leaves as they are."""

    name: str
    """Of the parameter; ``*`` stands for the numbers of the layers."""
    weights: int
    """How many numbers."""
    share: float
    """Of all weights of the model."""


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
    unquantised: tuple[UnquantisedWeights, ...] = ()
    """What the scheme leaves as it is, the most first."""
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The sizes, what is not quantised, and the notes."""
        sizes = (
            f"{self.folder}: {self.scheme}, weights of {self.bytes_weights:,} bytes as saved "
            f"({self.bytes_packed:,} packed); tokenizer and configuration take "
            f"{self.bytes_saved - self.bytes_weights:,} more"
        )
        left = list_unquantised(self.unquantised)
        return [sizes, *([f"not quantised: {left}"] if left else []), *self.notes]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines)


def list_unquantised(unquantised: Sequence[UnquantisedWeights]) -> str:
    """Their names and shares of all weights, the small ones summed up; empty without any.

    >>> list_unquantised([UnquantisedWeights(name="lm_head.weight", weights=5, share=0.125)])
    '12.5 % of the weights (lm_head.weight 12.5 %)'
    """
    if not unquantised:
        return ""
    # The first in any case.
    shown = [entry for i, entry in enumerate(unquantised) if not i or entry.share >= LEAST_SHARE]
    rest = unquantised[len(shown) :]
    parts = [f"{entry.name} {_percent(entry.share)}" for entry in shown]
    if rest:
        what = "other parameter" if len(rest) == 1 else "other parameters"
        parts.append(f"{len(rest)} {what} {_percent(sum(entry.share for entry in rest))}")
    whole = sum(entry.share for entry in unquantised)
    return f"{_percent(whole)} of the weights ({', '.join(parts)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"
