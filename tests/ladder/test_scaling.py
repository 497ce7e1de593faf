"""`kullback.scaling`: the rungs, the sample that they share, the law, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kullback
from kullback.cli import main
from kullback.errors import InvalidValueError, KullbackError, RunError
from kullback.ladder import rungs, scaling, seconds
from kullback.ladder.plan import LadderPlan, Request
from kullback.ladder.rungs import Sample, bootstrap
from kullback.results.scaling import Scaling
from kullback.runtime import files
from kullback.sources.catalogue import open_source
from kullback.theory.scaling_law import fit_scaling_law
from kullback.training import loop
from kullback.training.interruption import Interrupted
from kullback.training.progress import TrainingProgress
from tiny_runs import WEATHER, text

TINY: dict[str, Any] = {
    "rungs": 4, "steps": 2, "width": 8, "batch": 4, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (8, 2)])
def test_one_core_has_one_thread(
    cores: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default two threads have a shard each, where two cores may be used."""
    requests: list[Request] = []

    def planned(request: Request) -> LadderPlan:
        requests.append(request)
        raise RunError("planned")

    monkeypatch.setattr(scaling, "cores", lambda: cores)
    monkeypatch.setattr(scaling, "made_plan", planned)
    with pytest.raises(RunError, match="planned"):
        kullback.scaling(tmp_path / "ladder", steps=1)
    assert [request.threads for request in requests] == [threads]


class Told(TrainingProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        """Keep a fact."""
        self.lines.append(text)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Scaling]:
    """A folder with a ladder of data on a tiny source, the source, and the result."""
    folder = tmp_path_factory.mktemp("ladder")
    grammar = folder / "weather.toml"
    grammar.write_text(WEATHER, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "SENTENCES", 64)
        patch.setattr(scaling, "REPLICATES", 40)
        result = kullback.scaling(folder / "out", source=str(grammar), **TINY)
    return folder / "out", grammar, result


def test_a_ladder_is_a_run_for_each_rung_and_a_law(ladder):
    """Steps and batch grow, x is the tokens, the fit E + A·x^(−α), the floor that of the source."""
    _, grammar, result = ladder
    assert [(rung.steps, rung.batch) for rung in result.rungs] == [(2, 1), (2, 2), (3, 3), (4, 4)]
    assert len({rung.parameters for rung in result.rungs}) == 1
    assert all(rung.loss_interval[0] < rung.loss < rung.loss_interval[1] for rung in result.rungs)
    for rung in result.rungs:
        assert rung.tokens == result.x(rung)
        line = (Path(rung.folder) / "metrics.jsonl").read_text().splitlines()[-1]
        assert json.loads(line)["tokens"] == rung.tokens
    law = result.law
    first = result.rungs[0]
    assert first.fitted_loss == pytest.approx(law.floor + law.scale * first.tokens**-law.exponent)
    assert result.exact_entropy == open_source(str(grammar)).training.entropy_per_token
    low, high = law.floor_interval
    assert result.covers_exact == (low <= result.exact_entropy <= high)
    assert result.floor_minus_exact == law.floor - result.exact_entropy
    assert (result.piece, result.validation_pieces) == ("sentence", 64)
    assert any("not identified" in note for note in result.notes) == (not law.identified)
    assert Scaling.from_json(result.to_json()) == result


def test_finished_rungs_are_kept_and_an_unfinished_one_is_resumed(ladder, monkeypatch):
    """The same call trains nothing; without its model a rung is trained again to the same loss."""
    folder, grammar, result = ladder
    monkeypatch.setattr(rungs, "SENTENCES", 64)
    monkeypatch.setattr(scaling, "REPLICATES", 40)
    monkeypatch.setattr(rungs, "_train", None)
    weights = folder / "rung-2" / "model.safetensors"
    weights.unlink()
    unchanged = (folder / "rung-1" / "model.safetensors").stat().st_mtime_ns
    told = Told()
    again = kullback.scaling(folder, source=str(grammar), progress=told, **TINY)
    assert weights.exists()
    assert [rung.loss for rung in again.rungs] == [rung.loss for rung in result.rungs]
    assert (folder / "rung-1" / "model.safetensors").stat().st_mtime_ns == unchanged
    assert any("resumed" in line for line in told.lines)
    assert any("4 rungs from 2 to 4 steps" in line for line in told.lines)
    for name, value in {"rungs": 5, "width": 16, "vary": "size"}.items():
        with pytest.raises(RunError, match=f"{name} .*not {value}"):
            kullback.scaling(folder, source=str(grammar), **TINY | {name: value})


