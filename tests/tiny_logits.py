"""Base-logits files of llama.cpp: shared by several test files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.predictions.llama_cpp_writer import write_llama_cpp_logits


def write_logits(path: Path, tokens: np.ndarray, logits: np.ndarray) -> LlamaCppLogits:
    """Return the file of logits over the columns that they have, written in two pieces."""
    write_llama_cpp_logits(path, tokens, logits.shape[1], np.array_split(logits, 2))
    return LlamaCppLogits.open(path)
