"""What the terminal shows of a source, and of an evaluation on it."""

from __future__ import annotations

import io

from lab_samples import evaluation
from msgspec.structs import replace
from rich.console import Console

from kullback.report.terminal.source import source_summary, source_table
from kullback.results.measurement import Measurement
from kullback.results.source import PositionLoss, SourceEvaluation
from tiny_runs import weather


def shown(part: object) -> str:
    """What a console of 80 columns prints."""
    console = Console(file=io.StringIO(), width=80)
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


def test_a_sampled_evaluation_shows_the_floor_and_the_positions():
    """The exact floor with its error, the floor plus KL with KL's interval, rows of positions."""
    kl = Measurement(0.0125, "nats/token", 0.0001, 900, 30, "windows")
    positions = tuple(
        PositionLoss(tokens_before=n, share=0.02, cross_entropy=0.9, entropy=0.88, kl=0.02)
        for n in range(1, 51)
    )
    part = replace(
        evaluation("m", "training", 0.0125, "A"),
        exact=False, kl=kl, cross_entropy=replace(kl, value=0.8, standard_error=0.001),
        floor=0.79, floor_error=3e-8, window=51, by_position=positions,
    )  # fmt: skip
    text = shown(source_summary(SourceEvaluation(model="m", source="mess3", parts=(part,))))
    for words in (
        "0.790000000 ± 3.0e-08 nats/token (windows of 51 symbols)", "0.80250 ± 0.00020",
        "tokens/window", "the first 32 of 50",
    ):  # fmt: skip
        assert words in text, text
    assert "design effect" not in text
    known = replace(part, kl=replace(kl, independent_error=0.00005))
    results = SourceEvaluation(model="m", source="mess3", parts=(known,))
    text = shown(source_summary(results, verbose=True))
    assert "KL            design effect 4, effective n 225" in text
    assert "entropy       exact: no design effect" in text
    noisy = replace(part, kl=replace(kl, standard_error=0.01))
    text = shown(source_summary(SourceEvaluation(model="m", source="mess3", parts=(noisy,))))
    assert "floor + KL" not in text


def test_an_evaluation_shows_each_part_and_the_slots_of_the_first():
    """Exact numbers have six decimals, sampled ones their interval; slots follow."""
    sampled = Measurement(0.61, "nats/token", 0.01, 900, 30, "sentences", bounds=(0.59, 0.63))
    held_out = evaluation("runs/mine", "held out", 0.01, "cue")
    results = SourceEvaluation(
        model="runs/mine",
        source="weather",
        parts=(
            evaluation("runs/mine", "training", 0.0123456, "cue"),
            replace(held_out, exact=False, cross_entropy=sampled),
        ),
    )
    text = shown(source_summary(results))
    for part in (
        "runs/mine on weather, training", "runs/mine on weather, held out",
        "KL            0.012346 nats/token\n", "cross-entropy 0.610 ± 0.020 nats/token\n",
        "exact sum over all prefixes", "2.461728",
    ):  # fmt: skip
        assert part in text, part
    assert "…" not in text
