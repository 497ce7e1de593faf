"""The terminal's summary of a comparison."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from terminal_text import cells, printed
from text_samples import (
    comparison_results,
    measured,
    nearly_empty_comparison,
    nearly_empty_stored,
    several_candidates,
    stored_results,
    with_candidate,
)

from kullback.report.labels import measure
from kullback.report.numbers import write
from kullback.report.terminal.comparison import comparison_summary

RESULTS = {
    "one candidate": comparison_results,
    "several": several_candidates,
    "hostile": lambda: comparison_results(hostile=True),
    "nearly empty": nearly_empty_comparison,
    "files": stored_results,
    "hostile files": lambda: stored_results(hostile=True),
    "empty files": nearly_empty_stored,
}


@pytest.mark.parametrize("kind", RESULTS)
def test_no_line_is_wider_than_the_terminal_or_100_columns(kind):
    """On a terminal of 200 columns no line takes more than 100, and on one of 80 none over 80."""
    for width, most in ((200, 100), (100, 100), (80, 80)):
        lines = printed(comparison_summary(RESULTS[kind](), verbose=True), width).splitlines()
        assert lines
        assert max(cell_len(line) for line in lines) <= most


@pytest.mark.parametrize("kind", ["hostile", "hostile files"])
def test_a_text_cannot_steer_the_terminal(kind):
    """Escapes and marks of direction are shown as pictures, and markup of styles as it is."""
    shown = printed(comparison_summary(RESULTS[kind]()))
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    joined = "".join(line.strip() for line in shown.splitlines())  # names may fold anywhere
    assert "␛[31m" in joined
    assert "[red]" in joined


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut(width):
    """The values of every candidate and measure are whole, and nothing is an ellipsis."""
    result = several_candidates()
    shown = printed(comparison_summary(result, verbose=True), width)
    assert "…" not in shown
    lines = shown.splitlines()
    for candidate in result.ranked:
        for measurement in (candidate.kl, candidate.delta_cross_entropy):
            value = write(measurement).value.lstrip("+")
            assert any(value in line for line in lines), value
    for name, measurement in result.measures.items():
        assert write(measurement, measure(name)).value.removesuffix(" %") in shown


def test_the_verdict_is_above_the_table_and_the_detail_below():
    """Title, a line for each candidate, the conclusion, the reference's row, then the measures."""
    shown = printed(comparison_summary(several_candidates()))
    order = ["5 candidates", "int8: 2.00 MB", "within 0.01", "(reference)", "int4 ", "in detail"]
    places = [shown.index(part) for part in order]
    assert places == sorted(places)


def test_the_reference_is_the_first_row():
    """Its size is all of the original, and it has no KL."""
    lines = printed(comparison_summary(several_candidates())).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("candidate"))
    assert lines[header + 1].split()[:4] == ["model", "4.00", "MB", "100"]
    assert "(reference)" in lines[header + 2]


def test_a_dominated_candidate_is_named_as_such():
    """The name of the candidate that is smaller and nearer is in its row."""
    assert "(dominated by int4)" in printed(comparison_summary(several_candidates()))


def test_sizes_are_said_to_be_packed_where_there_are_any():
    """Once, below the table of candidates."""
    result = several_candidates()
    assert printed(comparison_summary(result)).count("packed to their bits") == 1
    without = replace(
        result,
        reference=replace(result.reference, size_bytes=None),
        ranked=tuple(replace(row, size_bytes=None) for row in result.ranked),
    )
    assert "packed" not in printed(comparison_summary(without))


def test_joint_intervals_are_said_to_be_joint():
    """The titles say so for several candidates, and not for one."""
    assert "joint 95 %" in printed(comparison_summary(several_candidates()))
    assert printed(comparison_summary(several_candidates())).count("intervals are joint") == 1
    one = replace(comparison_results(), ranked=comparison_results().ranked[1:2])
    assert "joint" not in printed(comparison_summary(one))


def test_design_effects_are_shown_on_request():
    """Only `verbose` shows them."""
    result = comparison_results()
    assert "effective" not in printed(comparison_summary(result))
    assert "effective" in printed(comparison_summary(result, verbose=True))


def test_a_noise_floor_of_rounding_alone_is_only_bounded():
    """A floor of 1e-15 is below 10⁻¹³; others are shown with their intervals."""
    floor = {"batch shape": measured(1e-15, 1e-16), "bfloat16": measured(3.21e-7, 0.43e-7)}
    shown = printed(comparison_summary(replace(comparison_results(), noise_floor=floor)))
    assert "batch shape < 10⁻¹³ nats/token" in shown
    assert "(3.21 ± 0.43) × 10⁻⁷ nats/token" in shown


