"""Callbacks for other trainers: transformers' `Trainer` and Lightning."""

from __future__ import annotations

from kullback.callbacks.floor import FloorCallback

__all__ = ["FloorCallback"]
