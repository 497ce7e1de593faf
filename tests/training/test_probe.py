"""The choices that probes make, with a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interrupted_runs import CONFIG
from kullback.training import arithmetic, compilation, probe
from kullback.training.arithmetic import CPU, Arithmetic
from kullback.training.compilation import without_compilation_where_it_fails
from kullback.training.probe import compilation_that_pays, faster_type, seconds_per_step
from kullback.training.replicas import ALONE, Replicas
from kullback.training.state import TrainingState
from tiny_runs import sizes, weather


class Clock:
    """A clock that steps alone move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[object, float]) -> None:
        self.now, self.steps = 0.0, list[object]()
        monkeypatch.setattr(probe.time, "perf_counter", lambda: self.now)

        def step(state: TrainingState, *arguments: object) -> None:
            arithmetic = state.model.arithmetic
            dtype = "bfloat16" if arithmetic.bfloat16 else "float32"
            kind = "compiled" if arithmetic.compiled else dtype
            self.steps.append(kind)
            self.now += seconds[kind]

        monkeypatch.setattr(probe, "train_step", step)


@pytest.mark.parametrize(
    ("seconds", "dtype", "said"),
    [
        (0.01, "bfloat16", "bfloat16: 2.00 times"),
        (0.0195, "float32", "bfloat16 has 1.03 times its speed"),
        (0.04, "float32", "bfloat16 has 0.50 times its speed"),
    ],
)  # fmt: skip
def test_bfloat16_is_chosen_where_it_is_faster(
    seconds: float, dtype: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least by 5 %, in steps of both types by turns; the plan says by how much."""
    monkeypatch.setattr(probe, "multiplies_bfloat16", lambda: True)
    clock = Clock(monkeypatch, {"float32": 0.02, "bfloat16": seconds})
    batches = weather(tmp_path)
    config, why = faster_type(batches, sizes(batches, width=64), CONFIG)
    assert config == replace(CONFIG, dtype=dtype)
    assert why is not None
    assert said in why
    assert clock.steps[:4] == ["float32", "bfloat16"] * 2


def test_nothing_is_timed_without_the_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that does not multiply bfloat16 trains in float32, and nothing is said."""
    monkeypatch.setattr(probe, "multiplies_bfloat16", lambda: False)
    clock = Clock(monkeypatch, {})
    batches = weather(tmp_path)
    assert faster_type(batches, sizes(batches, width=64), CONFIG) == (CONFIG, None)
    assert clock.steps == []


def test_narrow_models_are_float32_whatever_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No probe chooses the bits of a tiny run."""
    monkeypatch.setattr(probe, "multiplies_bfloat16", lambda: True)
    clock = Clock(monkeypatch, {"float32": 0.02, "bfloat16": 0.01})
    batches = weather(tmp_path)
    assert faster_type(batches, sizes(batches, width=56), CONFIG) == (CONFIG, None)
    assert clock.steps == []


def test_the_probe_takes_about_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where steps are slow it ends before its number of steps."""
    clock = Clock(monkeypatch, {"float32": 0.7})
    batches = weather(tmp_path)
    assert seconds_per_step(batches, sizes(batches), CONFIG, steps=20) > 0.7
    assert len(clock.steps) == 3


@pytest.mark.parametrize(
    ("compiled_step", "compilation_time", "run", "pays"),
    [
        (0.1, 20.0, 30.0, False),
        (0.1, 20.0, 150.0, False),
        (0.1, 10.0, 150.0, True),
        (0.1, 1000.0, 400.0, True),
        (0.3, 1.0, 4000.0, False),
    ],
)
def test_a_run_is_compiled_where_that_pays(
    compiled_step: float, compilation_time: float, run: float, pays: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """10 times as long as the compilation or 5 minutes, and faster steps; no short run."""
    monkeypatch.setattr(arithmetic, "ACCELERATED_ON_CPU", True)
    clock = Clock(monkeypatch, {"float32": 0.2, "compiled": compiled_step})
    calls = list[int]()

    def compile_once(*arguments: object) -> None:
        if not calls:
            clock.now += compilation_time
        calls.append(1)

    monkeypatch.setattr(probe, "without_compilation_where_it_fails", compile_once)
    batches, config = weather(tmp_path), replace(CONFIG, evaluate_every=10**6)
    chosen, seconds, why = compilation_that_pays(batches, sizes(batches), config, (0.2, run))
    assert chosen == replace(config, compiled=pays)
    assert (seconds < 0.2) == pays
    assert (why is not None and "torch.compile" in why) == pays
    assert bool(calls) == (run >= 150)


def test_a_cpu_does_not_compile(tmp_path: Path) -> None:
    """Our own functions are used there, however long the run is."""
    batches = weather(tmp_path)
    config, seconds, why = compilation_that_pays(batches, sizes(batches), CONFIG, (0.2, 1e6))
    assert (config, seconds, why) == (CONFIG, 0.2, None)


def test_a_compiler_that_fails_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why is said in a clause, and the operations run one by one."""
    monkeypatch.setattr(arithmetic, "ACCELERATED_ON_CPU", True)

    def broken(*arguments: object) -> None:
        raise RuntimeError("Cannot find a working triton installation.\nSet more of this")

    monkeypatch.setattr("kullback.training.gpt.compiled_block", lambda: broken)
    batches = weather(tmp_path)
    config = replace(CONFIG, compiled=True)
    state = TrainingState.begin(sizes(batches), config, CPU)
    shard, *_ = batches.shards(0, 1)
    reason = without_compilation_where_it_fails(state, shard, Replicas(ALONE))
    assert reason == "Cannot find a working triton installation."
    assert state.model.arithmetic == Arithmetic(CPU, accelerated=True)
    assert without_compilation_where_it_fails(state, shard, Replicas(ALONE)) is None
    monkeypatch.setattr(probe, "SHORTEST_RUN", 0.0)
    chosen, _, why = compilation_that_pays(batches, sizes(batches), CONFIG, (0.2, 1e6))
    assert not chosen.compiled
    assert why is not None
    assert "torch.compile fails here (Cannot find" in why


def test_too_little_memory_is_no_failing_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, and says so."""
    batches = weather(tmp_path)
    state = TrainingState.begin(sizes(batches), CONFIG, CPU)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(compilation, "gradients", full)
    with pytest.raises(torch.OutOfMemoryError):
        without_compilation_where_it_fails(state, batches.shards(0, 1)[0], Replicas(ALONE))