def test_seconds_are_those_of_all_calls(tmp_path: Path, ladder, monkeypatch):
    """A ladder that was interrupted took the time before, too; finished rungs take none."""
    monkeypatch.setattr(rungs, "SENTENCES", 64)
    monkeypatch.setattr(scaling, "REPLICATES", 40)
    train, now, trainings = rungs._train, [1000.0], [0]

    def slow(*given: object) -> None:
        now[0] += 50.0
        trainings[0] += 1
        if trainings[0] == 3:
            raise KeyboardInterrupt
        train(*given)

    monkeypatch.setattr(rungs, "_train", slow)
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(scaling, "time", clock)
    monkeypatch.setattr(seconds, "time", clock)

    def run() -> float:
        return kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY).seconds

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [run(), run()] == [250.0, 250.0]
    (tmp_path / "out" / "seconds.json").write_text("[]")  # not ours: unknown
    assert run() == 0.0


def test_a_rung_is_a_run_of_train(tmp_path: Path, ladder):
    """Its weights are those of `kullback.train` with the same options, to the last bit."""
    folder, grammar, _ = ladder
    rung = json.loads((folder / "ladder.json").read_text())["rungs"][3]
    kullback.train(
        tmp_path / "run", source=str(grammar), batch=TINY["batch"], threads=TINY["threads"],
        steps=rung["steps"], width=rung["width"], seed=rung["seed"], evaluate_every=10**9,
        device="cpu", dtype="float32",
    )  # fmt: skip
    ours, theirs = (f / "model.safetensors" for f in (folder / "rung-4", tmp_path / "run"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_interruption_keeps_the_plan(tmp_path: Path, ladder, monkeypatch):
    """Ctrl-C in a rung leaves ``ladder.json``, with which the same call resumes."""

    def stop(run: Path, *others: object) -> None:
        raise Interrupted(run, 1)

    monkeypatch.setattr(rungs, "_train", stop)
    with pytest.raises(Interrupted):
        kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY)
    assert (tmp_path / "out" / "ladder.json").exists()


def test_a_full_disk_in_a_rung_names_the_command_of_the_ladder(tmp_path: Path, ladder, monkeypatch):
    """Not that of the rung alone, which would be measured as a run of its own."""

    def full(*_: object) -> None:
        with files.explained(tmp_path / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for began in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint" if not began else "save_model", full)
            with pytest.raises(RunError, match=r"No space left.*then run the command") as error:
                kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY)
        assert "--resume" not in str(error.value)
        assert (tmp_path / "out/rung-1/checkpoint.safetensors").exists() == began


def test_a_signal_in_a_rung_loses_nothing(tmp_path: Path, ladder, monkeypatch, capsys):
    """Ctrl-C ends the command after the step with 130 and a checkpoint; the same command goes on
    there, and the losses are those of a ladder that was not interrupted.
    """
    _, grammar, result = ladder
    monkeypatch.setattr(rungs, "SENTENCES", 64)
    monkeypatch.setattr(scaling, "REPLICATES", 40)
    out, step = tmp_path / "out", loop.train_step
    command = ["scaling", "--source", str(grammar), "-o", str(out), "--json"]
    for name, value in TINY.items():
        command += [f"--{name}", str(value)]

    def killing(state, *others: object) -> None:
        step(state, *others)
        if state.config.steps == 3 and state.step == 2:  # of the third rung
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killing)
        assert main(command) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert "stopped at step 2" in said
    assert f"resume with: kullback scaling --source {grammar} -o {out}" in said
    assert (out / "rung-3/checkpoint.safetensors").exists()
    assert not (out / "rung-4").exists()
    unchanged = (out / "rung-2/model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    again = Scaling.from_json(capsys.readouterr().out)
    assert [rung.loss for rung in again.rungs] == [rung.loss for rung in result.rungs]
    assert (out / "rung-2/model.safetensors").stat().st_mtime_ns == unchanged


def test_two_ladders_in_one_folder_are_refused(tmp_path: Path, ladder, monkeypatch):
    """Also where the first one has made the folder."""
    refused: list[str] = []

    rungs_begun: list[Path] = []

    def second(run: Path, *others: object) -> None:
        rungs_begun.append(run)
        with pytest.raises(RunError) as error:
            kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY)
        refused.append(str(error.value))
        raise Interrupted(tmp_path, 1)

    monkeypatch.setattr(rungs, "_train", second)
    with pytest.raises(Interrupted):
        kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY)
    assert len(rungs_begun) == 1  # the second one began none
    assert "is being written by process" in refused[0]


