"""The colour scales of tokens."""

from __future__ import annotations

import math

from kullback.report.html.token_colours import (
    KL_NAMES,
    KL_STEPS,
    SURPRISAL_NAMES,
    SURPRISAL_STEPS,
    kl_level,
    surprisal_level,
)


def test_each_step_of_both_scales_begins_a_level():
    """At a step the next level begins; each level has a name, and NaN has none."""
    assert [kl_level(step) for step in KL_STEPS] == list(range(1, len(KL_NAMES)))
    assert kl_level(math.nextafter(KL_STEPS[0], 0)) == 0
    assert kl_level(math.nan) == 0
    surprisals = [-math.log(step) for step in SURPRISAL_STEPS]
    assert [surprisal_level(x) for x in surprisals] == list(range(len(SURPRISAL_STEPS)))
    assert surprisal_level(math.inf) == len(SURPRISAL_NAMES) - 1
