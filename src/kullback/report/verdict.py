"""The verdict on a result: a line for each candidate and one sentence, a line for an evaluation.

A number and its unit are joined by no-break spaces, so that no line breaks between them.  Nothing
is claimed of a ΔCE whose interval contains 0.  Nats/token unless the unit is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kullback.report.labels import ROUNDING, measure
from kullback.report.names import candidate_names
from kullback.report.numbers import (
    below_rounding,
    byte_size,
    percent,
    percent_change,
    write,
    write_number,
)
from kullback.results.comparison import (
    BATCH_SHAPE,
    CandidateComparison,
    Comparison,
    RankedCandidate,
)
from kullback.results.evaluation import Evaluation
from kullback.results.measurement import Measurement

__all__ = [
    "INDISTINGUISHABLE",
    "Verdict",
    "comparison_verdict",
    "evaluation_verdict",
    "floor_text",
    "noise_type",
    "share_of_original",
]

INDISTINGUISHABLE = "indistinguishable on this text"
JOINT = "The intervals are joint: they hold for all candidates at once."


@dataclass(frozen=True)
class Verdict:
    """A line for each candidate, in the order in which they were named, and the conclusion."""

    lines: tuple[str, ...]
    conclusion: str
    """Which candidate to choose; empty where no tolerance applies."""
    intervals: str = ""
    """That the intervals are joint; empty where there is a single candidate."""

    def __str__(self) -> str:
        return "\n".join(filter(None, (*self.lines, self.conclusion, self.intervals)))


def evaluation_verdict(result: Evaluation) -> str:
    """The headline measures of an evaluation in one line."""
    parts = []
    for name, label in (
        ("bits_per_byte", ""),
        ("perplexity", "perplexity "),
        ("top1_accuracy", "top-1 accuracy "),
    ):
        if name in result.measures:
            parts.append(_unbroken(f"{label}{write(result.measures[name], measure(name))}"))
    return ", ".join(parts)


def comparison_verdict(result: Comparison) -> Verdict:
    """What is to be said of each candidate, and which one to choose."""
    names = candidate_names(result)
    ranked = {candidate.name: candidate for candidate in result.ranked}
    lines = tuple(
        f"{names[candidate.name]}: {_line(result, candidate, ranked.get(candidate.name))}"
        for candidate in result.candidates
    )
    conclusion = _conclusion(result, names)
    joint = len(result.ranked) > 1 and any(row.kl.has_interval for row in result.ranked)
    return Verdict(lines, conclusion, JOINT if joint and conclusion else "")


# --- one candidate -------------------------------------------------------------------------


def _line(
    result: Comparison, candidate: CandidateComparison, ranked: RankedCandidate | None
) -> str:
    measures = _measures(candidate, ranked)
    parts = [*_size(result, candidate)]
    if candidate.identical:
        return ", ".join([*parts, "identical: every KL is 0"])
    parts += _changes(measures)
    if "top1_agreement" in measures:
        agreement = percent(measures["top1_agreement"].value)
        parts.append(f"top-1 agreement {_unbroken(agreement)}")
    parts += _divergence(result, candidate, ranked, measures)
    return ", ".join(parts) or "nothing was measured"


def _measures(
    candidate: CandidateComparison, ranked: RankedCandidate | None
) -> Mapping[str, Measurement]:
    """The candidate's measures; those that the candidates' table shows, with joint intervals."""
    if ranked is None:
        return candidate.measures
    return {
        **candidate.measures,
        "kl": ranked.kl,
        "delta_cross_entropy": ranked.delta_cross_entropy,
        "top1_agreement": ranked.top1_agreement,
    }


def _size(result: Comparison, candidate: CandidateComparison) -> Iterator[str]:
    size, original = candidate.operand.size_bytes, result.reference.size_bytes
    if size is None:
        return
    text = _unbroken(byte_size(size))
    if original:
        text += f" of {_unbroken(byte_size(original))} ({share_of_original(size / original)})"
    yield text


def share_of_original(share: float) -> str:
    """A size over that of the reference: whole per cent from 10 % on.

    >>> [share_of_original(x).replace("\u00a0", " ") for x in (0.4086, 0.0312, 1.5)]
    ['41 %', '3.1 %', '150 %']
    """
    return _unbroken(f"{100 * share:,.0f} %" if share >= 0.1 else percent(share))


def _changes(measures: Mapping[str, Measurement]) -> Iterator[str]:
    """ΔCE by token, by byte, by document: those that were measured."""
    for name, label in (
        ("delta_cross_entropy", "ΔCE "),
        ("delta_cross_entropy_per_byte", "ΔCE "),
        ("delta_cross_entropy_per_document", ""),
    ):
        if name not in measures:
            continue
        change = measures[name]
        text = label + _unbroken(str(write(change, measure(name))))
        low, high = change.interval
        if change.has_interval and change.standard_error and low <= 0 <= high:
            yield f"{text}: {INDISTINGUISHABLE}"
            continue
        perplexity = f" ({_perplexity(change.value)})" if name == "delta_cross_entropy" else ""
        interval = "" if change.has_interval else " without an interval"
        yield text + interval + perplexity


def _perplexity(change: float) -> str:
    """exp(ΔCE) as a change of the perplexity.

    >>> [_perplexity(x).replace("\u00a0", " ") for x in (0.0089, -0.03, 2.0, 900.0)]
    ['+0.9 % perplexity', '−3.0 % perplexity', '7.4 × the perplexity', '∞ × the perplexity']
    """
    factor = math.exp(change) if change < 700 else math.inf
    if factor >= 2:
        return f"{_unbroken(write_number(factor, 2) + ' ×')} the perplexity"
    return f"{_unbroken(percent_change(math.expm1(change)))} perplexity"


def _divergence(
    result: Comparison,
    candidate: CandidateComparison,
    ranked: RankedCandidate | None,
    measures: Mapping[str, Measurement],
) -> Iterator[str]:
    """The KL over the noise of another type where that is known, else the KL or its bounds."""
    kl = measures.get("kl")
    if kl is not None:
        # With joint intervals where the table of the candidates has them.
        above = candidate.above_noise if ranked is None else ranked.above_noise
        if above is False:
            yield "KL not above the noise of another batch shape"
        elif ranked is not None and ranked.noise_ratio is not None:
            ratio = _unbroken(write_number(ranked.noise_ratio, 2) + " ×")
            yield f"KL {ratio} the {noise_type(result)} noise"
        else:
            yield f"KL {_unbroken(str(write(kl, measure('kl'))))}"
    elif "kl_lower_bound" in measures:
        low, high = measures["kl_lower_bound"].value, measures["kl_upper_bound"].value
        low = low if low >= ROUNDING else 0.0
        if math.isfinite(high):
            yield f"KL between {_unbroken(f'{_ends(low, high)} nats/token')}"
        else:
            yield f"KL at least {_unbroken(write_number(low, 3) + ' nats/token')}"
    elif result.kind == "token records":
        yield "KL unknown"


def _ends(low: float, high: float) -> str:
    """Two numbers with the digits that tell them apart, six at most.

    >>> _ends(0.5519, 0.5521), _ends(0.01, 0.03)
    ('0.5519 and 0.5521', '0.0100 and 0.0300')
    """
    for digits in (3, 4, 5):
        ends = write_number(low, digits), write_number(high, digits)
        if ends[0] != ends[1]:
            break
    else:
        ends = write_number(low, 6), write_number(high, 6)
    return " and ".join(ends)


def noise_type(result: Comparison) -> str:
    """The type of arithmetic with the largest noise floor, which the ratios are over.

    Empty where none was measured.
    """
    floors = {
        name: floor.value for name, floor in result.noise_floor.items() if name != BATCH_SHAPE
    }
    return max(floors, key=lambda name: floors[name]) if floors else ""


def floor_text(floor: Measurement) -> str:
    """A noise floor; one that is nothing but the rounding of float64 is only bounded.

    >>> floor_text(Measurement(3e-15, "nats/token", 1e-16, 9, 9, "")).replace("\u00a0", " ")
    '< 10⁻¹³ nats/token'
    """
    text = below_rounding(floor.unit) if floor.value < ROUNDING else write(floor, measure("kl"))
    return _unbroken(str(text))


# --- the conclusion ------------------------------------------------------------------------


def _conclusion(result: Comparison, names: Mapping[str, str]) -> str:
    """Which candidate to choose, and how sure that is."""
    if not result.ranked or all(candidate.identical for candidate in result.candidates):
        return ""
    if result.budget is not None:
        return _within_budget(result, names, result.budget)
    return _within_tolerance(result, names)


def _within_tolerance(result: Comparison, names: Mapping[str, str]) -> str:
    """The smallest candidate within the tolerance."""
    ranked = result.ranked
    within = f"within {_unbroken(f'{result.tolerance:g} nats/token')}"
    accepted = [candidate for candidate in ranked if candidate.within_tolerance]
    if len(ranked) == 1:
        name = names[ranked[0].name]
        if accepted:
            return f"{name} is {within} of the reference{_beyond(ranked[0], result.tolerance)}."
        return f"{name} is not {within} of the reference{_reaches(ranked[0], result.tolerance)}."
    if not accepted:
        return f"No candidate is {within}; {_nearest(ranked, names)}."
    chosen = next((candidate for candidate in ranked if candidate.name == result.choice), None)
    if chosen is None:
        listed = ", ".join(names[candidate.name] for candidate in accepted)
        known = any(candidate.size_bytes is not None for candidate in accepted)
        why = "none is smaller than the reference" if known else "their sizes are unknown"
        return f"Candidates {within}: {listed}; {why}."
    text = f"Smallest candidate {within}: {names[chosen.name]}"
    if chosen.share_of_original is not None and chosen.share_of_original >= 1:
        text += ", which is no smaller than the reference"
    text += _beyond(chosen, result.tolerance)
    return text + "." + _unknown_sizes(accepted, names)


def _within_budget(result: Comparison, names: Mapping[str, str], budget: int) -> str:
    """The nearest candidate that fits, or the smallest of those that cannot be told from it."""
    ranked, size = result.ranked, _unbroken(byte_size(budget))
    known = [candidate for candidate in ranked if candidate.size_bytes is not None]
    fitting = [candidate for candidate in known if candidate.fits_budget]
    if not known:
        return f"No candidate can be compared with {size}: their sizes are unknown."
    if not fitting:
        smallest = min(known, key=lambda candidate: candidate.size_bytes or 0)
        takes = _unbroken(byte_size(smallest.size_bytes or 0))
        which = (
            names[smallest.name] if len(ranked) == 1 else f"the smallest, {names[smallest.name]},"
        )
        text = f"No candidate fits into {size}: {which} takes {takes}."
        return text + _unknown_sizes(ranked, names)
    tied = [candidate for candidate in fitting if candidate.tied_with_best]
    chosen = next((c for c in fitting if c.name == result.choice), fitting[0])
    name = names[chosen.name]
    if len(ranked) == 1:
        text = f"{name} fits into {size}."
    elif len(tied) > 1:
        listed = ", ".join(names[candidate.name] for candidate in tied)
        text = (
            f"Best candidate within {size}: {name}, the smallest of {len(tied)} that this text "
            f"cannot tell apart ({listed})."
        )
    elif len(fitting) == 1:
        text = f"Best candidate within {size}: {name}, the only one that fits."
    else:
        text = f"Best candidate within {size}: {name}, the nearest to the reference that fits"
        text += _undecided(fitting, names) + "."
    return text + _unknown_sizes(ranked, names)


def _nearest(ranked: Sequence[RankedCandidate], names: Mapping[str, str]) -> str:
    """The nearest candidate, and what cannot be told from it."""
    tied = [candidate for candidate in ranked if candidate.tied_with_best]
    nearest = names[ranked[0].name]
    if len(tied) < 2:
        return f"the nearest is {nearest}{_undecided(ranked, names)}"
    listed = ", ".join(names[candidate.name] for candidate in tied)
    text = f"the nearest are {listed}, which this text cannot tell apart"
    known = [candidate for candidate in tied if candidate.size_bytes is not None]
    if len(known) < len(tied):
        return text
    smallest = min(known, key=lambda candidate: (candidate.size_bytes or 0, candidate.kl.value))
    return f"{text}; {names[smallest.name]} is the smallest of them"


def _undecided(candidates: Sequence[RankedCandidate], names: Mapping[str, str]) -> str:
    """What the text has too few independent pieces to tell from the nearest."""
    listed = [names[other.name] for other in candidates if other.tied_with_best is None]
    if not listed:
        return ""
    return f" by its value: too few independent pieces of text to tell it from {', '.join(listed)}"


def _unknown_sizes(candidates: Sequence[RankedCandidate], names: Mapping[str, str]) -> str:
    unknown = [names[candidate.name] for candidate in candidates if candidate.size_bytes is None]
    return f" Of unknown size: {', '.join(unknown)}." if unknown else ""


def _beyond(candidate: RankedCandidate, tolerance: float) -> str:
    """What is to be said where the value is within the tolerance and the interval is not."""
    change = candidate.delta_cross_entropy
    if not change.has_interval:
        return ", as far as a value without an interval tells"
    high = change.interval[1]
    if high <= tolerance:
        return ""
    return f", but its interval reaches {_unbroken(f'+{write_number(high, 2)}')}"


def _reaches(candidate: RankedCandidate, tolerance: float) -> str:
    """What is to be said where the value is beyond the tolerance and the interval is not."""
    low = candidate.delta_cross_entropy.interval[0]
    if not candidate.delta_cross_entropy.has_interval or low > tolerance:
        return ""
    sign = "+" if low > 0 else ""
    return f", but its interval begins at {_unbroken(sign + write_number(low, 2))}"


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")
