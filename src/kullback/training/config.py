"""Hyperparameters of a training run, and the learning-rate schedule that they define.

The schedule is a trapezium: the learning rates rise linearly over `warmup_steps`, stay constant,
and fall linearly to zero over the last `decay_fraction` of the steps.  It depends on the number of
steps, so a run of 150 steps is not the beginning of a run of 200.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from kullback.errors import InvalidValueError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a run; ``docs/log.md`` records how the defaults were chosen."""

    steps: int = 800
    muon_lr: float = 0.02
    adamw_lr: float = 0.003
    warmup_steps: int = 20
    decay_fraction: float = 0.7
    """The fraction of the steps, at the end, over which the learning rates fall to zero."""
    clip_norm: float = 1.0
    shards: int = 2
    """Shards of a batch, one thread each; they change the last bits, since sums are ordered."""
    seed: int = 0
    """Of the initial weights."""
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("seed", "warmup_steps"):
                if value < 0:
                    raise InvalidValueError(f"{name} is {value}: it must be at least 0")
            elif not value > 0:
                raise InvalidValueError(f"{name} is {value}: it must be positive")
        if not self.decay_fraction <= 1:
            raise InvalidValueError(
                f"decay_fraction is {self.decay_fraction}: it must be in (0, 1]"
            )

    def learning_rate_factor(self, step: int) -> float:
        """The factor on the learning rates at `step`, in [0, 1].

        >>> config = TrainingConfig(steps=100, warmup_steps=10, decay_fraction=0.5)
        >>> [config.learning_rate_factor(step) for step in (0, 9, 50, 75)]
        [0.1, 1.0, 1.0, 0.5]
        """
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay = (self.steps - step) / (self.decay_fraction * self.steps)
        return min(warmup, 1.0, decay)
