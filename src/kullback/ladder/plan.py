"""The plan of a ladder: the width and the steps of every rung, made once and kept in its folder.

The plan of data doubles the tokens from rung to rung, with one size of model: half of the doubling
are steps, half the batch.  With a batch of one size the noise of the gradient, at one learning
rate, would keep the loss above its limit; and the first rungs would have too few steps to be
limited by their data.  The plan of sizes widens the model by a factor of four in all, with steps in
proportion to the parameters.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from kullback.errors import InvalidValueError, RunError
from kullback.models.training_plan import Settings
from kullback.results.scaling import Vary
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.files import write_atomically
from kullback.runtime.wording import count_of
from kullback.sources.catalogue import open_source
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer_training import word_tokenizer
from kullback.training.batches import Batches
from kullback.training.config import RANGES, TrainingConfig
from kullback.training.gpt_config import GPTConfig
from kullback.training.memory import check_memory
from kullback.training.probe import seconds_per_step
from kullback.training.sentence_batches import SentenceBatches
from kullback.training.text_batches import TextBatches

__all__ = ["BATCHES", "FILE", "LadderPlan", "PlannedRung", "Request", "made_plan"]

#: Sentences of a source, windows of a text.
BATCHES = {"source": 64, "text": 48}
FILE = "ladder.json"
# Doublings between the first and the last rung; more rungs are closer together.
DOUBLINGS = 6
# The widest model is as many times as wide as the first; widths are divisible by two even heads.
WIDENING, MULTIPLE = 4, 4
# Of a rung, beside its steps, at most: data, the checkpoint and its validation, in seconds.
OVERHEAD = 4.0
# In fewer an optimiser gets nowhere near what the data allows: they are no part of the law.
FEWEST_STEPS = 100
TEXT_VOCABULARY = 1024


@dataclass(frozen=True)
class Request:
    """What is asked for; the fields that are None are chosen by the plan."""

    source: str | None
    text: tuple[str, ...]
    vary: Vary
    rungs: int
    minutes: float | None
    steps: int | None
    """Of the first rung, in place of `minutes`."""
    width: int
    """Of the last rung."""
    batch: int
    """Of the last rung."""
    threads: int
    seed: int


class PlannedRung(msgspec.Struct, frozen=True):
    """A rung that is to be trained."""

    width: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    steps: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    batch: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LadderPlan(msgspec.Struct, frozen=True):
    """The content of ``ladder.json``."""

    schema: Literal["kullback.ladder/2"]
    request: dict[str, object]
    rungs: list[PlannedRung]
    seconds: float
    """Estimated, of all rungs."""

    @classmethod
    def read(cls, folder: Path, request: Request) -> LadderPlan:
        """The plan of a folder; `RunError` where it is damaged or of another request."""
        path = folder / FILE
        try:
            plan = decode_json(read_bounded(path), cls)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} is no plan of a ladder ({error}): choose another folder with -o"
            ) from None
        for name, value in _as_json(request).items():
            if name != "threads" and plan.request.get(name) != value:
                raise RunError(
                    f"{folder} contains a ladder with {name} {plan.request.get(name)}, not "
                    f"{value}: give the options that it began with, or another folder with -o"
                )
        return plan

    def write(self, folder: Path) -> None:
        """Write it into the folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(msgspec.to_builtins(self), indent=1, ensure_ascii=False)
        write_atomically(folder / FILE, content.encode())


