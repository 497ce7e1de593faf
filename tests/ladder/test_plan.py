"""The plan of a ladder: widths, steps, and the minutes that they fit into."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from kullback.errors import InvalidValueError
from kullback.ladder import plan
from kullback.ladder.plan import LadderPlan, Request, made_plan
from tiny_runs import WEATHER


def request_of(folder: Path, **fields: object) -> Request:
    """Return a request on a tiny source."""
    grammar = folder / "weather.toml"
    grammar.write_text(WEATHER, encoding="utf-8")
    asked: dict[str, object] = {
        "source": str(grammar), "text": (), "vary": "data", "rungs": 5, "minutes": None,
        "steps": None, "width": 64, "batch": 8, "threads": 1, "seed": 3,
    }  # fmt: skip
    return Request(**{**asked, **fields})  # type: ignore[arg-type]  # the fields of a test


@pytest.fixture(autouse=True)
def step_of_ten_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes as long, whatever the machine."""
    monkeypatch.setattr(plan, "seconds_per_step", lambda *arguments: 0.01)


def test_a_ladder_of_data_doubles_the_tokens_within_the_minutes(tmp_path: Path):
    """Steps and batch grow by half a doubling each; the steps fit into the minutes."""
    made = made_plan(request_of(tmp_path, minutes=2, batch=64))
    assert [rung.batch for rung in made.rungs] == [16, 23, 32, 45, 64]
    steps = [rung.steps for rung in made.rungs]
    sentences = [rung.steps * rung.batch / (16 * steps[0]) for rung in made.rungs]
    assert sentences == pytest.approx([1, 2, 4, 8, 16], rel=0.005)
    longer = sum(2**i * 16 / rung.batch for i, rung in enumerate(made.rungs))
    assert steps[0] == int((120 - 5 * plan.OVERHEAD) / (0.01 * longer))
    assert made.seconds <= 120
    assert {rung.width for rung in made.rungs} == {64}
    assert len({rung.seed for rung in made.rungs}) == 5


def test_more_rungs_are_closer_together(tmp_path: Path):
    """The last of many rungs has 64 times the sentences of the first."""
    made = made_plan(request_of(tmp_path, rungs=13, steps=100, batch=64))
    sentences = [rung.steps * rung.batch / 800 for rung in made.rungs]
    assert sentences[::2] == pytest.approx([1, 2, 4, 8, 16, 32, 64], rel=0.01)


def test_a_ladder_of_sizes_has_steps_in_proportion_to_the_parameters(tmp_path: Path):
    """From a quarter of the width to all of it, in multiples of two even heads."""
    made = made_plan(request_of(tmp_path, vary="size", steps=100))
    assert [rung.width for rung in made.rungs] == [16, 24, 32, 44, 64]
    steps = [rung.steps for rung in made.rungs]
    assert steps[0] == 100
    assert steps == sorted(steps)
    assert {rung.batch for rung in made.rungs} == {8}
    with pytest.raises(InvalidValueError, match=r"rungs is 6.*width 16"):
        made_plan(request_of(tmp_path, vary="size", rungs=6, width=16, steps=100))


def test_a_text_is_timed_on_random_tokens(tmp_path: Path):
    """The plan needs no file of the text."""
    made = made_plan(request_of(tmp_path, source=None, text=("book.txt",), steps=10))
    assert [(rung.steps, rung.batch) for rung in made.rungs] == [
        (10, 2), (13, 3), (20, 4), (27, 6), (40, 8),
    ]  # fmt: skip


def test_too_few_minutes_are_refused_with_those_that_suffice(tmp_path: Path):
    """The sentence names the steps of the first rung; its remedy is accepted."""
    with pytest.raises(InvalidValueError, match=r"minutes is 0\.1: .*5 rungs.*at least") as refused:
        made_plan(request_of(tmp_path, minutes=0.1))
    enough = float(str(refused.value).split("at least ")[1].split()[0])
    assert made_plan(request_of(tmp_path, minutes=enough)).rungs[0].steps >= plan.FEWEST_STEPS


def test_a_plan_is_read_again(tmp_path: Path):
    """Also with another number of threads, which changes no rung."""
    request = request_of(tmp_path, steps=10)
    made = made_plan(request)
    made.write(tmp_path)
    assert LadderPlan.read(tmp_path, request) == made
    other = request_of(tmp_path, steps=10, threads=2)
    assert LadderPlan.read(tmp_path, other) == changed(made)
