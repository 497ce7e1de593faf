"""State of a training run: model, optimisers, step counter, and the optimiser step.

The matrices of the blocks are updated by Muon, all other parameters by AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from kullback.errors import RunError
from kullback.runtime.transfers import start_to_host
from kullback.training.arithmetic import CPU, Arithmetic
from kullback.training.batches import Shard
from kullback.training.config import TrainingConfig
from kullback.training.dropout import Dropout
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.metrics import Sums
from kullback.training.muon import Muon
from kullback.training.muon_library import muon_functions
from kullback.training.optimisers import AdamW

if TYPE_CHECKING:
    from kullback.training.sharding import ShardedState

__all__ = ["DivergedError", "PendingStep", "TrainingState"]

# Training has diverged where the loss exceeds this multiple of log V, the loss of a uniform guess:
# learning rates that are too high give tens to thousands of nats long before an infinity appears.
DIVERGED = 10.0


class DivergedError(RunError):
    """The loss or a gradient is not finite, or far too large; all processes see it together."""


@dataclass(frozen=True)
class PendingStep:
    """What a step has computed, which an accelerator may still be at."""

    step: int
    """Its number, from 1, as in the lines of metrics."""
    sums: list[Callable[[], Sums]]
    """Of each piece of this process."""
    check_norm: Callable[[], None] = lambda: None


@dataclass
class TrainingState:
    """Everything that changes from step to step."""

    model: GPT
    config: TrainingConfig
    step: int = 0
    tokens: int = 0
    """Target tokens of all steps so far."""
    recent: Sums = field(default_factory=Sums)
    """Sums over the steps since the last line of metrics."""
    checkpoint_step: int | None = None
    """The step of the last checkpoint on disk."""
    last_is_damaged: bool = False
    """Whether the last checkpoint was damaged when this state was read from the one before."""
    pending: PendingStep | None = None
    """What has to be checked of the last step; on a CPU nothing."""
    muon_kind: ClassVar[type[Muon]] = Muon
    muon: Muon = field(init=False)
    adamw: AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.names = [name for name, _ in self.model.named_parameters()]
        self.weights = list(self.model.parameters())
        hidden = [w.ndim == 2 and ".layers." in n for n, w in self.model.named_parameters()]
        matrices = [w for w, is_hidden in zip(self.weights, hidden, strict=True) if is_hidden]
        others = [w for w, is_hidden in zip(self.weights, hidden, strict=True) if not is_hidden]
        decay, rows = self.config.weight_decay, self.config.muon_rows or None
        steps = self.config.muon_steps
        self.muon = self.muon_kind(matrices, weight_decay=decay, rows=rows, steps=steps)
        if self.model.arithmetic.functions is not None:
            self.muon.functions = muon_functions()
        # The weights of normalisations do not decay.
        groups = [
            {"params": [w for w in others if w.ndim == 2], "weight_decay": decay},
            {"params": [w for w in others if w.ndim == 1], "weight_decay": 0.0},
        ]
        self.adamw = AdamW(groups, betas=(0.9, 0.95), fused=True)

    @classmethod
    def begin(cls, gpt: GPTConfig, config: TrainingConfig, device: torch.device = CPU) -> Self:
        """The state before the first step, on a device."""
        model = GPT(gpt, seed=config.seed).compute_with(Arithmetic.of(config, device))
        model.checkpoint_activations = config.checkpoint_activations
        return cls(model, config)

    def dropout(self, piece: Shard) -> Dropout | None:
        """What this step leaves out of a piece of its batch."""
        fraction = self.config.dropout
        if not fraction:
            return None
        return Dropout(fraction, self.config.seed, self.step, piece.first_token)

    @property
    def sharded(self) -> ShardedState | None:
        """This state where it is that of a sharded run, else None."""
        return None

    def update(self, gradients: list[Tensor]) -> Callable[[], None]:
        """Clip the gradient and take one step of both optimisers.

        What is returned checks the norm of an accelerator's gradient, for which it waits; on a CPU
        the norm is checked before the weights change.  Raises `DivergedError`, as it does.
        """
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        norm = self._clip()
        wait, step = start_to_host(norm), self.step + 1
        if not self.model.arithmetic.accelerated:
            self._check_norm(norm, step)
        factor = self.config.learning_rate_factor(self.step)
        for optimiser, learning_rate in (
            (self.muon, self.config.muon_lr),
            (self.adamw, self.config.adamw_lr),
        ):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * factor
            optimiser.step()
        for weight in self.weights:
            weight.grad = None  # the next gradients are other tensors
        return lambda: self._check_norm(wait(), step)

    def _clip(self) -> Tensor:
        """Scale the gradient to the largest norm that it may have; the norm before."""
        return torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)

    def check_loss(self, loss: float, step: int | None = None) -> None:
        """Raise `DivergedError` for a mean nll that shows that training has diverged.

        `step` is the one, from 1, that computed it, by default the last that is complete.
        """
        uniform = math.log(self.model.config.vocabulary_size)
        if not loss <= DIVERGED * max(uniform, 1.0):
            raise self._diverged(
                f"the loss is {loss:.4g} nats/token, a uniform guess costs {uniform:.4g}",
                self.step if step is None else step,
            )

    def _check_norm(self, norm: Tensor, step: int) -> None:
        if not torch.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}", step)

    @property
    def kept_checkpoint(self) -> str:
        """What can be resumed, in a clause."""
        if self.checkpoint_step is None:
            return "no checkpoint was written yet"
        return f"the checkpoint of step {self.checkpoint_step} is kept"

    def _diverged(self, reason: str, step: int) -> DivergedError:
        config, kept = self.config, self.kept_checkpoint
        if self.checkpoint_step is not None:
            kept += ", but a run resumed from it would diverge again"
        remedies = [
            f"lower learning rates (muon_lr is {config.muon_lr:g}, adamw_lr is "
            f"{config.adamw_lr:g})",
            f"a longer warm-up (warmup_steps is {config.warmup_steps})",
        ]
        if config.weight_decay:
            remedies.append(f"less weight decay (weight_decay is {config.weight_decay:g})")
        return DivergedError(
            f"training diverged: {reason} at step {step}; {kept}; train a new run with "
            f"{', '.join(remedies[:-1])} or {remedies[-1]}"
        )
