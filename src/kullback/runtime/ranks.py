"""This process's place among those of torchrun, known without torch."""

from __future__ import annotations

import os

__all__ = ["is_rank_zero"]


def is_rank_zero() -> bool:
    """Whether this process writes and prints: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"
