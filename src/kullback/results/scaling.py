"""The result of `kullback scaling`: a ladder of runs, and the law L(x) = E + A·x^(−α).

Losses and E are in nats/token, all on the same validation sample.  Intervals are those of the
bootstrap at 95 %.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from kullback.results.base import Data, Result

__all__ = ["Scaling", "ScalingLaw", "ScalingRung", "Vary"]

Vary: TypeAlias = Literal["data", "size"]


class ScalingRung(Data, frozen=True, kw_only=True):
    """A run of the ladder."""

    folder: str
    width: int
    parameters: int
    """All of the model, its embeddings among them."""
    steps: int
    batch: int
    """Sentences or windows of a step."""
    tokens: int
    """Target tokens of all steps."""
    loss: float
    loss_interval: tuple[float, float]
    """Of the validation sample; all rungs share it, so that their errors are nearly the same."""
    fitted_loss: float


class ScalingLaw(Data, frozen=True, kw_only=True):
    """E + A·x^(−α), fitted to the rungs."""

    floor: float
    """E, the irreducible loss."""
    floor_interval: tuple[float, float]
    scale: float
    """A: the excess over E at x = 1."""
    exponent: float
    """α."""
    exponent_interval: tuple[float, float]
    noise: float
    """Standard deviation of the excess about the curve, relative to it."""
    identified: bool
    """Whether the losses bend towards E, and in a way that can last.

    The interval of E is narrower than a quarter of what the losses fall by, without the error of
    the validation sample, which shifts E and the losses alike; and the exponent may be 1 or less.
    """
    transient: bool
    """Whether the interval of the exponent is above 1: no loss falls so fast for long."""


class Scaling(Result, frozen=True, kw_only=True, tag="kullback.scaling/2"):
    """A ladder, its law, and on a source the exact entropy."""

    named_by: ClassVar[str] = "folder"
    computed: ClassVar[tuple[str, ...]] = ("covers_exact", "floor_minus_exact")

    folder: str
    data: str
    """The name of the source, or of the first file of the text."""
    vary: Vary
    """What grows from rung to rung: x is the tokens of a run, or its parameters."""
    rungs: tuple[ScalingRung, ...]
    law: ScalingLaw
    exact_entropy: float | None
    """Of the source in nats/token; None on a text, where it is unknown."""
    validation_tokens: int
    validation_pieces: int
    """Sentences, documents or blocks of a text, which the bootstrap resamples."""
    piece: Literal["sentence", "document", "block"]
    seconds: float
    """Of this call; finished rungs are not trained again."""
    notes: tuple[str, ...] = ()

    @property
    def covers_exact(self) -> bool | None:
        """Whether the interval of E contains the exact entropy; None on a text."""
        if self.exact_entropy is None:
            return None
        low, high = self.law.floor_interval
        return low <= self.exact_entropy <= high

    @property
    def floor_minus_exact(self) -> float | None:
        """E less the exact entropy, nats/token; None on a text."""
        return None if self.exact_entropy is None else self.law.floor - self.exact_entropy

    def x(self, rung: ScalingRung) -> int:
        """The tokens of a rung, or its parameters: whatever varies."""
        return rung.tokens if self.vary == "data" else rung.parameters
