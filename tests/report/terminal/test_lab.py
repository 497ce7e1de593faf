"""What the terminal shows of a source and a lab."""

from __future__ import annotations

import io
import math

from lab_samples import lab_results
from rich.console import Console

from kullback.report.terminal.lab import lab_summary, slot_table, source_table
from tiny_runs import weather


def shown(*parts: object, terminal: bool = False) -> str:
    """What a console of 120 columns prints."""
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_source_shows_its_exact_entropies(tmp_path):
    """The floor to nine decimals, the number of sentences and every slot."""
    language = weather(tmp_path).source.training
    text = shown(source_table("weather", language))
    assert f"{language.entropy_per_token:.9f} nats/token" in text
    assert f"{language.number_of_sentences:,}" in text
    assert all(slot in text for slot in language.entropy_by_slot())


def test_a_lab_shows_the_identity_and_every_table():
    """CE = H + KL on top, then models, minimal pairs, quantisations and where the files are."""
    results = lab_results()
    text = shown(lab_summary(results, {"report": "lab/report.html"}))
    assert "0.610000 = 0.600000 + 0.010000 nats/token, exact over 1,234 prefixes" in text
    for part in ("mini-GPT", "3-gram", "held out", "87.50%", "int4", "+0.050000", "500,000"):
        assert part in text
    assert "report: lab/report.html" in text
    assert f"{math.inf:.6f}" in text
    assert "0.050000" in shown(slot_table(results["evaluations"][0]))
