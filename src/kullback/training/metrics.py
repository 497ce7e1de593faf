"""Metrics of a training run: sums over steps, and the lines of ``metrics.jsonl``.

On a source each token has its true surprisal, so ``mean(nll - surprisal)`` estimates KL(p‖q)
without bias: both terms are taken at the same tokens, and the variance of the language cancels.
All numbers are nats/token.  Axis: M tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from jaxtyping import Float
from torch import Tensor

from kullback.errors import RunError
from kullback.results.training import StepMetrics
from kullback.runtime.decoding import Count, decode_json, read_bounded
from kullback.runtime.files import write_atomically

if TYPE_CHECKING:
    from kullback.training.batches import Shard

__all__ = ["MetricsFile", "Sums", "read_metrics", "write_metrics"]


@dataclass
class Sums:
    """Sufficient statistics of consecutive steps: add first, divide last.

    >>> Sums(tokens=4, nll=6.0, surprisal=5.0).kl
    0.25
    """

    tokens: int = 0
    nll: float = 0.0
    surprisal: float | None = 0.0
    squares: float = 0.0
    """Over sequences: excess², where excess = sum of (nll - surprisal)."""
    products: float = 0.0
    """Over sequences: excess × tokens."""
    token_squares: float = 0.0
    text_bytes: int = 0
    """Of the targets; counted on the validation split of a text."""

    @classmethod
    def of(cls, nll_M: Float[Tensor, "M"], shard: Shard) -> Sums:
        """The sums of one shard."""
        nll = nll_M.cpu().double().numpy()
        if shard.surprisals_M is None:
            text_bytes = 0 if shard.bytes_M is None else int(shard.bytes_M.sum())
            return cls(len(nll), float(nll.sum()), None, text_bytes=text_bytes)
        surprisal = shard.surprisals_M.numpy()
        starts = np.cumsum(shard.lengths_N) - shard.lengths_N
        excess = np.add.reduceat(nll - surprisal, starts)
        lengths = shard.lengths_N.astype(np.float64)
        return cls(
            len(nll),
            float(nll.sum()),
            float(surprisal.sum()),
            float(excess @ excess),
            float(excess @ lengths),
            float(lengths @ lengths),
        )

    def __add__(self, other: Sums) -> Sums:
        surprisal = None
        if self.surprisal is not None and other.surprisal is not None:
            surprisal = self.surprisal + other.surprisal
        return Sums(
            self.tokens + other.tokens,
            self.nll + other.nll,
            surprisal,
            self.squares + other.squares,
            self.products + other.products,
            self.token_squares + other.token_squares,
            self.text_bytes + other.text_bytes,
        )

    @property
    def bits_per_byte(self) -> float | None:
        """The nll in bits over the bytes of the text; None where these are not counted."""
        return self.nll / math.log(2) / self.text_bytes if self.text_bytes else None

    @property
    def cross_entropy(self) -> float:
        """Mean nll."""
        return self.nll / self.tokens

    @property
    def entropy(self) -> float | None:
        """Mean true surprisal; None on a text."""
        return None if self.surprisal is None else self.surprisal / self.tokens

    @property
    def kl(self) -> float | None:
        """The estimate of KL(p‖q); None on a text."""
        return None if self.surprisal is None else (self.nll - self.surprisal) / self.tokens

    @property
    def kl_standard_error(self) -> float | None:
        """Standard error of a ratio of sums over independent sentences (Cochran 1977, eq. 2.39)."""
        if self.kl is None:
            return None
        residual = self.squares - 2 * self.kl * self.products + self.kl**2 * self.token_squares
        return math.sqrt(max(residual, 0.0)) / self.tokens


class _Line(msgspec.Struct):
    """What a line must have, and may have."""

    step: Count
    tokens: Count
    cross_entropy: float
    entropy: float | None = None
    kl: float | None = None
    kl_standard_error: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    learning_rate: float | None = None
    validation_cross_entropy: float | None = None
    validation_kl: float | None = None
    validation_bits_per_byte: float | None = None


class MetricsFile:
    """``metrics.jsonl``, without the lines beyond `step`, where the run resumes."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.lines: list[Mapping[str, Any]] = [
            line for line in read_metrics(path) if line["step"] <= step
        ]

    def append(self, metrics: StepMetrics) -> None:
        """Add a line, in memory."""
        line = asdict(metrics)
        if line["validation_bits_per_byte"] is None:
            del line["validation_bits_per_byte"]
        self.lines.append(line)

    def flush(self) -> None:
        """Write all lines; atomic."""
        write_metrics(self.path, self.lines)


def write_metrics(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the lines of a ``metrics.jsonl``; atomic."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(path, text.encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; none where the file is missing.

    Raises `RunError` naming the first damaged line.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    try:
        for text in read_bounded(path).decode().splitlines():
            line = decode_json(text, dict[str, Any])
            msgspec.convert(line, _Line)
            lines.append(line)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is damaged at line {len(lines) + 1} ({error}); restore it, or remove it "
            "if the curve so far is not needed"
        ) from None
    return lines
