"""How many digits does a number deserve, and what is it called?

A value with an interval is written with as many decimals as two significant digits of its half
interval need; one without an interval gets four significant digits.  Numbers below a thousandth
or from a million on are written with a power of ten, the same for the value and its interval.
Fractions that are shares (accuracies, agreements, calibration errors) are written as percentages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kullback.report.numerals import count
from kullback.results.text import MeasurementData

__all__ = [
    "MEASURES",
    "NOT_ABOVE",
    "NOT_ABOVE_MEANS",
    "Measure",
    "Written",
    "measure",
    "write",
    "write_number",
]

#: The mark of a KL that does not rise above the noise floor, and what it means.
NOT_ABOVE = "≈"
NOT_ABOVE_MEANS = "not above the noise floor: rounding alone makes as large a KL"

_NO_NUMBER = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DECIMALS = 9  # beyond, a float32 pass says nothing
# Two sides of an interval that differ by less than this part of it print alike at two digits.
_SYMMETRIC = 0.05


@dataclass(frozen=True)
class Measure:
    """What a measure is called, what it means, and how it is written."""

    label: str
    meaning: str = ""
    share: bool = False
    """Written as a percentage."""
    signed: bool = False
    """Written with + where it is above zero: a change."""


#: By the names in `TextResults`, `ComparisonResults` and `StoredResults`.
MEASURES = {
    "cross_entropy": Measure("Cross-entropy", "The mean surprisal at the next token."),
    "bits_per_byte": Measure(
        "Bits per byte", "The same over the bytes of the source text: whatever the tokenizer."
    ),
    "perplexity": Measure(
        "Perplexity", "exp(cross-entropy): as uncertain as a fair choice among this many tokens."
    ),
    "byte_perplexity": Measure("Byte perplexity", "The same for a byte: 2 to the bits per byte."),
    "word_perplexity": Measure(
        "Word perplexity", "The same for a word: all surprisals over the number of words."
    ),
    "entropy": Measure(
        "Entropy of the model", "What the model expects to pay; below the cross-entropy: too sure."
    ),
    "top1_accuracy": Measure(
        "First guess right", "How often the likeliest token is the one that comes.", share=True
    ),
    "top5_accuracy": Measure(
        "Among the first five", "How often the token is one of the five likeliest.", share=True
    ),
    "top10_accuracy": Measure(
        "Among the first ten", "How often the token is one of the ten likeliest.", share=True
    ),
    "brier": Measure("Brier score", "Mean squared error of the whole distribution, from 0 to 2."),
    "ece": Measure(
        "Calibration error (ECE)",
        "How far confidence and accuracy lie apart, in bins of equal mass; noise adds to it.",
        share=True,
    ),
    "rms_calibration_error": Measure(
        "Calibration error (RMS)", "Root mean square over the same bins, noise taken off.", True
    ),
    "smooth_ece": Measure("Smooth calibration error", "The same without bins.", share=True),
    "overconfidence": Measure(
        "Overconfidence", "Mean confidence minus accuracy of the first guess.", True, True
    ),
    "target_ece": Measure(
        "Calibration of the target",
        "ECE of the probability that the token gets, against what the model expects (Σ q²).",
        share=True,
    ),
    "temperature_saves": Measure(
        "Saved by temperature", "Cross-entropy less that at the temperature that serves best."
    ),
    "kl": Measure(
        "KL(reference‖candidate)",
        "The extra nats of predicting with the candidate what the reference would say.",
    ),
    "reverse_kl": Measure("KL(candidate‖reference)", "The same the other way round."),
    "jensen_shannon": Measure(
        "Jensen–Shannon", "Mean KL of both from their mean: symmetric, at most log 2."
    ),
    "delta_cross_entropy": Measure(
        "ΔCE", "The candidate's cross-entropy minus the reference's: above 0 is worse.", signed=True
    ),
    "reference_cross_entropy": Measure(
        "CE of the reference", "Its cross-entropy on the same text."
    ),
    "candidate_cross_entropy": Measure(
        "CE of the candidate", "Its cross-entropy on the same text."
    ),
    "top1_agreement": Measure(
        "Same first guess", "How often both find the same token likeliest.", share=True
    ),
    "top5_agreement": Measure(
        "Shared among five", "The share of the five likeliest that both name.", share=True
    ),
    "delta_p_mean": Measure(
        "Mean Δp", "Change of the probability of the token that comes.", True, True
    ),
    "delta_p_rms": Measure("RMS Δp", "The size of that change, whatever its sign.", True),
    "kl_lower_bound": Measure(
        "KL, lower bound", "KL(reference‖candidate) is at least this: not all of it is known."
    ),
    "kl_upper_bound": Measure(
        "KL, upper bound", "And at most this; ∞ where nothing bounds it from above."
    ),
    "delta_cross_entropy_per_byte": Measure(
        "ΔCE per byte",
        "Surprisal of the candidate minus the reference's: above 0 is worse.",
        signed=True,
    ),
    "delta_cross_entropy_per_document": Measure(
        "ΔCE per document", "The same of whole documents.", signed=True
    ),
}


def measure(name: str) -> Measure:
    """How the measure `name` is shown; one that is not known, under its own name.

    >>> measure("top1_accuracy").label, measure("new_measure").label
    ('First guess right', 'new measure')
    """
    return MEASURES.get(name) or Measure(name.replace("_", " "))


@dataclass(frozen=True)
class Written:
    """A measurement in words; `interval` is empty where there is none."""

    value: str
    interval: str
    """``low to high``."""
    both: str
    """``value ± half``, or ``value [low, high]`` where the value is not in the middle."""
    unit: str
    effective_n: str
    design_effect: str

    def __str__(self) -> str:
        """Value, interval and unit in one line."""
        return f"{self.both} {self.unit}".rstrip()


def write(measured: MeasurementData, how: Measure | None = None) -> Written:
    """A measurement with the digits that its interval warrants.

    >>> nll = {"value": 3.14159, "unit": "nats/token", "interval": (3.1, 3.18318), "n": 900,
    ...        "effective_n": 300.0, "design_effect": 3.0, "method": ""}
    >>> print(write(nll))
    3.142 ± 0.042 nats/token
    >>> print(write({**nll, "value": 3.2e-6, "interval": (2.8e-6, 3.6e-6)}))
    (3.20 ± 0.40) × 10⁻⁶ nats/token
    >>> print(write({**nll, "value": 0.5, "interval": (0.4, 0.7)}, Measure("accuracy", share=True)))
    50 [40, 70] %
    >>> print(write({**nll, "value": 2e10, "unit": "", "interval": (3e8, 1.4e12)}))
    2.0 × 10¹⁰ [3.0 × 10⁸, 1.4 × 10¹²]
    """
    how = how or Measure("")
    factor, unit = (100.0, "%") if how.share else (1.0, measured["unit"])
    value, interval = measured["value"], measured["interval"]
    effect, effective = measured["design_effect"], measured["effective_n"]
    facts = {
        "unit": unit,
        "effective_n": _NO_NUMBER if effective is None else count(effective),
        "design_effect": write_number(effect, 2 if effect is not None and effect < 10 else 3),
    }
    if value is None or not math.isfinite(value):
        return Written(write_number(value), "", write_number(value), **facts)
    value *= factor
    alone = _signed(write_number(value), value, how)
    if interval is None or not all(math.isfinite(end) for end in interval):
        return Written(alone, "", alone, **facts)
    low, high = (factor * end for end in interval)
    half = max(high - value, value - low)
    if half <= 0:
        return Written(alone, f"{alone} to {alone}", f"{alone} ± 0", **facts)
    largest = max(abs(value), half)
    power = 0 if 1e-3 <= largest < 1e6 else max(-300, math.floor(math.log10(largest)))
    value, low, high, half = (x / 10.0**power for x in (value, low, high, half))
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half))))
    middle, first, last = (_signed(_fixed(x, decimals), x, how) for x in (value, low, high))
    symmetric = abs((high - value) - (value - low)) <= _SYMMETRIC * half
    if not symmetric and 0 < low < 10.0**-decimals:
        # So wide, on one side, that the digits of the half would leave nothing of the others.
        middle, first, last = (write_number(x * 10.0**power, 2) for x in (value, low, high))
        return Written(middle, f"{first} to {last}", f"{middle} [{first}, {last}]", **facts)
    spread = f"± {half:.{decimals}f}" if symmetric else f"[{first}, {last}]"
    if power == 0:
        return Written(middle, f"{first} to {last}", f"{middle} {spread}", **facts)
    scale = f"× 10{str(power).translate(_SUPERSCRIPTS)}"
    both, interval_text = f"({middle} {spread}) {scale}", f"({first} to {last}) {scale}"
    return Written(f"{middle} {scale}", interval_text, both, **facts)


def write_number(value: float | None, digits: int = 4) -> str:
    """A number with significant `digits`, all of a whole number's below a million.

    >>> [write_number(x) for x in (3.14159, 123456.7, 3.14e-7, 0.0, 1.0, float("inf"), None)]
    ['3.142', '123457', '3.140 × 10⁻⁷', '0', '1', '∞', '–']
    """
    if value is None or math.isnan(value):
        return _NO_NUMBER
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    power = math.floor(math.log10(abs(value)))
    if -4 <= power < 6:
        return _fixed(value, max(0, digits - 1 - power))
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.replace('-', '−')} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def _fixed(value: float, decimals: int) -> str:
    """With so many decimals, and never a minus before zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _signed(text: str, value: float, how: Measure) -> str:
    return f"+{text}" if how.signed and value > 0 else text
