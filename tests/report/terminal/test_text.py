"""The summaries of an evaluation on text and of a comparison in the terminal."""

from __future__ import annotations

import io
import math

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console, RenderableType
from text_samples import (
    comparison_results,
    measured,
    nearly_empty_comparison,
    nearly_empty_stored,
    nearly_empty_text,
    stored_results,
    text_results,
    with_candidate,
)

from kullback.report.terminal.text import comparison_summary, evaluation_summary, stored_summary


def printed(shown: RenderableType, width: int = 200) -> str:
    """What a terminal of that width, without colours, would show."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(shown)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


SUMMARIES = {
    "evaluation": lambda: evaluation_summary(text_results()),
    "hostile evaluation": lambda: evaluation_summary(text_results(hostile=True)),
    "empty evaluation": lambda: evaluation_summary(nearly_empty_text()),
    "comparison": lambda: comparison_summary(comparison_results()),
    "hostile comparison": lambda: comparison_summary(comparison_results(hostile=True)),
    "empty comparison": lambda: comparison_summary(nearly_empty_comparison()),
    "files": lambda: stored_summary(stored_results()),
    "hostile files": lambda: stored_summary(stored_results(hostile=True)),
    "empty files": lambda: stored_summary(nearly_empty_stored()),
}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_no_line_is_wider_than_100_columns(kind):
    """On a terminal of 200 columns no line takes more than 100, and on one of 80 none over 80."""
    for width, most in ((200, 100), (80, 80)):
        lines = printed(SUMMARIES[kind](), width).splitlines()
        assert lines
        assert max(cell_len(line) for line in lines) <= most


@pytest.mark.parametrize("kind", ["hostile evaluation", "hostile comparison", "hostile files"])
def test_a_text_cannot_steer_the_terminal(kind):
    """Escapes and marks of direction come out as pictures, and markup of styles as it stands."""
    shown = printed(SUMMARIES[kind]())
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert "␛[31m" in shown
    assert "[red]" in shown
    assert "{{7*7}}" in shown


def row(shown: str, label: str) -> list[str]:
    """The words of the line that begins with `label`."""
    line = next(line for line in shown.splitlines() if line.startswith(label))
    return line.removeprefix(label).split()


def test_values_have_the_digits_that_their_interval_warrants():
    """Two significant digits of the half interval, and the value with the same decimals."""
    shown = printed(SUMMARIES["evaluation"]())
    assert row(shown, "Cross-entropy") == ["2.512", "±", "0.034", "nats/token", "4", "250"]
    assert row(shown, "Bits per byte") == ["0.812", "±", "0.012", "bits/byte", "4", "250"]
    assert row(shown, "Perplexity") == ["12.30", "[11.90,", "13.10]", "4", "250"]
    assert row(shown, "Top-1 accuracy") == ["45.1", "±", "1.2", "%", "4", "250"]
    assert row(shown, "Word perplexity") == ["∞", "–", "–"]
    assert row(shown, "Overconfidence") == ["–", "–", "–"]


def test_protocol_stands_in_one_line_with_the_short_fingerprint():
    """Preset, window, BOS, type and device without hashes, and 16 digits of the fingerprint."""
    results = replace(text_results(), fingerprint="0123456789abcdef" * 4)
    shown = printed(evaluation_summary(results))
    assert (
        "protocol: sliding, window 512, bos book.txt, float32, cpu; fingerprint 0123456789abcdef\n"
        in shown
    )
    assert "a" * 64 not in shown


def test_notes_and_methods_are_shown_once():
    """What all intervals come from is one line; each note is another."""
    shown = printed(SUMMARIES["evaluation"]())
    assert shown.count("• 20 documents: ratio of sums\n") == 1
    assert "• book.txt\n" in shown


@pytest.mark.parametrize(
    ("above", "words"),
    [(True, "is above the noise floor"), (False, "is not above the noise floor")],
)
def test_comparison_says_where_the_noise_is(above, words):
    """KL ± half, its verdict, and the floor in the line below."""
    shown = printed(comparison_summary(with_candidate(comparison_results(), above_noise=above)))
    assert f"KL(reference‖candidate) 0.01234 ± 0.00056 nats/token {words}\n" in shown
    assert "the reference against itself, batch shape: (3.21 ± 0.43) × 10⁻⁷ nats/token\n" in shown


def test_a_noise_of_another_type_that_is_larger_is_marked():
    """A KL above the batch's noise, but not above what another type makes, is shown as both."""
    results = comparison_results()
    batch = results.noise_floor["batch shape"]
    floor = {"batch shape": batch, "bfloat16": measured(0.05, 0.01)}
    shown = printed(comparison_summary(replace(results, noise_floor=floor)))
    assert "bfloat16: 0.050 ± 0.010 nats/token, which is no less\n" in shown
    assert shown.count("which is no less") == 1


