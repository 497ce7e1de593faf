"""The verdict on a comparison, and the headline of an evaluation."""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace
from text_samples import (
    comparison_results,
    measured,
    nearly_empty_comparison,
    nearly_empty_stored,
    nearly_empty_text,
    several_candidates,
    stored_results,
    text_results,
    with_candidate,
)

from kullback.report.candidates import candidate_table
from kullback.report.verdict import INDISTINGUISHABLE, comparison_verdict, evaluation_verdict
from kullback.results.comparison import Comparison


def compared(
    change: float,
    half: float | None,
    *,
    size: int | None = 220_000_000,
    original: int | None = 538_000_000,
    ratio: float | None = 4.8,
    above: bool | None = True,
    accepted: bool | None = None,
) -> Comparison:
    """One candidate, m@int8, of that ΔCE ± half; its KL is 0.0012 ± 0.0003."""
    result = comparison_results()
    ranked = replace(
        result.ranked[0],
        name="m@int8",
        size_bytes=size,
        share_of_original=size / original if size and original else None,
        kl=measured(0.0012, 0.0003),
        delta_cross_entropy=measured(change, half),
        top1_agreement=measured(0.964, 0.002, ""),
        noise_ratio=ratio,
        above_noise=above,
        within_tolerance=change <= 0.01 if accepted is None else accepted,
    )
    first = result.candidates[0]
    candidate = replace(
        first, operand=replace(first.operand, name="m@int8", size_bytes=size), above_noise=above
    )
    floor = {"batch shape": measured(1e-15, 1e-16), "bfloat16": measured(0.00025, 0.00001)}
    return replace(
        result,
        reference=replace(result.reference, name="m", size_bytes=original),
        candidates=(candidate,),
        ranked=(ranked,),
        choice="m@int8",
        noise_floor=floor if ratio is not None else {},
    )


def pair(first: Comparison, second: Comparison) -> Comparison:
    """Both candidates in one comparison, the second under the name m@int4."""
    candidate, ranked = second.candidates[0], replace(second.ranked[0], name="m@int4")
    other = replace(candidate, operand=replace(candidate.operand, name="m@int4"))
    return replace(
        first,
        candidates=(*first.candidates, other),
        ranked=(*first.ranked, ranked),
        choice="m@int4" if ranked.within_tolerance else first.choice,
    )


def text_of(result: Comparison) -> str:
    """The verdict with ordinary spaces."""
    return str(comparison_verdict(result)).replace("\u00a0", " ")


def test_sentences_of_the_verdict():
    """The golden sentences: one for each form that a verdict takes."""
    good, smaller = compared(0.0089, 0.0011), compared(0.0095, 0.0034, size=110_000_000)
    assert text_of(pair(good, smaller)).splitlines() == [
        "int8: 220 MB of 538 MB (41 %), ΔCE +0.0089 ± 0.0011 nats/token (+0.9 % perplexity), "
        "top-1 agreement 96.4 %, KL 4.8 × the bfloat16 noise",
        "int4: 110 MB of 538 MB (20 %), ΔCE +0.0095 ± 0.0034 nats/token (+1.0 % perplexity), "
        "top-1 agreement 96.4 %, KL 4.8 × the bfloat16 noise",
        "Smallest candidate within 0.01 nats/token: int4, but its interval reaches +0.013.",
        "The intervals are joint: they hold for all candidates at once.",
    ]
    assert text_of(compared(0.0089, 0.0150, ratio=None)).splitlines() == [
        "int8: 220 MB of 538 MB (41 %), ΔCE +0.009 ± 0.015 nats/token: indistinguishable on this "
        "text, top-1 agreement 96.4 %, KL 0.00120 ± 0.00030 nats/token",
        "int8 is within 0.01 nats/token of the reference, but its interval reaches +0.024.",
    ]
    assert text_of(compared(2.0, None, size=None)).splitlines() == [
        "int8: ΔCE +2 nats/token without an interval (7.4 × the perplexity), top-1 agreement "
        "96.4 %, KL 4.8 × the bfloat16 noise",
        "int8 is not within 0.01 nats/token of the reference.",
    ]
    assert text_of(with_candidate(compared(0.0, 0.0), identical=True)).splitlines() == [
        "int8: 220 MB of 538 MB (41 %), identical: every KL is 0",
    ]
    assert text_of(stored_results()).splitlines() == ["book.rec: KL at least 0.0123 nats/token"]


def test_nothing_is_claimed_where_the_interval_contains_zero():
    """There is no change of the perplexity where its sign is unknown."""
    for change, half, claimed in ((0.002, 0.001, True), (0.002, 0.003, False)):
        shown = text_of(compared(change, half))
        assert ("perplexity" in shown) is claimed
        assert (INDISTINGUISHABLE in shown) is not claimed


