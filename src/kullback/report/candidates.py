"""The candidates' table as text: the reference first, then the candidates, the nearest first.

Terminal, HTML report and notebook show the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kullback.report.labels import NOT_ABOVE, measure
from kullback.report.names import candidate_names, reference_name
from kullback.report.numbers import (
    NO_NUMBER,
    Written,
    byte_size,
    percent_change,
    write,
    write_number,
)
from kullback.report.verdict import noise_type, share_of_original
from kullback.results.comparison import Comparison, RankedCandidate
from kullback.runtime.escaping import visible

__all__ = ["CandidateRow", "CandidateTable", "candidate_table"]


SIZES = "sizes: of the weights, their integers packed to their bits"
FILE_SIZES = "sizes: of the .gguf files"
BOTH_SIZES = f"{SIZES}; of a .gguf file, the file"
TIED = "tied: the joint 95 % interval of their paired difference in KL contains 0"
UNDECIDED = "not told from: too few independent pieces for an interval of the difference in KL"


@dataclass(frozen=True)
class CandidateRow:
    """A row; KL and ΔCE in nats/token."""

    name: str
    remark: str
    """That it is the reference, is dominated, or is to be chosen; may be empty."""
    size: str
    share: str
    """Of the reference's size."""
    full_name: str
    kl: Written | None = None
    """None for the reference, as all that follows."""
    mark: str = ""
    """`NOT_ABOVE` where the KL is not above the noise floor."""
    ratio: str = NO_NUMBER
    """KL over the noise of another type."""
    change: Written | None = None
    """ΔCE."""
    perplexity: str = NO_NUMBER
    """Relative change of the perplexity."""
    agreement: Written | None = None
    """Top-1 agreement."""


@dataclass(frozen=True)
class CandidateTable:
    """All rows, and what the titles of the columns must say."""

    reference: CandidateRow
    candidates: tuple[CandidateRow, ...]
    interval: str
    """``joint 95 %`` or ``95 %``; empty where there are no intervals."""
    other_type: str
    """Of the noise that KL is related to; empty where that was not measured."""
    meanings: tuple[str, ...]
    """What the sizes are of, and what the remarks on ties mean; each where there are any."""

    @property
    def rows(self) -> tuple[CandidateRow, ...]:
        """The reference, then the candidates."""
        return (self.reference, *self.candidates)


def candidate_table(result: Comparison) -> CandidateTable:
    """The table of a result that has a ranking."""
    ranked, reference = result.ranked, result.reference
    interval = "joint 95 %" if len(ranked) > 1 else "95 %"
    sizes = [reference.size_bytes, *(candidate.size_bytes for candidate in ranked)]
    has_ratio = any(candidate.noise_ratio is not None for candidate in ranked)
    return CandidateTable(
        reference=CandidateRow(
            reference_name(result),
            "reference",
            NO_NUMBER if reference.size_bytes is None else byte_size(reference.size_bytes),
            NO_NUMBER if reference.size_bytes is None else "100 %",
            visible(reference.name),
        ),
        candidates=tuple(_row(candidate, result) for candidate in ranked),
        interval=interval if any(candidate.kl.has_interval for candidate in ranked) else "",
        other_type=noise_type(result) if has_ratio else "",
        meanings=(
            *([_sizes(result)] if any(size is not None for size in sizes) else ()),
            *([TIED] if any(a.group == b.group > 0 for a, b in pairwise(ranked)) else ()),
            *([UNDECIDED] if any(candidate.undecided for candidate in ranked) else ()),
        ),
    )


def _sizes(result: Comparison) -> str:
    """What the sizes that are known are of."""
    operands = [result.reference, *(candidate.operand for candidate in result.candidates)]
    files = {
        operand.name.partition("@")[0].endswith(".gguf")
        for operand in operands
        if operand.size_bytes is not None
    }
    return BOTH_SIZES if len(files) > 1 else FILE_SIZES if True in files else SIZES


def _row(candidate: RankedCandidate, result: Comparison) -> CandidateRow:
    names = candidate_names(result)
    size, share, ratio = candidate.size_bytes, candidate.share_of_original, candidate.noise_ratio
    change = candidate.delta_perplexity.value
    return CandidateRow(
        name=names[candidate.name],
        remark=_remark(candidate, result),
        size=NO_NUMBER if size is None else byte_size(size),
        share=NO_NUMBER if share is None else share_of_original(share),
        full_name=visible(candidate.name),
        kl=write(candidate.kl, measure("kl")),
        mark=NOT_ABOVE if candidate.above_noise is False else "",
        ratio=NO_NUMBER if ratio is None else f"{write_number(ratio, 2)} ×",
        change=write(candidate.delta_cross_entropy, measure("delta_cross_entropy")),
        perplexity=percent_change(change),
        agreement=write(candidate.top1_agreement, measure("top1_agreement")),
    )


def _remark(candidate: RankedCandidate, result: Comparison) -> str:
    names, remarks = candidate_names(result), []
    if candidate.dominated_by is not None:
        remarks.append(f"dominated by {names[candidate.dominated_by]}")
    if candidate.name == result.choice and len(result.ranked) > 1:
        if result.budget is None:
            remarks.append(f"smallest within {result.tolerance:g} nats/token")
        else:
            remarks.append(f"best within {byte_size(result.budget)}")
    elif candidate.fits_budget is False:
        remarks.append(f"more than {byte_size(result.budget or 0)}")
    tied = [
        names[other.name]
        for other in result.ranked
        if other.group == candidate.group > 0 and other.name != candidate.name
    ]
    if tied:
        remarks.append(f"tied with {', '.join(tied)}")
    remarks += [
        f"not told from {names[before.name]}"
        for before, after in pairwise(result.ranked)
        if after.name == candidate.name and after.undecided
    ]
    return "; ".join(remarks)