def test_comparison_without_a_noise_floor_says_so():
    """Where no floor was measured the line says that, and gives no verdict."""
    results = with_candidate(replace(comparison_results(), noise_floor={}), above_noise=None)
    shown = printed(comparison_summary(results))
    assert "0.00056 nats/token; the noise floor was not measured\n" in shown


def test_comparison_lists_schemes_layers_and_worst_tokens():
    """Schemes under their short names, the sum of parts beside the whole, tokens in context."""
    shown = printed(SUMMARIES["comparison"]())
    assert row(shown, "int4 ") == [
        "1.00", "MB", "0.0123", "±", "0.0025", "+0.010", "±", "0.020",
        "90.0", "±", "1.0", "%", "●",
    ]  # fmt: skip
    assert row(shown, "nf4 ")[-1] == "%"  # not on the front
    assert "the parts add up to 0.01100 nats/token, all together cost 0.01230\n" in shown
    assert "before book.txtbook.txt" in shown
    assert "␣the 0.500" in shown
    assert "median 0.00300, 99 % 0.250, maximum ∞" in shown


def test_many_layers_are_cut_and_counted():
    """Of 30 groups the first 12 are shown, and the rest are counted."""
    one = comparison_results().sensitivity[0]
    many = tuple(replace(one, layer=f"layer {i}.") for i in range(30))
    shown = printed(comparison_summary(replace(comparison_results(), sensitivity=many)))
    assert "layer 11." in shown
    assert "layer 12." not in shown
    assert "and 18 more groups\n" in shown


def test_an_infinite_kl_is_shown():
    """Where the candidate excludes what the reference expects, KL is ∞ and has no interval."""
    results = with_candidate(comparison_results(), measures={"kl": measured(math.inf, None)})
    shown = printed(comparison_summary(results))
    assert "KL(reference‖candidate) ∞ nats/token" in shown


def test_schemes_that_are_not_above_the_noise_are_marked():
    """The mark stands behind the KL of those alone, and one line explains it."""
    shown = printed(SUMMARIES["comparison"]())
    assert row(shown, "bf16 ")[2:6] == ["0", "±", "0", "≈"]
    assert "≈" not in row(shown, "int8 ")
    assert "≈ not above the noise floor: rounding alone makes as large a KL\n" in shown
    schemes = tuple(replace(each, above_noise=None) for each in comparison_results().ranked)
    unknown = comparison_summary(replace(comparison_results(), ranked=schemes))
    assert "≈" not in printed(unknown)


def test_a_scheme_of_unknown_size_has_a_dash():
    """A recording that does not say its size has – in its place."""
    schemes = tuple(replace(each, size_bytes=None) for each in comparison_results().ranked)
    shown = printed(comparison_summary(replace(comparison_results(), ranked=schemes)))
    assert row(shown, "int8 ")[0] == "–"


def test_files_are_shown_with_both_origins():
    """Each side has a line with its protocol and fingerprint, in one order; without one, none."""
    results = stored_results()
    how = dict(sorted(results.reference.protocol["protocol"].items()))  # as a file has them
    shown = printed(
        stored_summary(
            replace(
                results,
                reference=replace(
                    results.reference, protocol={**results.reference.protocol, "protocol": how}
                ),
            )
        )
    )
    for line in (
        "12,345 tokens scored\n",
        "reference: sliding, window 512, bos book.txt, float32, cpu; fingerprint fedcba9876543210",
        "candidate: sliding, window 512, bos book.txt, bfloat16, cpu; fingerprint 0123456789abcdef",
        "median 0.00300, 99 % 0.250, maximum ∞",
    ):
        assert line in shown, line
    assert "fingerprint" not in printed(SUMMARIES["empty files"]())
