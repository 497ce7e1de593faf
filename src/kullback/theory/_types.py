"""Types of the theory package: arrays, and the forms in which a distribution can be given."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatArray", "Given", "IntArray"]

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

#: Probabilities, their natural logarithms, or numbers whose softmax is the distribution.
Given: TypeAlias = Literal["probs", "log_probs", "logits"]
