"""The two colour scales of tokens in running text: by surprisal, and by KL.

A level is a class of the style sheet: ``level-0`` to ``level-7``, and ``k0`` to ``k6``.
"""

from __future__ import annotations

import math

__all__ = [
    "KL_NAMES",
    "KL_STEPS",
    "LARGE_KL",
    "SURPRISAL_NAMES",
    "SURPRISAL_STEPS",
    "kl_level",
    "surprisal_level",
]

#: A token whose probability is at least the first of these is of level 0, the second of level 1, …
SURPRISAL_STEPS = (0.95, 1 / 2, 1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 4096)
SURPRISAL_NAMES = ("≥ 95 %", "≥ ½", "≥ ¼", "≥ 1⁄16", "≥ 1⁄64", "≥ 1⁄256", "≥ 1⁄4096", "less")
#: A token whose KL in nats is at least the first of these is of level 1, the second of level 2, …
KL_STEPS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
KL_NAMES = ("< 0.001", "≥ 0.001", "≥ 0.01", "≥ 0.03", "≥ 0.1", "≥ 0.3", "≥ 1")
#: From this KL on, in nats, a token of the lab's sentences is underlined.
LARGE_KL = 0.05


def surprisal_level(surprisal: float) -> int:
    """The step of the colour scale for a surprisal in nats: 0 is nearly certain.

    >>> [surprisal_level(x) for x in (0.0, 0.6, 1.0, 9.0, float("inf"))]
    [0, 1, 2, 7, 7]
    """
    return sum(surprisal > -math.log(step) for step in SURPRISAL_STEPS)


def kl_level(kl: float) -> int:
    """The step of the colour scale for a KL in nats: 0 is negligible.

    >>> [kl_level(x) for x in (0.0, 0.001, 0.05, 0.9, 3.0, float("inf"))]
    [0, 1, 3, 5, 6, 6]
    """
    return sum(kl >= step for step in KL_STEPS)
