"""A ladder of runs from end to end: plan, training, one validation sample, and the law."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from kullback.errors import InvalidValueError, KullbackError
from kullback.ladder.plan import BATCHES, FILE, LadderPlan, Request, made_plan
from kullback.ladder.rungs import Sample, TrainedRung, bootstrap, check_same_data, measured, trained
from kullback.ladder.seconds import SECONDS_FILE, added_seconds, training_seconds
from kullback.models.train import given_text
from kullback.models.training_plan import shown_time
from kullback.results.scaling import Scaling, ScalingLaw, ScalingRung, Vary
from kullback.runtime.locks import locked_output
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.ranges import LADDER_MINUTES, RUNGS, SEEDS
from kullback.runtime.ranks import check_one_process
from kullback.runtime.threads import cores
from kullback.sources.catalogue import open_source
from kullback.theory.scaling_law import FEWEST_RUNGS, fit_scaling_law
from kullback.theory.scaling_law import ScalingLaw as FittedLaw
from kullback.training.config import RANGES, SIZES, TrainingConfig
from kullback.training.prepare_text import TextOptions, check_text
from kullback.training.progress import TrainingProgress
from kullback.training.sentence_batches import SentenceBatches

__all__ = ["scaling"]

MINUTES_BY_DEFAULT = 4.0
REPLICATES = 1000
FEW_PIECES = 20


def scaling(
    output: str | Path,
    *,
    source: str | None = None,
    text: str | Path | Sequence[str | Path] | None = None,
    vary: Vary = "data",
    rungs: int = 7,
    minutes: float | None = None,
    steps: int | None = None,
    width: int = 64,
    batch: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: TrainingProgress | None = None,
) -> Scaling:
    """Train a ladder into the folder `output`, and fit L(x) = E + A·x^(−α) to its losses.

    On a `source` ("conjugation" by default) or on the files `text`.  `vary` is "data" (x is the
    training tokens of one model) or "size" (x is the parameters, with tokens in proportion).  All
    rungs together take about `minutes` (default 4), or the first one has `steps`.  `width` and
    `batch` are those of the last rung; `threads` are by default 2, or 1 on one core.  Finished
    rungs in the folder are kept, an unfinished one is resumed; `Scaling.seconds` is the time of all
    calls in which rungs were trained, but for what a kill cut off.

    Ctrl-C writes a checkpoint and raises `kullback.training.interruption.Interrupted`.  Raises
    `InvalidValueError` for values out of range (fewer than four rungs, say), for a source together
    with a text, and where the folder has other content; `RunError` where it has another ladder.
    """
    begin, earlier = time.perf_counter(), 0.0
    progress = progress or TrainingProgress()
    folder = Path(output)
    request = _request(source, text, vary, rungs, minutes, steps, width, batch, threads, seed)
    read = [*request.text, *([request.source] if request.source else [])]
    check_outputs(Output("-o", folder, "folder"), inputs=read)  # before it is looked into
    planned = (folder / FILE).exists()
    check_outputs(Output("-o", folder, "folder" if planned else "new folder"), inputs=read)
    with locked_output(folder, make=True):
        if planned:
            plan, earlier = LadderPlan.read(folder, request), training_seconds(folder)
            progress.tell(f"the ladder in {folder} is resumed; finished rungs are kept")
        else:
            progress.stage("timing a few steps")
            plan = made_plan(request)
            plan.write(folder)
        _tell(plan, request, progress)
        try:
            sample, ladder = _ladder(folder, request, plan, progress)
        except KeyboardInterrupt as stop:
            stop.add_note(f"the finished rungs of {folder} are kept")
            raise
        except KullbackError:
            if not (folder / "rung-1").exists():  # a text that cannot be read: nothing has begun
                for name in (FILE, SECONDS_FILE):
                    (folder / name).unlink(missing_ok=True)
            raise
    return _result(folder, request, plan, sample, ladder, begin - earlier)


def _ladder(
    folder: Path, request: Request, plan: LadderPlan, progress: TrainingProgress
) -> tuple[Sample, list[TrainedRung]]:
    """Train what is not finished, and score all rungs on one sample."""
    runs = [folder / f"rung-{i + 1}" for i in range(len(plan.rungs))]
    for i, (run, rung) in enumerate(zip(runs, plan.rungs, strict=True)):
        progress.tell(f"rung {i + 1} of {len(runs)}")
        with added_seconds(folder):
            trained(run, request, rung, runs[0], progress)
    check_same_data(runs)
    progress.stage("scoring all rungs on the validation sample")
    sample = Sample.of(request, runs[0])
    return sample, [measured(run, sample, request.threads) for run in runs]


def _request(
    source: str | None,
    text: str | Path | Sequence[str | Path] | None,
    vary: Vary,
    rungs: int,
    minutes: float | None,
    steps: int | None,
    width: int,
    batch: int | None,
    threads: int | None,
    seed: int,
) -> Request:
    """What is asked for, checked; its arguments are those of `scaling`."""
    if source is not None and text is not None:
        raise InvalidValueError(
            f"source is {source} and text is given: give one of them, since a ladder has one kind "
            "of data"
        )
    if vary not in ("data", "size"):
        raise InvalidValueError(f"vary is {vary!r}: it must be data or size")
    if minutes is not None and steps is not None:
        raise InvalidValueError(
            f"minutes is {minutes} and steps is {steps}: give one of them, since each says how "
            "long the rungs are"
        )
    RUNGS.check("rungs", rungs)
    SEEDS.check("seed", seed)
    SIZES["width"].check("width", width)
    threads = min(TrainingConfig.shards, cores()) if threads is None else threads
    RANGES["shards"].check("threads", threads)
    if steps is not None:
        RANGES["steps"].check("steps", steps)
    else:
        minutes = MINUTES_BY_DEFAULT if minutes is None else minutes
        LADDER_MINUTES.check("minutes", minutes)
    check_one_process("a ladder is trained")
    files = given_text(text)
    if text is not None:
        check_text(TextOptions(files))
    else:
        source = "conjugation" if source is None else source
        open_source(source)
    batch = BATCHES["text" if files else "source"] if batch is None else batch
    SIZES["batch"].check("batch", batch)
    return Request(
        source, tuple(map(str, files)), vary, rungs, minutes, steps, width, batch, threads, seed
    )


def _tell(plan: LadderPlan, request: Request, progress: TrainingProgress) -> None:
    """The plan and its estimated time, before the first step."""
    first, last = plan.rungs[0], plan.rungs[-1]
    width = f"width {last.width}"
    if request.vary == "size":
        width = f"widths {', '.join(str(rung.width) for rung in plan.rungs)}"
    progress.tell(
        f"{len(plan.rungs)} rungs from {first.steps:,} to {last.steps:,} steps, {width}: about "
        f"{shown_time(plan.seconds)} in all"
    )


def _result(
    folder: Path,
    request: Request,
    plan: LadderPlan,
    sample: Sample,
    ladder: list[TrainedRung],
    begin: float,
) -> Scaling:
    tokens_C = sample.tokens
    nll_RC = np.stack([rung.nll_C for rung in ladder])
    loss_R = nll_RC.sum(axis=1) / tokens_C.sum()
    samples_BR = bootstrap(nll_RC, tokens_C, REPLICATES, request.seed)
    x_R = np.array(
        [rung.tokens if request.vary == "data" else rung.parameters for rung in ladder],
        dtype=np.float64,
    )
    of_data = request.vary == "data"
    law = fit_scaling_law(x_R, loss_R, samples_BR, REPLICATES, request.seed, of_data)
    low_R, high_R = np.quantile(samples_BR, (0.025, 0.975), axis=0)
    exact = None
    if request.source is not None:
        exact = SentenceBatches(open_source(request.source)).floor
    return Scaling(
        folder=str(folder),
        data=request.source or request.text[0],
        vary=request.vary,
        rungs=tuple(
            ScalingRung(
                folder=str(rung.folder),
                width=planned.width,
                parameters=rung.parameters,
                steps=planned.steps,
                batch=planned.batch,
                tokens=rung.tokens,
                loss=float(loss_R[i]),
                loss_interval=(float(low_R[i]), float(high_R[i])),
                fitted_loss=law.loss(float(x_R[i])),
            )
            for i, (rung, planned) in enumerate(zip(ladder, plan.rungs, strict=True))
        ),
        law=ScalingLaw(
            floor=law.floor,
            floor_interval=law.floor_interval,
            scale=law.scale,
            exponent=law.exponent,
            exponent_interval=law.exponent_interval,
            noise=law.noise,
            identified=law.identified,
            transient=law.transient,
        ),
        exact_entropy=exact,
        validation_tokens=int(tokens_C.sum()),
        validation_pieces=len(tokens_C),
        piece=sample.piece,
        seconds=time.perf_counter() - begin,
        notes=(*_notes(request, sample, ladder, law), *misfit_notes(x_R, loss_R, law)),
    )


def misfit_notes(
    x_R: Float64[np.ndarray, "R"], loss_R: Float64[np.ndarray, "R"], law: FittedLaw
) -> list[str]:
    """A note where the rungs after the first one have an E outside the interval of all.

    With few rungs the interval is that of noise about one law; where the first rung is too short
    for it, as in the warm-up, E is biased by more.  With more rungs it contains that without the
    first.
    """
    if not law.identified or len(x_R) <= FEWEST_RUNGS:
        return []
    rest = fit_scaling_law(x_R[1:], loss_R[1:], replicates=2).floor
    low, high = law.floor_interval
    if low <= rest <= high:
        return []
    return [
        f"without the first rung E is {rest:.4f}, outside its interval: the rungs follow no one "
        "power of x, and the interval does not show that; train longer (--minutes)"
    ]


def _notes(
    request: Request, sample: Sample, ladder: list[TrainedRung], law: FittedLaw
) -> list[str]:
    notes = []
    if law.transient:
        notes.append(
            f"E is not identified: the excess falls like x^(−{law.exponent:.2f}), faster than 1/x, "
            "which no model keeps up where the next token is random: the rungs are too short for "
            "their law; train longer (--minutes)"
        )
    elif not law.identified:
        notes.append(
            "E is not identified: the noise of training makes its interval wider than a quarter of "
            "what the losses fall by; train longer (--minutes) or more rungs"
        )
    if request.vary == "data":
        notes.append(
            "E is the loss of this size of model with unlimited data: the entropy and the KL that "
            "a model of this size keeps"
        )
    else:
        notes.append("tokens grow in proportion to the parameters, embeddings included")
    if sample.training_tokens is not None:
        passes = ladder[-1].tokens / sample.training_tokens
        if passes > 1:
            notes.append(
                f"the last rung reads the training split {passes:.1f} times, and x counts every "
                "time: E is that of repeated text; give more text for one pass"
            )
    elif not open_source(request.source or "").training.is_finite:
        notes.append(
            "sentences are cut after 256 tokens; the exact entropy is of the tokens before"
        )
    if len(sample.tokens) < FEW_PIECES:
        notes.append(
            f"the validation sample has {len(sample.tokens)} {sample.piece}s, too few for "
            "intervals that hold 95 %"
        )
    elif sample.piece == "block":
        notes.append("the validation split is one text: blocks of it are resampled")
    return notes
