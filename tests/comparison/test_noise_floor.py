"""What a model differs from itself by."""

from __future__ import annotations

import pytest
from text_samples import measured

from kullback.comparison.noise_floor import above_noise


@pytest.mark.parametrize(
    ("kl", "shape", "above"),
    [
        (measured(3e-3, 1e-3), measured(1e-3, 0.5e-3), True),
        (measured(3e-3, 1e-3), measured(1e-3, 1.5e-3), False),
        (measured(3e-3, None), measured(1e-3, None), True),
        (measured(0.0, 0.0), measured(0.0, 0.0), False),
        (measured(None, None), measured(1e-3, None), False),
    ],
)
def test_a_kl_rises_above_the_noise_with_its_whole_interval(kl, shape, above):
    """The low end of the KL must be above the high end of the floor; without one, the values."""
    assert above_noise(kl, {"batch shape": shape}) is above


def test_without_a_batch_shape_nobody_knows():
    """Another type alone is no floor: it may be noisier than the candidate."""
    assert above_noise(measured(), {"bfloat16": measured()}) is None