def test_candidates_have_their_ratio_to_the_noise():
    """The column is named after the type of the floor, and is there only where one was measured."""
    result = several_candidates()
    ranked = tuple(replace(candidate, noise_ratio=4.8) for candidate in result.ranked)
    floor = {"batch shape": measured(1e-15, 1e-16), "bfloat16": measured(3.21e-7, 0.43e-7)}
    shown = printed(comparison_summary(replace(result, ranked=ranked, noise_floor=floor)))
    assert "4.8 ×" in cells_text(shown, "int8 ")
    assert "bfloat16" in shown
    assert "KL over" not in printed(comparison_summary(result))


def cells_text(shown: str, label: str) -> str:
    """The rest of a row, after the candidates' header."""
    return " ".join(cells(shown[shown.index("\ncandidate ") :], label))


def test_candidates_that_are_not_above_the_noise_are_marked():
    """The mark follows their KL, and one line explains it."""
    shown = printed(comparison_summary(several_candidates()))
    assert "0 ± 0 ≈" in cells_text(shown, "bf16 ")
    assert "≈" not in cells_text(shown, "int8 ")
    assert shown.count("≈") == 2
    ranked = tuple(replace(each, above_noise=None) for each in comparison_results().ranked)
    assert "≈" not in printed(comparison_summary(replace(comparison_results(), ranked=ranked)))


def test_a_candidate_of_unknown_size_has_a_dash():
    """A recording that does not say its size has – in its place."""
    result = several_candidates()
    ranked = tuple(
        replace(candidate, size_bytes=None, share_of_original=None) for candidate in result.ranked
    )
    shown = printed(comparison_summary(replace(result, ranked=ranked)))
    assert cells_text(shown, "int8 ").split()[:2] == ["–", "–"]


def test_layers_beyond_the_twelfth_are_counted():
    """Twelve groups are shown, the others counted; the sum is beside the KL of all together."""
    layer = comparison_results().sensitivity[0]
    many = tuple(replace(layer, layer=f"layer {i}.") for i in range(30))
    shown = printed(comparison_summary(replace(comparison_results(), sensitivity=many)))
    assert "layer 11." in shown
    assert "layer 12." not in shown
    assert "and 18 more groups" in shown
    assert "0.01100 nats/token" in shown
    assert "0.01230" in shown


def test_an_infinite_kl_is_shown():
    """∞ with its unit, and no interval."""
    result = with_candidate(comparison_results(), measures={"kl": measured(math.inf, None)})
    assert cells(printed(comparison_summary(result)), "KL(reference‖candidate)") == [
        "∞",
        "nats/token",
    ]


def test_identical_models_have_no_detail():
    """Neither measures nor tokens are listed where every KL is 0."""
    result = with_candidate(replace(comparison_results(), sensitivity=()), identical=True)
    shown = printed(comparison_summary(result))
    assert "identical: every KL is 0" in shown
    assert "KL(reference‖candidate)" not in shown
    assert "most probable" not in shown


def test_worst_tokens_are_in_their_context_with_both_expectations():
    """KL, the text before the token, the token, and the most probable token of both models."""
    shown = printed(comparison_summary(comparison_results()))
    line = next(line for line in shown.splitlines() if "before book.txtbook.txt" in line)
    assert "␣the 0.500" in line
    assert line.split()[0] == "5"


def test_files_are_shown_with_both_origins():
    """Each operand has a line with its protocol and fingerprint; without one, none."""
    result = stored_results()
    how = dict(sorted(result.reference.protocol["protocol"].items()))  # as a file has them
    reference = replace(result.reference, protocol={**result.reference.protocol, "protocol": how})
    shown = printed(comparison_summary(replace(result, reference=reference)))
    for line in (
        "12,345 tokens scored\n",
        "reference: sliding, window 512, bos book.txt, float32, cpu, fingerprint fedcba9876543210",
        "candidate: sliding, window 512, bos book.txt, bfloat16, cpu, fingerprint 0123456789abcdef",
        "median 0.00300, 99 % 0.250, maximum ∞",
        "Mean KLD: 0.5",
    ):
        assert line in shown, line
    assert "fingerprint" not in printed(comparison_summary(nearly_empty_stored()))
