"""Sources: languages whose entropy is known exactly.

`conjugation` is the embedded source; `open_source` opens a source by its name or grammar file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kullback.sources.catalogue import Source

__all__ = ["conjugation", "open_source"]


def conjugation(holdout: int = 0, seed: int = 0) -> Source:
    """English sentences with their Spanish translation; `holdout` cells are held out.

    The held-out cells of the conjugation table, drawn with `seed`, never occur in the training
    language.  Raises `InvalidValueError` unless 0 <= `holdout` < the number of cells.

    >>> round(conjugation().training.entropy_per_token, 6)  # nats
    0.694102
    """
    return open_source("conjugation", holdout, seed)


def open_source(name: str | Path, holdout: int = 0, seed: int = 0) -> Source:
    """The source called `name`, or the grammar in that file.

    Raises as `kullback.sources.catalogue.open_source` does.
    """
    from kullback.sources import catalogue

    return catalogue.open_source(str(name), holdout, seed)