def test_an_interval_that_reaches_beyond_the_tolerance_is_said_to():
    """The upper end counts where the value is within, the lower end where it is not."""
    assert "reaches" not in text_of(compared(0.005, 0.001))
    assert "reaches +0.012" in text_of(compared(0.008, 0.004))
    assert "begins at +0.0070" in text_of(compared(0.011, 0.004))
    assert "begins" not in text_of(compared(0.05, 0.001))
    assert "without an interval" in text_of(compared(0.005, None))


def test_sizes_may_be_unknown():
    """Without sizes there is no smallest candidate; without the reference's, no share."""
    unknown = compared(0.005, 0.001, size=None)
    shown = text_of(replace(pair(unknown, unknown), choice=None))
    assert "Smallest" not in shown
    assert "int8, int4" in shown
    assert "sizes are unknown" in shown
    assert "%)" not in text_of(compared(0.005, 0.001, original=None)).partition(",")[0]


def test_no_candidate_may_be_within_the_tolerance():
    """Then none is chosen."""
    bad = compared(0.5, 0.01)
    verdict = comparison_verdict(replace(pair(bad, bad), choice=None))
    said = verdict.conclusion.replace("\u00a0", " ")
    assert said == "No candidate is within 0.01 nats/token; the nearest is int8."
    tied = pair(bad, compared(0.5, 0.01, size=110_000_000))
    ranked = tuple(replace(row, group=1, tied_with_best=True) for row in tied.ranked)
    shown = text_of(replace(tied, choice=None, ranked=ranked))
    assert "the nearest are int8, int4, which this text cannot tell apart" in shown
    assert "int4 is the smallest of them" in shown


def test_what_a_short_text_leaves_undecided_is_not_tied():
    """The nearest is so by its value, and the table says from what it is not told."""
    bad = compared(0.5, 0.01)
    result = replace(pair(bad, bad), choice=None)
    first, second = result.ranked
    ranked = (
        replace(first, group=1, tied_with_best=True, fits_budget=True),
        replace(second, group=2, undecided=True, tied_with_best=None, fits_budget=True),
    )
    undecided = replace(result, ranked=ranked)
    for budget in (None, 300_000_000):
        shown = text_of(replace(undecided, budget=budget))
        assert "too few independent pieces of text to tell it from int4" in shown
        assert "cannot" not in shown
    table = candidate_table(undecided)
    assert [row.remark for row in table.candidates] == ["", "not told from int8"]
    assert any("too few" in meaning for meaning in table.meanings)
    assert not any("tied" in meaning for meaning in table.meanings)
    assert Comparison.from_json(undecided.to_json()) == undecided


def within_budget(
    budget: int, tied: bool, sizes: tuple[int | None, int | None] = (220_000_000, 110_000_000)
) -> str:
    """The conclusion of two candidates, int8 the nearer."""
    result = pair(compared(0.02, 0.001, size=sizes[0]), compared(0.05, 0.001, size=sizes[1]))
    fits = [None if size is None else size <= budget for size in sizes]
    best = fits.index(True) if True in fits else 0
    with_best = [i == best or (tied and best == 0 and i == 1) for i in range(2)]
    ranked = tuple(
        replace(row, fits_budget=fits[i], tied_with_best=with_best[i], group=1 if tied else i + 1)
        for i, row in enumerate(result.ranked)
    )
    accepted = [row for row in ranked if row.fits_budget and row.tied_with_best]
    choice = min(accepted, key=lambda row: row.size_bytes or 0).name if accepted else None
    shown = replace(result, ranked=ranked, budget=budget, choice=choice)
    return comparison_verdict(shown).conclusion.replace("\u00a0", " ")


def test_sentences_of_a_budget():
    """The nearest that fits, the smallest of those tied with it, the only one, or none."""
    assert within_budget(300_000_000, tied=False) == (
        "Best candidate within 300 MB: int8, the nearest to the reference that fits."
    )
    assert within_budget(300_000_000, tied=True) == (
        "Best candidate within 300 MB: int4, the smallest of 2 that this text cannot tell apart "
        "(int8, int4)."
    )
    assert within_budget(150_000_000, tied=False) == (
        "Best candidate within 150 MB: int4, the only one that fits."
    )
    assert within_budget(1_000_000, tied=False) == (
        "No candidate fits into 1.00 MB: the smallest, int4, takes 110 MB."
    )
    assert "Of unknown size: int8" in within_budget(10**9, False, (None, 110_000_000))
    assert "sizes are unknown" in within_budget(10**9, False, (None, None))


def test_a_choice_that_saves_nothing_is_said_to_save_nothing():
    """A candidate as large as the reference may be within the tolerance, and is no gain."""
    large = compared(0.001, 0.0001, size=538_000_000)
    assert "no smaller than the reference" in text_of(pair(large, large))
    small = compared(0.001, 0.0001)
    assert "no smaller" not in text_of(pair(small, small))


