"""Hyperparameters of a training run, and the learning-rate schedule that they define.

The schedule is a trapezium: the learning rates rise linearly over `warmup_steps`, stay constant,
and fall linearly to zero over the last `decay_fraction` of the steps.  It depends on the number of
steps, so a run of 150 steps is not the beginning of a run of 200.
"""

from __future__ import annotations

from dataclasses import dataclass

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import LENGTHS, SEEDS, Range

__all__ = ["DROPOUT_UNITS", "DTYPES", "RANGES", "SHARDING", "SIZES", "TrainingConfig"]

#: Dropout is a multiple of one over this.
DROPOUT_UNITS = 2**16
_RATE = Range(0, 100.0, whole=False, above=True)
_EVERY = Range(1, 10**9)
#: Of the fields of `TrainingConfig`.
RANGES = {
    "steps": _EVERY,
    "muon_lr": _RATE,
    "adamw_lr": _RATE,
    "warmup_steps": Range(0, 10**9),
    "decay_fraction": Range(0, 1.0, whole=False, above=True),
    "muon_rows": Range(0, 65_536),
    "clip_norm": Range(0, 1e9, whole=False, above=True),
    "dropout": Range(0, 0.99, whole=False),
    "weight_decay": Range(0, 100.0, whole=False),
    "shards": Range(1, 4096),
    "accumulate": Range(1, 10**6),
    "processes": Range(1, 10**6),
    "seed": SEEDS,
    "log_every": _EVERY,
    "evaluate_every": _EVERY,
    "checkpoint_every": _EVERY,
}
#: Whether the processes of a run share its model: "auto" where replicas do not fit in memory.
SHARDING = ("auto", "always", "never")
#: Types of the operands of products.
DTYPES = ("float32", "bfloat16")
#: Of the fields of `kullback.training.gpt_config.GPTConfig`, and of a batch: sentences or windows.
SIZES = {
    "vocabulary_size": Range(1, 10**7),
    "context": LENGTHS,
    "width": Range(1, 65_536),
    "layers": Range(1, 10_000),
    "heads": Range(1, 32_768),
    "mlp_width": Range(1, 10**6),
    "rope_theta": Range(0, 1e15, whole=False, above=True),
    "norm_eps": Range(0, 1.0, whole=False, above=True),
    "batch": Range(1, 10**7),
}


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
    dropout: float = 0.0
    """The fraction that a step leaves out of what each block adds to the residual stream."""
    weight_decay: float = 0.0
    """A step multiplies matrices by 1 - learning rate × this (Loshchilov & Hutter 2019)."""
    shards: int = 2
    """Threads, one shard each; they change the last bits, since sums are ordered."""
    accumulate: int = 1
    """Parts of a process's share of a batch, one after another."""
    processes: int = 1
    """That the run began with; each takes an equal share of every batch."""
    checkpoint_activations: bool = False
    """Keep only the input of each block for the backward pass, and compute the rest again."""
    fsdp: bool = False
    """Each process keeps a shard of weights, gradients and optimisers, instead of all of them."""
    seed: int = 0
    """Of the initial weights."""
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 100
    muon_rows: int = 0
    """Rows of the blocks of a matrix that Muon orthogonalises one by one; 0 for whole matrices."""
    muon_steps: int = 5
    """In which Muon orthogonalises large matrices, 5 or 3; chosen for the processor."""
    device: str = "cpu"
    """The kind of device that the run began on."""
    dtype: str = "float32"
    """Of the operands of matrix products."""
    compiled: bool = False
    """Whether `torch.compile` fuses the operations of a block, which changes the last bits."""
    native: bool = False
    """Whether the functions between the products of a block are in C (other last bits)."""

    def __post_init__(self) -> None:
        for name, limits in RANGES.items():
            limits.set(self, name, getattr(self, name))
        if self.dtype not in DTYPES:
            raise InvalidValueError(
                f"dtype is {self.dtype!r:.60}: it must be {' or '.join(DTYPES)}"
            )
        fastest = max(self.muon_lr, self.adamw_lr)
        if fastest * self.weight_decay >= 1:
            raise InvalidValueError(
                f"weight_decay is {self.weight_decay:g} and the largest learning rate {fastest:g}: "
                "their product must be below 1, since weights are multiplied by 1 less it in each "
                "step; 0.1 is usual"
            )
        if self.muon_steps not in (3, 5):
            raise InvalidValueError(f"muon_steps is {self.muon_steps!r:.60}: it must be 3 or 5")
        if self.dropout and not round(self.dropout * DROPOUT_UNITS):
            raise InvalidValueError(
                f"dropout is {self.dropout:g}: it is rounded to a multiple of 2^-16, here to 0, "
                f"and leaves nothing out; give 0, or at least {1 / DROPOUT_UNITS:.1e}"
            )
        for name in ("checkpoint_activations", "fsdp", "compiled", "native"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidValueError(f"{name} is {value!r:.60}: it must be True or False")

    def pieces(self, sequences: int) -> int:
        """The shards of a batch of so many windows or sentences, in all processes and parts.

        >>> TrainingConfig(shards=2, accumulate=3, processes=4).pieces(48)
        24
        """
        shares = self.processes * self.accumulate
        # A process of a sharded run computes one piece at a time, in all its threads.
        return shares if self.fsdp else shares * max(1, min(self.shards, sequences // shares))

    def learning_rate_factor(self, step: int) -> float:
        """The factor on the learning rates at `step`, in [0, 1].

        >>> config = TrainingConfig(steps=100, warmup_steps=10, decay_fraction=0.5)
        >>> [config.learning_rate_factor(step) for step in (0, 9, 50, 75)]
        [0.1, 1.0, 1.0, 0.5]
        """
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay = (self.steps - step) / (self.decay_fraction * self.steps)
        return min(warmup, 1.0, decay)
