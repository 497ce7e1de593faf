"""The base-logits files of llama.cpp, which ``llama-perplexity --kl-divergence-base FILE`` writes.

The layout (llama.cpp, ``tools/perplexity/perplexity.cpp``), little-endian::

    "_logits_"                        8 bytes
    context, vocabulary, chunks       int32 each
    tokens                            int32, chunks × context
    rows                              chunks × (context - 1 - context // 2) of them

The second half of each chunk is scored.  A row is two float32, `scale` and `smallest`, and one
uint16 c for each token (one more where V is odd), with ``log p = smallest + scale × c``.  So a row
is only approximately a distribution: llama.cpp clips log-probabilities 16 nats below the largest
and rounds to 65,536 steps.  Its sum is 1 to about 1e-3: `mass_error` measures the difference, which
is never corrected silently.

Axes: C chunks, T tokens of a chunk, M rows, B rows of a block, V vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.errors import InvalidValueError
from kullback.predictions.base import DensePredictions
from kullback.runtime.inputs import open_regular

__all__ = ["LlamaCppLogits", "is_llama_cpp_logits", "write_llama_cpp_logits"]

MAGIC = b"_logits_"
HEADER_BYTES = len(MAGIC) + 3 * 4
# llama.cpp keeps log-probabilities down to this many nats below the largest.
CLIP_NATS = 16.0
STEPS = 65_535
# Clipping gives each of V tokens up to e⁻¹⁶ of the largest probability: 0.03 for V = 256,000.
MASS_TOLERANCE = 0.1
# A rounded log p may exceed 0 by half a step.
LARGEST_LOG_P = 0.01


@dataclass(frozen=True, eq=False)
class LlamaCppLogits:
    """A file of predictions, mapped into memory: only the requested rows are read."""

    path: Path
    tokens_CT: Int[np.ndarray, "C T"]
    vocabulary_size: int

    @classmethod
    def open(cls, path: Path) -> LlamaCppLogits:
        """Read header and tokens; `InvalidValueError` for another format or a truncated file."""
        try:
            with open_regular(path) as file:
                head = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
                if head[: len(MAGIC)] != MAGIC or len(head) < HEADER_BYTES:
                    raise InvalidValueError(
                        f"{path} is not a base-logits file of llama.cpp: it begins with "
                        f"{head[:8]!r}, not {MAGIC!r}; write one with llama-perplexity "
                        "--kl-divergence-base FILE"
                    )
                context, V, chunks = (int(n) for n in np.frombuffer(head, "<i4", 3, len(MAGIC)))
                if context < 2 or V < 1 or chunks < 1:
                    raise InvalidValueError(
                        f"{path} is damaged: its header says {chunks} chunks of {context} tokens "
                        f"and a vocabulary of {V}"
                    )
                scored = context - 1 - context // 2
                expected = HEADER_BYTES + 4 * chunks * context + chunks * scored * _row_bytes(V)
                if size != expected:
                    raise InvalidValueError(
                        f"{path} has {size:,} bytes, and its header requires {expected:,}: it is "
                        "truncated, or another program changed it; write it again"
                    )
                tokens = np.frombuffer(file.read(4 * chunks * context), "<i4").astype(np.int64)
        except OSError as error:
            raise InvalidValueError(f"{path} cannot be read: {error.strerror}") from None
        if tokens.min() < 0 or tokens.max() >= V:
            raise InvalidValueError(
                f"{path} is damaged: its token ids are from {int(tokens.min())} to "
                f"{int(tokens.max())}, and its vocabulary has {V} tokens"
            )
        logits = cls(path, tokens.reshape(chunks, context), V)
        logits._check_rows()
        return logits

    def __len__(self) -> int:
        return len(self.tokens_CT) * self.rows_per_chunk

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def context(self) -> int:
        """T."""
        return int(self.tokens_CT.shape[1])

    @property
    def rows_per_chunk(self) -> int:
        """Scored positions of a chunk: those that predict the tokens after its middle one."""
        return self.context - 1 - self.context // 2

    @cached_property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The target token of each row."""
        return self.tokens_CT[:, self.context // 2 + 1 :].reshape(-1)

    @cached_property
    def _rows(self) -> np.memmap:
        offset = HEADER_BYTES + 4 * self.tokens_CT.size
        shape = (len(self), _row_bytes(self.vocabulary_size) // 2)
        return np.memmap(self.path, dtype="<u2", mode="r", offset=offset, shape=shape)

    def _check_rows(self) -> None:
        """Raise `InvalidValueError` for a row whose scale or smallest log p cannot be one."""
        scale_M2 = np.ascontiguousarray(self._rows[:, :4]).view("<f4")
        scale_M, smallest_M = scale_M2[:, 0], scale_M2[:, 1]
        largest_M = smallest_M + scale_M * np.float32(STEPS)
        good_M = np.isfinite(scale_M2).all(axis=1) & (scale_M >= 0) & (largest_M <= LARGEST_LOG_P)
        if not good_M.all():
            row = int(np.argmin(good_M))
            raise InvalidValueError(
                f"{self.path} is damaged: row {row} has log-probabilities from {smallest_M[row]} "
                f"to {largest_M[row]}; write it again"
            )

    def check_mass(self, first_row: int, mass_B: Float[np.ndarray, "B"]) -> None:
        """Raise `InvalidValueError` where the sum of a row's probabilities is not about 1.

        `mass_B` are the sums of rows from `first_row` on.
        """
        bad_B = ~(np.abs(mass_B - 1.0) <= MASS_TOLERANCE)
        if bad_B.any():
            row = int(np.argmax(bad_B))
            raise InvalidValueError(
                f"{self.path} is damaged: the probabilities of row {first_row + row} sum to "
                f"{float(mass_B[row]):.4g}, not to 1; write it again"
            )

    def log_probabilities(self, rows: slice) -> Float[np.ndarray, "B V"]:
        """log p as stored, in float32; probabilities of a row sum to nearly one."""
        raw = self._rows[rows]
        scale_B2 = np.ascontiguousarray(raw[:, :4]).view("<f4")
        steps_BV = raw[:, 4 : 4 + self.vocabulary_size].astype(np.float32)
        log_p_BV: np.ndarray = steps_BV * scale_B2[:, :1] + scale_B2[:, 1:]
        return log_p_BV

    def predictions(self, rows: slice) -> DensePredictions:
        """The rows as predictions; measures normalise them."""
        return DensePredictions(torch.from_numpy(self.log_probabilities(rows)))

    def mass_error(self, rows: slice) -> Float[np.ndarray, "B"]:
        """The sum of the probabilities of each row, minus one."""
        mass_B: np.ndarray = np.exp(self.log_probabilities(rows).astype(np.float64)).sum(axis=1)
        return mass_B - 1.0


def is_llama_cpp_logits(path: Path) -> bool:
    """Whether the file begins as a base-logits file does."""
    if not path.is_file():
        return False
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # its reader says why
        return False


def write_llama_cpp_logits(
    path: Path, tokens_CT: Int[np.ndarray, "C T"], logits_MV: Float[np.ndarray, "M V"]
) -> None:
    """Write logits in llama.cpp's format, clipped and rounded as llama.cpp does.

    `logits_MV` has the rows of the second half of each chunk, chunk after chunk.
    """
    chunks, context = tokens_CT.shape
    V = logits_MV.shape[1]
    largest = logits_MV.max(axis=1, keepdims=True)
    smallest = np.maximum(logits_MV.min(axis=1, keepdims=True), largest - CLIP_NATS)
    normaliser = np.log(np.exp(logits_MV - largest).sum(axis=1, keepdims=True))
    scale = (largest - smallest) / STEPS
    steps = np.rint((np.maximum(logits_MV, smallest) - smallest) / np.where(scale, scale, 1.0))
    rows = np.zeros((len(logits_MV), _row_bytes(V) // 2), dtype="<u2")
    header = np.concatenate([scale, smallest - largest - normaliser], axis=1).astype("<f4")
    rows[:, :4] = header.view("<u2")
    rows[:, 4 : 4 + V] = steps
    with path.open("wb") as file:
        file.write(MAGIC + np.array([context, V, chunks], dtype="<i4").tobytes())
        file.write(tokens_CT.astype("<i4").tobytes())
        file.write(rows.tobytes())


def _row_bytes(V: int) -> int:
    return 2 * (2 * ((V + 1) // 2) + 4)