def test_a_candidate_larger_than_the_reference_is_not_recommended():
    """Where all that are within the tolerance are larger, the conclusion says so."""
    large = compared(0.001, 0.0001, size=900_000_000)
    shown = text_of(replace(pair(large, large), choice=None))
    assert "Smallest" not in shown
    assert "none is smaller than the reference" in shown


def test_joint_intervals_are_said_to_be_joint_once():
    """Of several candidates; the interval of a single one is its own."""
    one = compared(0.005, 0.001)
    assert text_of(pair(one, one)).count("joint") == 1
    assert "joint" not in text_of(one)


def test_a_kl_that_is_rounding_is_only_bounded():
    """Also beside noise that was not measured: no digit of 1e-31 means anything."""
    result = compared(0.005, 0.001, ratio=None)
    (ranked,) = result.ranked
    result = replace(result, ranked=(replace(ranked, kl=measured(1.17e-31, 1e-31)),))
    assert "KL < 10⁻¹³ nats/token" in text_of(result)
    assert "10⁻³¹" not in text_of(result)


def test_kl_is_related_to_the_noise():
    """A ratio to that of the other type, or not above that of another batch shape, or in nats."""
    assert "KL 4.8 × the bfloat16 noise" in text_of(compared(0.005, 0.001))
    assert "not above the noise" in text_of(compared(0.005, 0.001, above=False))
    assert "KL 0.00120 ± 0.00030 nats/token" in text_of(compared(0.005, 0.001, ratio=None))


def test_several_candidates_have_a_line_each():
    """In the order in which they were named, under their short names."""
    verdict = comparison_verdict(several_candidates())
    assert [line.partition(":")[0] for line in verdict.lines] == [
        *("int4", "bf16", "int8", "nf4", "broken"),
    ]


def test_bounds_token_records_and_bytes_have_verdicts():
    """Bounds of the KL, no KL at all, and ΔCE by byte and document."""
    bounds = {"kl_lower_bound": measured(0.01, 0.001), "kl_upper_bound": measured(0.03, 0.001)}
    shown = text_of(with_candidate(stored_results(), measures=bounds))
    assert "KL between 0.0100 and 0.0300 nats/token" in shown
    measures: dict[str, Any] = {"delta_cross_entropy": measured(0.02, 0.001)}
    records = with_candidate(replace(stored_results(), kind="token records"), measures=measures)
    assert "KL unknown" in text_of(records)
    measures = {
        "delta_cross_entropy_per_byte": measured(0.012, 0.002, "nats/byte"),
        "delta_cross_entropy_per_document": measured(34.0, 5.0, "nats/document"),
    }
    by_bytes = with_candidate(replace(stored_results(), kind="by bytes"), measures=measures)
    shown = text_of(by_bytes)
    assert "ΔCE +0.0120 ± 0.0020 nats/byte" in shown
    assert "+34.0 ± 5.0 nats/document" in shown


def test_extreme_numbers_have_verdicts():
    """Infinite and missing measures leave sentences."""
    shown = text_of(compared(math.inf, None))
    assert "ΔCE ∞ nats/token" in shown
    for result in (nearly_empty_comparison(), nearly_empty_stored()):
        assert "nothing was measured" in text_of(result)


def test_the_headline_of_an_evaluation():
    """Bits per byte, perplexity and top-1 accuracy, where they were measured."""
    headline = evaluation_verdict(text_results()).replace("\u00a0", " ")
    assert headline == (
        "0.812 ± 0.012 bits/byte, perplexity 12.30 [11.90, 13.10], top-1 accuracy 45.1 ± 1.2 %"
    )
    assert evaluation_verdict(nearly_empty_text()) == ""


def test_the_noise_is_that_of_the_table():
    """A KL that is above the noise by itself, and not with joint intervals, is marked in both."""
    result = compared(0.0089, 0.0013)
    row = replace(result.ranked[0], above_noise=False)
    result = replace(result, ranked=(row,))
    assert candidate_table(result).candidates[0].mark == "≈"
    assert "KL not above the noise of another batch shape" in text_of(result)


def test_a_bound_that_is_rounding_is_zero():
    """As every KL below the rounding of float64."""
    bounds = {"kl_lower_bound": measured(6e-32, 1e-32), "kl_upper_bound": measured(3.5, 0.1)}
    result = with_candidate(replace(stored_results(), kind="bounds"), measures=bounds)
    assert "KL between 0 and 3.50 nats/token" in text_of(result)


def test_tiny_changes_of_the_perplexity_have_their_sign():
    """Below what three decimals of a per cent show."""
    assert "< +0.001 % perplexity" in text_of(compared(2e-8, 1e-8))
    assert "> −0.001 % perplexity" in text_of(compared(-2e-8, 1e-8))
