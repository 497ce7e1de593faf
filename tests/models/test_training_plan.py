"""What is told of a run before its first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kullback.models.train import train_model
from kullback.training import arithmetic
from kullback.training.description import read_description
from kullback.training.progress import TrainingProgress
from kullback.training.sizes import NAMED_SIZES, Recipe
from tiny_runs import text, weather


class Facts(TrainingProgress):
    """Keeps the facts that are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        """Keep it."""
        self.told.append(text)


@pytest.mark.parametrize(("batch", "rows"), [(3, 4), (4, 0)])
def test_the_recipe_of_a_size_depends_on_the_tokens_of_a_batch(
    batch: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows times context, both as given, choose the recipe of few tokens."""
    few = replace(NAMED_SIZES["mini"], few_tokens=24, recipe_of_few=Recipe(0.03, muon_rows=4))
    monkeypatch.setitem(NAMED_SIZES, "mini", few)
    text(tmp_path)
    progress, run = Facts(), tmp_path / "run"
    train_model(
        run, text=tmp_path / "weather.txt", size="mini", steps=1, batch=batch, context=8, threads=1,
        vocabulary_size=270, width=8, layers=1, heads=2, mlp_width=16, progress=progress,
    )  # fmt: skip
    assert read_description(run).config.muon_rows == rows
    assert ("0.03 (Muon, blocks of 4 rows)" in " ".join(progress.told)) == bool(rows)


@pytest.mark.parametrize(
    ("width", "rows", "told"), [(72, 0, True), (72, 65, True), (72, 64, False), (64, 0, False)]
)
def test_the_plan_says_where_muon_takes_three_steps(
    width: int, rows: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does by the processor, and a matrix's smaller side is above 64."""
    monkeypatch.setattr(arithmetic, "muon_steps", lambda device: 3)
    weather(tmp_path)
    progress, run = Facts(), tmp_path / "run"
    train_model(
        run, source=str(tmp_path / "weather.toml"), steps=1, batch=32, threads=1, width=width,
        layers=1, heads=2, mlp_width=80, muon_rows=rows, progress=progress,
    )  # fmt: skip
    assert ("in three steps) and" in " ".join(progress.told)) == told
    assert read_description(run).config.muon_steps == 3
