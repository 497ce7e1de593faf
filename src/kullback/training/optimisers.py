"""torch's optimisers without `torch._dynamo`, which takes two seconds to import.

torch wraps the methods of its optimisers so that `torch.compile` leaves them out, and the wrapper
imports the compiler at the first call, in runs that compile nothing, too.  Here the same methods
are called without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim import Optimizer

__all__ = ["AdamW", "EagerOptimizer"]

_add_param_group: Callable[[Optimizer, dict[str, Any]], None] = inspect.unwrap(
    Optimizer.add_param_group
)
_step_of_adamw: Callable[[torch.optim.AdamW, Any], Any] = inspect.unwrap(torch.optim.AdamW.step)


class EagerOptimizer(Optimizer):
    """An optimiser that is not compiled."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        _add_param_group(self, param_group)


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's AdamW, bit for bit."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss: float | None = _step_of_adamw(self, closure)
        return loss