def test_a_text_is_tokenised_once(tmp_path: Path, monkeypatch):
    """The rungs share the tokens of the first one, each with its own windows."""
    text(tmp_path, 8000)
    told = Told()
    monkeypatch.setattr(scaling, "REPLICATES", 40)
    result = kullback.scaling(
        tmp_path / "out", text=str(tmp_path / "weather.txt"), progress=told, **TINY
    )
    tokens = [Path(rung.folder) / "tokens/train.bin" for rung in result.rungs]
    assert {path.stat().st_ino for path in tokens} == {tokens[0].stat().st_ino}
    assert sum("tokens to train on" in line for line in told.lines) == 1
    assert sum("rung-1 are shared" in line for line in told.lines) == 3
    described = [json.loads((Path(rung.folder) / "training.json").read_text())["data"]
                 for rung in result.rungs]  # fmt: skip
    assert len({data["fingerprint"] for data in described}) == 1
    assert len({data["seed"] for data in described}) == 4
    # No rung is measured by itself, beside n-gram models that nobody reads.
    lines = [(Path(rung.folder) / "metrics.jsonl").read_text() for rung in result.rungs]
    assert not any("summary" in line for line in lines)


def test_a_second_signal_names_what_is_kept(tmp_path: Path, ladder, monkeypatch):
    """Where no rung writes a checkpoint, the finished ones are named."""

    def stop(run: Path, *others: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rungs, "_train", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        kullback.scaling(tmp_path / "out", source=str(ladder[1]), **TINY)
    assert str(tmp_path / "out") in stopped.value.__notes__[0]


def test_the_bootstrap_resamples_pieces_for_all_rungs_at_once():
    """Two rungs of equal losses stay equal; the spread is that of the mean of the pieces."""
    nll = np.random.default_rng(0).normal(2.0, 1.0, 400)
    samples = bootstrap(np.stack([nll, nll, nll + 0.5]), np.ones(400), 500, 0)
    assert samples.shape == (500, 3)
    np.testing.assert_array_equal(samples[:, 0], samples[:, 1])
    np.testing.assert_allclose(samples[:, 2] - samples[:, 0], 0.5)
    assert samples[:, 0].std() == pytest.approx(nll.std() / 20, rel=0.15)
    assert samples[:, 0].mean() == pytest.approx(nll.mean(), abs=0.01)


def test_the_surprisal_of_a_source_is_a_control_variate(ladder):
    """A model that is c above the surprisal of every token has the loss H + c in every piece."""
    request = Request(str(ladder[1]), (), "data", 4, None, 1, 8, 4, 1, 0)
    sample = Sample.of(request, ladder[0] / "rung-1")
    surprisal_M = np.concatenate([shard.surprisals_M.numpy() for shard in sample.shards])
    nll_C = sample.nll(surprisal_M.astype(float) + 0.25)
    entropy = open_source(str(ladder[1])).training.entropy_per_token
    np.testing.assert_allclose(nll_C / sample.tokens, entropy + 0.25, rtol=1e-5)


def test_rungs_of_no_one_law_are_noted():
    """A first rung far above the law of the others moves E beyond its interval; one law has no
    note.
    """
    x = 1e5 * 2.0 ** np.arange(6)
    loss = 0.7 + 2e2 * x**-0.5
    assert scaling.misfit_notes(x, loss, fit_scaling_law(x, loss)) == []
    bent = loss + np.array([0.5, 0.06, 0.01, 0.0, 0.0, 0.0])
    law = fit_scaling_law(x, bent)
    narrow = dataclasses.replace(law, floor_interval=(law.floor, law.floor), identified=True)
    (note,) = scaling.misfit_notes(x, bent, narrow)
    assert "without the first rung E is" in note
    assert scaling.misfit_notes(x[1:4], bent[1:4], narrow) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "conjugaton"}, ["conjugaton", "sources are"]),
        ({"rungs": 3}, ["rungs is 3", "at least 4"]),
        ({"source": "conjugation", "text": "book.txt"}, ["source", "text", "one of them"]),
        ({"text": "missing.txt"}, ["missing.txt"]),
        ({"vary": "depth"}, ["depth", "data or size"]),
        ({"minutes": 1, "steps": 3}, ["minutes is 1", "steps is 3"]),
        ({"minutes": float("nan")}, ["minutes is nan"]),
        ({"width": 0}, ["width is 0"]),
    ],
)
def test_what_cannot_be_a_ladder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: list[str]
):
    """One sentence with the value, before a folder is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError) as refused:
        kullback.scaling(tmp_path / "out", **options)
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_refused(tmp_path: Path, ladder):
    """Neither a folder with files nor a damaged plan is overwritten."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidValueError, match="-o"):
        kullback.scaling(tmp_path, source=str(ladder[1]), **TINY)
    (tmp_path / "ladder.json").write_text("{")
    with pytest.raises(KullbackError, match="no plan of a ladder"):
        kullback.scaling(tmp_path, source=str(ladder[1]), **TINY)
