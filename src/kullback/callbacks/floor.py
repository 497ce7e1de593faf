"""`FloorCallback`: the exact distance from the floor while another trainer trains.

The callback has the hooks of both transformers' `TrainerCallback` and Lightning's `Callback`, and
needs neither package: both call hooks by their names.  Units are nats/token.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kullback.callbacks.fixed_rows import FixedRows, Logits, logits_of, open_rows
from kullback.callbacks.pace import LEAST, MOST, Pace, seconds_now
from kullback.errors import InvalidValueError
from kullback.models.devices import rounded_float32_products
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import LENGTHS, SEEDS, Range
from kullback.sources.catalogue import AnySource

__all__ = ["FloorCallback"]

PREFIX = "kullback/"
BUDGETS = Range(1e-6, 1.0, whole=False)
# Two are the fewest that have a standard error.
ROWS = Range(2, 10**9)
# Hooks of Lightning that do not begin with "on_".
OTHER_HOOKS = ("setup", "teardown")

_numbers = count(1)
# The controls of transformers' trainers that are training, each with one of its callbacks.
_begun: list[tuple[weakref.ref[Any], weakref.ref[FloorCallback]]] = []


class FloorCallback:
    """Logs cross-entropy, floor, KL with its standard error, and bits per byte while training.

    ``Trainer(..., callbacks=[FloorCallback("data")])`` or Lightning's ``Trainer(callbacks=[...])``.
    `source` is the folder of an export, whose first validation sentences are read, or any source
    that `kullback.evaluate_source` takes.  The numbers come from the model and the exported tokens,
    never from the trainer's labels or loss.

    Rows and steps between two measurements are chosen from the first steps so that measuring takes
    at most `budget` of the time of the steps; `rows` and `every` fix them.  `logits` is called with
    the model and token ids [N, T] where the model's forward does not return logits.  Numbers are
    logged as ``kullback/kl``; with a `name`, which several callbacks of one trainer need, as
    ``kullback/NAME/kl``.  `history` has what was logged, with its step.  Where the trainer lets
    float32 products be rounded (``tf32=True``), which `kullback.evaluate` refuses, a `Note` says
    so: the numbers are those of the model as it is trained.  Raises
    `InvalidValueError` for an unknown source, a number out of range and, when the training begins,
    for two callbacks of one name, or a model with fewer ids than the source.
    """

    def __init__(
        self,
        source: str | Path | AnySource,
        every: int | None = None,
        rows: int | None = None,
        budget: float = 0.02,
        window: int | None = None,
        seed: int = 0,
        logits: Logits = logits_of,
        name: str | None = None,
    ) -> None:
        for option, value, limits in (
            ("every", every, LENGTHS), ("rows", rows, ROWS), ("window", window, LENGTHS),
        ):  # fmt: skip
            if value is not None:
                limits.check(option, value)
        if name == "":
            raise InvalidValueError("name is empty: give one that tells it from other callbacks")
        BUDGETS.check("budget", budget)
        SEEDS.check("seed", seed)
        self._rows: FixedRows = open_rows(source, rows or MOST, window, seed)
        self._is_cut = rows is not None
        self._logits = logits
        self._pace = Pace(every, self._rows.rows if rows is not None else None, budget)
        self._latest: dict[str, float] = {}
        self._measured = -1
        self._has_noted = False
        self._number = next(_numbers)
        self._prefix = PREFIX if name is None else f"{PREFIX}{name}/"
        self.history: list[dict[str, float]] = []

    # --- transformers ----------------------------------------------------------------------

    @property
    def rows(self) -> int | None:
        """How many rows are measured; None until the first steps are timed."""
        return self._rows.rows if self._is_cut else None

    def attach(self, trainer: Any) -> Any:
        """Add the callback to a `Trainer` of transformers before its reporters; returns it.

        Then TensorBoard, Weights & Biases and the others get the numbers, too: those that the
        trainer was made with are called before what is in ``callbacks=``, which reaches
        ``log_history`` and the progress line alone.
        """
        trainer.callback_handler.callbacks.insert(0, self)
        return trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Refuse a second callback of this name: its numbers would be taken for this one's."""
        _begun[:] = [pair for pair in _begun if None not in (pair[0](), pair[1]())]
        others = [callback() for trainer, callback in _begun if trainer() is control]
        self._check_names(others)
        _begun.append((weakref.ref(control), weakref.ref(self)))
        self._begin(state.global_step)

    def on_train_end(self, *arguments: Any, **named: Any) -> None:
        """Allow other callbacks again.  Transformers and Lightning give it different arguments."""
        _begun[:] = [pair for pair in _begun if pair[1]() is not self]

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Measure where it is time, and let the trainer log at this step."""
        steps = getattr(args, "logging_steps", None)
        between = int(steps) if isinstance(steps, int | float) and steps >= 1 else None
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if self._step(named["model"], state.global_step, between, is_last):
            control.should_log = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **named: Any
    ) -> None:
        """Add the numbers of this step to what is logged and kept."""
        if not self._latest or self._measured != state.global_step:
            return
        if logs is not None:
            logs.update(self._latest)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(self._latest)
        self._latest = {}

    # --- Lightning -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        """Refuse a second callback of this name, as `on_train_begin` does."""
        self._check_names(getattr(trainer, "callbacks", ()))
        self._begin(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, module: Any, *others: Any, **named: Any) -> None:
        """Measure where it is time, and log it to Lightning's loggers and metrics."""
        step = trainer.global_step
        if self._step(module, step, getattr(trainer, "log_every_n_steps", None), False):
            module.log_dict(self._latest, on_step=True, on_epoch=False, logger=False, batch_size=1)
            self._to_loggers(trainer, step)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        """Measure the model that comes out."""
        if self._step(module, trainer.global_step, None, True):
            self._to_loggers(trainer, trainer.global_step)

    def _to_loggers(self, trainer: Any, step: int) -> None:
        for logger in trainer.loggers if getattr(trainer, "is_global_zero", True) else ():
            logger.log_metrics(self._latest, step=step)
        self._latest = {}

    @property
    def state_key(self) -> str:
        """Lightning's name of the callback in a checkpoint, where it keeps nothing.

        Each has its own, since Lightning refuses two of one name.
        """
        return f"{type(self).__qualname__}-{self._number}"

    @property
    def _legacy_state_key(self) -> type:
        """That of Lightning before 1.5, which it asks for where it resumes from a checkpoint."""
        return type(self)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a resumed training is timed anew."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A hook of either trainer that does nothing."""
        if name.startswith("on_") or name in OTHER_HOOKS:
            return _ignore
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- both ------------------------------------------------------------------------------

    def _check_names(self, callbacks: Iterable[object]) -> None:
        for other in callbacks:
            if not isinstance(other, FloorCallback) or other is self:
                continue
            if other._prefix == self._prefix:
                raise InvalidValueError(
                    f"two FloorCallbacks of this trainer log {self._prefix}kl: give each a name of "
                    "its own, FloorCallback(..., name='held-out')"
                )

    def _begin(self, step: int) -> None:
        """Measure what follows `step`, also where an earlier training went beyond it."""
        self._measured, self._latest = min(self._measured, step), {}

    def _step(self, model: nn.Module, step: int, between: int | None, is_last: bool) -> bool:
        """A step ended: whether the rows were measured, so that `_latest` has numbers to log."""
        if step <= max(self._measured, 0):  # a part of a step, or the same step again
            return False
        device = next(model.parameters()).device
        if self._pace.step(seconds_now(device) if not self._pace.is_set else 0.0, step):
            self._plan(model, device, between)
        if not (is_last or self._pace.is_due(step)):
            return False
        if not self._is_cut:
            self._is_cut = True
            self._rows = self._rows.first(self._pace.rows or LEAST)
        self._note_rounding(device)
        began = seconds_now(device)
        metrics = self._rows.metrics(model, self._logits)
        self._pace.took(seconds_now(device) - began)
        self._measured = step
        self._latest = {f"{self._prefix}{name}": value for name, value in metrics.items()}
        self.history.append({"step": step, **metrics})
        return True

    def _note_rounding(self, device: torch.device) -> None:
        """Say once where the numbers are of rounded products."""
        rounded = rounded_float32_products(device)
        if rounded and not self._has_noted:
            self._has_noted = True
            Progress().note(
                f"{self._prefix}kl and the other numbers are of float32 products that {device} "
                f"rounds to {rounded}, as the trainer lets it: kullback evaluate, which does not, "
                "may differ from them (torch.set_float32_matmul_precision, tf32=)"
            )

    def _plan(self, model: nn.Module, device: torch.device, between: int | None) -> None:
        """Time a few rows, then choose; with several processes, what the first of them chooses."""
        few = self._rows.first(LEAST)
        few.metrics(model, self._logits)  # the first call sets up what later ones have
        began = seconds_now(device)
        few.metrics(model, self._logits)
        self._pace.plan(seconds_now(device) - began, between)
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            chosen = [(self._pace.every, self._pace.rows)]
            distributed.broadcast_object_list(chosen, src=0)
            self._pace.share(chosen[0])


def _ignore(*arguments: Any, **named: Any) -> None:
    """Do nothing."""
