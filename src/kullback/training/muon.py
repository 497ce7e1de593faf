"""The optimiser Muon, batched over matrices of equal shape.

Muon (Jordan 2024) updates a weight matrix by its orthogonalised momentum: with the singular value
decomposition G = U S V^T of the momentum, the update is U V^T, so that all directions have the
same learning rate.  Five steps of a quintic Newton-Schulz iteration approximate it::

    X <- a X + (b X X^T + c (X X^T)^2) X        (a, b, c) = (3.4445, -4.7750, 2.0315)

`torch.optim.Muon` does this matrix by matrix; for the many small matrices of a small model the
calls cost more than the arithmetic.  Here matrices of equal shape share one batched product, in
bfloat16 where the processor multiplies it natively (as Jordan does) and otherwise in float32, split
over a pool of threads.  The update rule is that of torch, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Muon", "orthogonalise"]

# Jordan 2024, "Muon: an optimizer for hidden layers in neural networks": the coefficients that
# increase small singular values fastest while all end between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    """The matrices with all singular values close to 1; rows must not exceed columns."""
    a, b, c = COEFFICIENTS
    x = matrices_BRC / matrices_BRC.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    if x.device.type != "cpu" or bool(torch.cpu._is_avx512_bf16_supported()):
        x = x.bfloat16()
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    out: Tensor = x.to(matrices_BRC.dtype)
    return out


class Muon(Optimizer):
    """Muon over matrices; every parameter must have two dimensions.

    `lr` multiplies an update whose singular values are near sqrt(max(1, rows / columns));
    `weight_decay` is decoupled, as in AdamW.  `pool`, where set, processes the matrices in `parts`.
    """

    pool: Executor | None = None
    parts: int = 1

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    rows, columns = weight.shape
                    by_shape.setdefault((min(rows, columns), max(rows, columns)), []).append(weight)
            stacks = [torch.stack([self._update(w, group) for w in ws]) for ws in by_shape.values()]
            updates = (update for stack in self._orthogonalise(stacks) for update in stack)
            for weight, update in zip(
                (w for ws in by_shape.values() for w in ws), updates, strict=True
            ):
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, rows / columns) ** 0.5
                weight.add_(update.mT if rows > columns else update, alpha=-group["lr"] * scale)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> Float[Tensor, "R C"]:
        """The Nesterov momentum, transposed where rows exceed columns."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(buffer, group["momentum"])
        return update.mT if update.shape[0] > update.shape[1] else update

    def _orthogonalise(self, stacks: list[Float[Tensor, "B R C"]]) -> Iterable[Tensor]:
        pieces = [
            piece for stack in stacks for piece in stack.tensor_split(self.parts) if len(piece)
        ]
        return (self.pool.map if self.pool else map)(_without_grad, pieces)


def _without_grad(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    with torch.no_grad():  # a setting of the thread, not of the process
        return orthogonalise(matrices_BRC)
