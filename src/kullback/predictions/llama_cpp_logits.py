"""The base-logits files of llama.cpp, which ``llama-perplexity --kl-divergence-base FILE`` writes.

The layout (llama.cpp, ``tools/perplexity/perplexity.cpp``), little-endian::

    "_logits_"                        8 bytes
    context, vocabulary, chunks       int32 each
    tokens                            int32, chunks × context
    rows                              chunks × (context - 1 - context // 2) of them

The second half of each chunk is scored.  A row is two float32, `scale` and `smallest`, and one
uint16 c for each token (one more where V is odd), with ``log p = smallest + scale × c``.  llama.cpp
normalises before it clips at 16 nats below the largest and rounds to 65,536 steps.  So a row is
never made to sum to 1: an entry with c > 0 is log p to half a step, and of the entries at the clip
it is only known that each is at most `smallest`, and that their mass is 1 minus the others'
(`RoundedRows`).

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
from kullback.predictions.rounded import RoundedRows
from kullback.runtime.inputs import open_regular

__all__ = ["MAGIC", "LlamaCppLogits", "encode_rows", "file_bytes", "is_llama_cpp_logits"]

MAGIC = b"_logits_"
HEADER_BYTES = len(MAGIC) + 3 * 4
# llama.cpp keeps log-probabilities down to this many nats below the largest.
CLIP_NATS = 16.0
STEPS = 65_535
# Clipping gives each of V tokens up to e⁻¹⁶ of the largest probability: 0.03 for V = 256,000.
MASS_TOLERANCE = 0.1
# A rounded log p may exceed 0 by half a step.
LARGEST_LOG_P = 0.01
# A row that spans less has no clipped entry; float32 leaves 1e-6 of 16.
LEAST_CLIPPED_SPAN = CLIP_NATS - 1e-4
# What rounding to a step leaves, in steps: a half, and what float32 adds to numbers of 16 bits.
HALF_STEP = 0.52
# Of the sums and products in float32 of numbers up to 40, each of which leaves 2e-6.
FLOAT32_NATS = 8e-6


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
                expected = file_bytes(chunks, context, V)
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
    def clipped(self) -> bool:
        """Whether any row spans all that is kept, so that its lowest entries are clipped."""
        scale_M = np.ascontiguousarray(self._rows[:, :2]).view("<f4")[:, 0]
        return bool((scale_M.astype(np.float64) * STEPS >= LEAST_CLIPPED_SPAN).any())

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
        with np.errstate(over="ignore", invalid="ignore"):  # the sentence says it
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
        """log p as stored, in float32, as llama.cpp computes it."""
        raw = self._rows[rows]
        scale_B2 = np.ascontiguousarray(raw[:, :4]).view("<f4")
        steps_BV = raw[:, 4 : 4 + self.vocabulary_size].astype(np.float32)
        log_p_BV: np.ndarray = steps_BV * scale_B2[:, :1] + scale_B2[:, 1:]
        return log_p_BV

    def rounded(self, rows: slice) -> RoundedRows:
        """What the rows say of the probabilities."""
        raw = self._rows[rows]
        scale_B2 = np.ascontiguousarray(raw[:, :4]).view("<f4").astype(np.float64)
        steps_BV = raw[:, 4 : 4 + self.vocabulary_size]
        log_p_BV = steps_BV * scale_B2[:, :1] + scale_B2[:, 1:]
        spans_all_B = scale_B2[:, 0] * STEPS >= LEAST_CLIPPED_SPAN
        clipped_BV = (steps_BV == 0) & spans_all_B[:, None] if spans_all_B.any() else None
        return RoundedRows(
            torch.from_numpy(log_p_BV),
            torch.from_numpy(HALF_STEP * scale_B2[:, 0] + FLOAT32_NATS),
            None if clipped_BV is None else torch.from_numpy(clipped_BV),
        )


def is_llama_cpp_logits(path: Path) -> bool:
    """Whether the file begins as a base-logits file does."""
    if not path.is_file():
        return False
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # its reader says why
        return False


def encode_rows(logits_BV: Float[np.ndarray, "B V"]) -> bytes:
    """The rows of a file, in the float32 arithmetic of llama.cpp."""
    logits_BV = logits_BV.astype(np.float32)
    V = logits_BV.shape[1]
    largest_B1 = logits_BV.max(axis=1, keepdims=True)
    clip_B1 = largest_B1 - np.float32(CLIP_NATS)
    smallest_B1 = np.maximum(logits_BV.min(axis=1, keepdims=True), clip_B1)
    total_B1 = np.exp(logits_BV - largest_B1).sum(axis=1, keepdims=True, dtype=np.float64)
    log_total_B1 = np.log(total_B1).astype(np.float32)
    scale_B1 = (largest_B1 - smallest_B1) / np.float32(STEPS)
    per_step_B1 = np.divide(1, scale_B1, out=np.zeros_like(scale_B1), where=scale_B1 > 0)
    above_BV = np.maximum(logits_BV - smallest_B1, 0)
    rows_B = np.zeros((len(logits_BV), _row_bytes(V) // 2), dtype="<u2")
    smallest_log_p_B1 = smallest_B1 - largest_B1 - log_total_B1
    header_B2 = np.concatenate([scale_B1, smallest_log_p_B1], axis=1).astype("<f4")
    rows_B[:, :4] = header_B2.view("<u2")
    rows_B[:, 4 : 4 + V] = np.rint(above_BV * per_step_B1)
    return rows_B.tobytes()


def file_bytes(chunks: int, context: int, V: int) -> int:
    """What a file takes."""
    rows = chunks * (context - 1 - context // 2)
    return HEADER_BYTES + 4 * chunks * context + rows * _row_bytes(V)


def _row_bytes(V: int) -> int:
    return 2 * (2 * ((V + 1) // 2) + 4)
