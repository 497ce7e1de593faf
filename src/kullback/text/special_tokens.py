"""The special tokens of our own tokenizers and sources: how they are written, and their ids."""

from __future__ import annotations

__all__ = ["BOS", "BOS_ID", "EOS", "EOS_ID"]

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
