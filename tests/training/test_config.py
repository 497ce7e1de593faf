"""Hyperparameters and the learning-rate schedule."""

from __future__ import annotations

import math
import re

import pytest

from kullback.errors import InvalidValueError
from kullback.training.config import TrainingConfig


def test_the_learning_rates_warm_up_stay_and_fall():
    """The factor is the trapezium that the configuration draws."""
    config = TrainingConfig(steps=100, warmup_steps=10, decay_fraction=0.4)
    rates = [config.learning_rate_factor(step) for step in range(100)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[10:61] == [1.0] * 51
    assert rates[60:] == pytest.approx([1 - k / 40 for k in range(40)])
    assert TrainingConfig(warmup_steps=0).learning_rate_factor(0) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -3}, "steps is -3: it must be positive"),
        ({"steps": 0}, "steps is 0: it must be positive"),
        ({"shards": 0}, "shards is 0: it must be positive"),
        ({"muon_lr": -0.1}, "muon_lr is -0.1: it must be positive"),
        ({"adamw_lr": math.nan}, "adamw_lr is nan: it must be positive"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0: it must be positive"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0: it must be positive"),
        ({"warmup_steps": -1}, "warmup_steps is -1: it must be at least 0"),
        ({"seed": -1}, "seed is -1: it must be at least 0"),
        ({"decay_fraction": 1.5}, "decay_fraction is 1.5: it must be in (0, 1]"),
    ],
)
def test_impossible_configurations(changes: dict[str, float], message: str):
    """An impossible setting is an error that shows it."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        TrainingConfig(**changes)  # type: ignore[arg-type]