def made_plan(request: Request) -> LadderPlan:
    """The rungs that fit into the minutes by a probe of a few steps, or begin with `steps`.

    Raises `InvalidValueError` where the minutes are too few, and where there are not so many
    different widths.
    """
    sizes = _batch_sizes(request)
    batches_R = [_batches_to_time(request, size) for size in sizes]
    widths = _widths(request)
    models = [_model(request, width, batches_R[0]) for width in widths]
    config = TrainingConfig(shards=request.threads, evaluate_every=10**9)
    timed: dict[tuple[GPTConfig, int], float] = {}
    for model, batches, size in zip(models, batches_R, sizes, strict=True):
        check_memory(model, batches.tokens_per_batch, config, 1)
        if (model, size) not in timed:
            timed[model, size] = seconds_per_step(batches, model, config)
    seconds_R = np.array([timed[key] for key in zip(models, sizes, strict=True)])
    if request.vary == "data":
        sentences_R = 2.0 ** (np.arange(request.rungs) * _doublings(request.rungs))
        ratio_R = sentences_R * sizes[0] / np.array(sizes)
    else:
        ratio_R = np.array([model.parameters for model in models]) / models[0].parameters
    first = request.steps
    if first is None:
        assert request.minutes is not None
        total = 60 * request.minutes
        left = max(total - OVERHEAD * request.rungs, total / 2)
        first = math.floor(left / float(seconds_R @ ratio_R))
        if first < FEWEST_STEPS:
            needed = FEWEST_STEPS * float(seconds_R @ ratio_R) + OVERHEAD * request.rungs
            raise InvalidValueError(
                f"minutes is {request.minutes:g}: the first of {request.rungs} rungs would have "
                f"{count_of(first, 'step')}, and fewer than {FEWEST_STEPS} are too short for the "
                f"law; give at least {math.ceil(needed / 6) / 10:g} minutes, or fewer rungs"
            )
    steps_R = np.round(first * ratio_R).astype(int)
    if steps_R.max() > RANGES["steps"].high:
        raise InvalidValueError(
            f"steps is {first:,}: the last of {request.rungs} rungs would have {steps_R.max():,}, "
            f"and a run has at most {RANGES['steps'].high:,}; give fewer steps"
        )
    rungs = [
        PlannedRung(width, int(steps), batch, (1000 * request.seed + i) % 2**63)
        for i, (width, steps, batch) in enumerate(zip(widths, steps_R, sizes, strict=True))
    ]
    seconds = float(steps_R @ seconds_R) + OVERHEAD * request.rungs
    return LadderPlan("kullback.ladder/2", _as_json(request), rungs, seconds)


def _doublings(rungs: int) -> float:
    """Between a rung and the next one."""
    return min(1.0, DOUBLINGS / (rungs - 1))


def _batch_sizes(request: Request) -> list[int]:
    """Sentences or windows of a step of each rung: of data half of what the tokens grow by."""
    if request.vary == "size":
        return [request.batch] * request.rungs
    place_R = (np.arange(request.rungs) + 1 - request.rungs) * _doublings(request.rungs) / 2
    return [max(1, round(request.batch * 2.0**place)) for place in place_R]


def _widths(request: Request) -> list[int]:
    """From a quarter of the width to all of it; the same for all rungs where data varies."""
    if request.vary == "data":
        return [request.width] * request.rungs
    place_R = np.geomspace(request.width / WIDENING, request.width, request.rungs)
    widths = [max(MULTIPLE, MULTIPLE * round(place / MULTIPLE)) for place in place_R]
    if len(set(widths)) < request.rungs:
        raise InvalidValueError(
            f"rungs is {request.rungs}: up to the width {request.width} there are "
            f"{len(set(widths))} different sizes on this ladder; give fewer rungs, or a larger "
            "width"
        )
    return widths


def _model(request: Request, width: int, batches: Batches) -> GPTConfig:
    return Settings(width=width).model(batches.vocabulary_size, batches.context)


def _batches_to_time(request: Request, size: int) -> Batches:
    """Those of the source; of a text random tokens in batches of the same size."""
    if request.source is not None:
        source = open_source(request.source)
        return SentenceBatches(source, size, request.seed)
    settings = Settings()
    tokens = np.random.default_rng(0).integers(0, TEXT_VOCABULARY, 20_000)
    tokenizer = word_tokenizer([BOS, EOS, *(f"word{i}" for i in range(TEXT_VOCABULARY - 2))])
    return TextBatches.of_tokens(tokens, tokenizer, context=settings.context_of_text, windows=size)


def _as_json(request: Request) -> dict[str, object]:
    return {**vars(request), "text": list(request.text)}
