"""What the terminal shows of a lab."""

from __future__ import annotations

import io

import pytest
from lab_samples import evaluation, lab_results
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from kullback.report.terminal.lab import lab_summary
from kullback.results.lab import LabResults


def shown(results: LabResults, width: int = 120) -> str:
    """What a console of that width prints."""
    console = Console(file=io.StringIO(), width=width)
    console.print(lab_summary(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def four_evaluations() -> LabResults:
    """As many evaluations, of names as long, as the lab has."""
    names = ("mini-GPT", "5-gram Kneser-Ney")
    parts = tuple(
        evaluation(name, part, kl, "cue")
        for name in names
        for part, kl in (("training", 0.006179123), ("held out", 12.3456789))
    )
    return replace(lab_results(), evaluations=parts)


def test_a_lab_shows_the_identity_and_every_table():
    """CE = H + KL on top, then models, minimal pairs, quantisations and the time."""
    text = shown(lab_results())
    for part in (
        "0.6100 = 0.6000 + 0.0100 nats/token\n", "1,234 prefixes", "3-gram", "87.5 %", "int4",
        "+0.050000", "500 kB", "Top-1 accuracy", "∞", "41.2 s of training",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut_and_no_line_too_long(width):
    """At 80 and 100 columns every number is complete, and each row is one line."""
    text = shown(four_evaluations(), width)
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert rows["Cross-entropy"][1:] == ["0.606179", "12.945679"] * 2
    assert rows["+ KL"][2:] == ["0.006179", "12.345679"] * 2
    assert rows["int4"] == ["int4", "80.0", "kB", "+0.050000", "0.050000", "0.060000", "95.0", "%"]


def test_a_hostile_vocabulary_cannot_steer_the_terminal():
    """Escapes come out as pictures, and markup of styles as it is."""
    text = shown(lab_results(hostile=True))
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "[red]" in text
