"""Hyperparameters and the learning-rate schedule."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import numpy as np
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
        ({"steps": -3}, "steps is -3: it must be a whole number of at least 1 and"),
        ({"steps": 0}, "steps is 0: it must be a whole number of at least 1 and"),
        ({"steps": 10**9 + 1}, "at most 1,000,000,000"),
        ({"steps": 2.5}, "steps is 2.5: it must be a whole number"),
        ({"steps": True}, "steps is True: it must be a whole number"),
        ({"shards": 0}, "shards is 0: it must be a whole number of at least 1 and at most 4,096"),
        ({"muon_lr": -0.1}, "muon_lr is -0.1: it must be a number above 0 and at most 100"),
        ({"muon_lr": 1e99}, "muon_lr is 1e+99: it must be a number above 0 and at most 100"),
        ({"adamw_lr": math.nan}, "adamw_lr is nan: it must be a number above 0"),
        ({"adamw_lr": math.inf}, "adamw_lr is inf: it must be a number above 0"),
        (
            {"weight_decay": 60.0},
            "weight_decay is 60 and the largest learning rate 0.02: their product must be below 1",
        ),
        ({"muon_steps": 4}, "muon_steps is 4: it must be 3 or 5"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0: it must be a number above 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0: it must be a whole number of at least 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1: it must be a whole number of at least 0"),
        ({"seed": -1}, "seed is -1: it must be a whole number of at least 0"),
        ({"seed": 2**63}, "at most 2^63 - 1"),
        (
            {"decay_fraction": 1.5},
            "decay_fraction is 1.5: it must be a number above 0 and at most 1",
        ),
    ],
)
def test_impossible_configurations(changes: dict[str, float], message: str):
    """An impossible setting is an error that shows it."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        TrainingConfig(**changes)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_kept_as_those_of_python():
    """A configuration of NumPy's numbers can be written as JSON, and is equal to Python's."""
    config = TrainingConfig(steps=np.int64(5), muon_lr=np.float32(0.5))  # type: ignore[arg-type]
    assert json.dumps(asdict(config)) == json.dumps(asdict(TrainingConfig(steps=5, muon_lr=0.5)))
