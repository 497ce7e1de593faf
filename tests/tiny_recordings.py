"""Predictions of tiny models, and recordings of them: shared by several test files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kullback.models.mini_gpt import GPTModel
from kullback.predictions.base import DensePredictions, Predictions
from kullback.predictions.recording import Recording
from kullback.predictions.recording_writer import RecordingWriter
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig

V, T = 61, 24
METADATA: dict[str, object] = {
    "model": "tiny",
    "text": "a" * 64,
    "tokenizer": "b" * 64,
    "weights": "c" * 64,
    "protocol": {"preset": "sliding", "window": 24, "stride": 12},
}


def targets(rows: int) -> np.ndarray:
    """Return the same random tokens every time."""
    return np.random.default_rng(1).integers(0, V, rows)


def write(
    path: Path, predictions: Predictions, kind: Any = "exact", pieces: int = 3, **options: Any
) -> Recording:
    """Return a recording of predictions, which were appended in pieces."""
    M = len(predictions)
    with RecordingWriter(path, kind, METADATA, V, **options) as writer:
        for rows in np.array_split(np.arange(M), pieces):
            some = predictions.select(torch.from_numpy(rows))
            writer.append(some, targets(M)[rows], rows // 10, rows % 10)
    return Recording.open(path)


def gpt(seed: int) -> Predictions:
    """Return the predictions of a random mini-GPT for a fixed input."""
    model = GPT(GPTConfig(vocabulary_size=V, context=T, width=16, layers=1, heads=2), seed)
    model.requires_grad_(False)
    for weight in model.parameters():
        weight *= 1.5
    return GPTModel(model).predict(torch.arange(2 * T).reshape(2, T) % V)


def dense(rows: int = 30, seed: int = 0, scale: float = 3.0) -> DensePredictions:
    """Return random logits."""
    generator = torch.Generator().manual_seed(seed)
    return DensePredictions(torch.randn(rows, V, generator=generator) * scale)
