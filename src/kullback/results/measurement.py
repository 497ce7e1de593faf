"""A number with its unit and its uncertainty."""

from __future__ import annotations

import math
from typing import ClassVar

from kullback.results.base import Data

__all__ = ["LEVEL", "Measurement", "student_critical_value"]

LEVEL = 0.95


class Measurement(Data, frozen=True, kw_only=False):
    """A number, its unit, and its confidence interval.

    An exact number has standard error 0 and prints without an interval; one with too few clusters
    has an infinite error, and `note` says why.

    >>> loss = Measurement(0.6931, "nats/token", 0.0005, 900, 30, "30 documents", 29.0)
    >>> print(loss, float(loss))
    0.6931 ± 0.0010 nats/token 0.6931
    """

    computed: ClassVar[tuple[str, ...]] = ("interval", "effective_n", "design_effect")

    value: float
    unit: str
    standard_error: float
    n: int
    """Tokens, or prefixes where the sum is over all of them."""
    clusters: int
    """Independent pieces that the interval is computed from; 0 for an exact number."""
    method: str
    degrees_of_freedom: float = math.inf
    """Of Student's t; infinite for the normal distribution."""
    independent_error: float = math.nan
    """The standard error if tokens were independent, which they are not; NaN where not computed."""
    level: float = LEVEL
    bounds: tuple[float, float] | None = None
    """The interval where it is not value ± half."""
    critical_value: float | None = None
    """Half of the interval in standard errors, where it is not Student's."""
    note: str = ""
    """What the reader must know beside the interval."""

    def __float__(self) -> float:
        return self.value

    @property
    def interval(self) -> tuple[float, float]:
        """The interval at `level`; infinite where there are too few independent pieces."""
        if self.bounds is not None:
            return self.bounds
        half = self._half
        return self.value - half, self.value + half

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are finite."""
        return all(map(math.isfinite, self.interval))

    @property
    def is_exact(self) -> bool:
        """Whether the number is a sum over everything, not an estimate."""
        return self.clusters == 0 and self.standard_error == 0.0

    @property
    def independent_interval(self) -> tuple[float, float]:
        """What the interval would be if tokens were independent: shown to show how wrong it is."""
        half = student_critical_value(math.inf, self.level) * self.independent_error
        return self.value - half, self.value + half

    @property
    def design_effect(self) -> float:
        """The variance over that of independent tokens (Kish 1965, Survey Sampling, sect. 8.2)."""
        if self.standard_error == self.independent_error < math.inf:
            return 1.0
        if self.independent_error == 0.0 or math.isinf(self.standard_error):
            return math.inf
        return (self.standard_error / self.independent_error) ** 2

    @property
    def effective_n(self) -> float:
        """How many independent tokens would be as informative; NaN where the error is unknown."""
        effect = self.design_effect
        if math.isinf(effect):
            return math.nan
        return math.inf if effect == 0.0 else self.n / effect

    @property
    def how(self) -> str:
        """The method of the interval and the note, as one sentence."""
        if self.note.startswith(self.method):
            return self.note
        return self.method + (f"; {self.note}" if self.note else "")

    @property
    def _half(self) -> float:
        if self.standard_error == 0.0:
            return 0.0
        critical = self.critical_value
        if critical is None:
            critical = student_critical_value(self.degrees_of_freedom, self.level)
        return critical * self.standard_error

    def __str__(self) -> str:
        """`0.6929 nats/token` or `0.6931 ± 0.0011 nats/token` (half of the interval)."""
        low, high = self.interval
        half = (high - low) / 2 if self.standard_error else 0.0
        if half == 0.0:
            return f"{self.value:.6f} {self.unit}".rstrip()
        if not math.isfinite(half):
            why = self.note or "too few clusters for an interval"
            return f"{self.value:.6g} {self.unit} ({why})"
        digits = min(9, max(0, 1 - math.floor(math.log10(half))))
        if self.bounds is not None:
            interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
            return f"{self.value:.{digits}f} {interval} {self.unit}".rstrip()
        return f"{self.value:.{digits}f} ± {half:.{digits}f} {self.unit}".rstrip()


def student_critical_value(degrees: float, level: float) -> float:
    """The two-sided critical value of Student's t; the normal's where `degrees` is infinite.

    >>> round(student_critical_value(9.0, 0.95), 3)
    2.262
    """
    from scipy.special import ndtri, stdtrit  # here, as a training needs neither at its beginning

    if math.isinf(degrees):
        return float(ndtri((1 + level) / 2))
    return float(stdtrit(degrees, (1 + level) / 2)) if degrees > 0 else math.inf
