"""The optimiser Muon, batched over matrices of equal shape.

Muon (Jordan 2024) updates a weight matrix by its orthogonalised momentum: with the singular value
decomposition G = U S V^T of the momentum, the update is U V^T, so that all directions have the
same learning rate.  Five steps of a quintic Newton-Schulz iteration approximate it::

    X <- a X + (b X X^T + c (X X^T)^2) X        (a, b, c) = (3.4445, -4.7750, 2.0315)

`torch.optim.Muon` does this matrix by matrix; for the many small matrices of a small model the
calls cost more than the arithmetic.  Here matrices of equal shape share one batched product, in
bfloat16 where the processor multiplies it natively (as Jordan does) and otherwise in float32, split
over a pool of threads.  The update rule is that of torch, and a test compares the two.

The products cost more than the rest of a step where a batch has few tokens: five steps for an
R×C matrix take 5 × (4 R² C + 2 R³) operations, a token 6 × R × C.  With `rows`, a matrix is
orthogonalised in blocks of so many rows, such as the rows of one head.  A block has far fewer rows
than columns, and the iteration then needs X only at its ends: with G = X X^T, each step
multiplies X by a polynomial of G, which commutes with those of the other steps, so that
`orthogonalise_wide` multiplies R×R matrices (``docs/log.md`` has the times and the losses).

With `steps` = 3, large matrices are orthogonalised in three such steps (`orthogonalise_in_three`),
with two thirds of the operations: of X over a closer bound of its largest singular value, and with
the best coefficients for each step.  275 steps of a model of width
384 end at 1.604 nats a character, with five at 1.602.

On a CPU with a compiler, blocks are taken from the gradient to the new weights one after another in
C (:mod:`kullback.training.muon_library`), large ones where C can call MKL's products.  Of products
of bfloat16, large blocks take the five steps as they are, since the polynomials need float32; X is
float32 between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from itertools import chain, pairwise
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from kullback.runtime.mkl_products import MKLProducts, mkl_products
from kullback.runtime.processor import multiplies_bfloat16
from kullback.training.muon_library import SMALL_SIDE, MuonFunctions
from kullback.training.optimisers import EagerOptimizer

__all__ = [
    "Muon",
    "orthogonalise",
    "orthogonalise_in_three",
    "orthogonalise_wide",
]

# Jordan 2024, "Muon: an optimizer for hidden layers in neural networks": the coefficients that
# increase small singular values fastest while all end between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# Of three steps, for singular values from 0.01 to 1: the least largest distance from 1, 0.27, of
# all such polynomials (Amsel et al. 2025, "The Polar Express"), by a linear program for each step.
OF_THREE_STEPS = (
    (8.093378, -23.620442, 17.446227),
    (3.636605, -2.721934, 0.536495),
    (2.661318, -1.977232, 0.452594),
)
# Of the matrices that are orthogonalised together; of more, one shape at a time, so that the
# temporaries of one are in memory.
SMALL_BYTES = 8 << 20


def orthogonalise(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    """The matrices with all singular values close to 1; rows must not exceed columns."""
    a, b, c = COEFFICIENTS
    x = _normalised(matrices_BRC)
    if x.device.type != "cpu" or multiplies_bfloat16():
        x = x.bfloat16()
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    out: Tensor = x.to(matrices_BRC.dtype)
    return out


def orthogonalise_wide(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    """The same in the dtype of the matrices, with fewer operations where C is at least 2 R.

    With P_k = a I + b G_k + c G_k² of each step, the result is P_5 ... P_1 X, and
    G_{k+1} = P_k G_k P_k.
    """
    x = _normalised(matrices_BRC)
    gram = torch.bmm(x, x.mT)
    out: Tensor = torch.bmm(_polynomials(gram, (COEFFICIENTS,) * STEPS), x)
    return out


def orthogonalise_in_three(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    """The matrices with singular values from 0.73 to 1.27, but for the smallest, in three steps.

    As `orthogonalise_wide`, with other coefficients, and of X over a bound of its largest singular
    value: the fourth root of the norm of G².
    """
    x = _normalised(matrices_BRC)
    gram = torch.bmm(x, x.mT)
    bound = torch.bmm(gram, gram).norm(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-14)
    out: Tensor = torch.bmm(_polynomials(gram / bound, OF_THREE_STEPS), x / bound.sqrt())
    return out


def _polynomials(
    gram: Float[Tensor, "B R R"], coefficients: Sequence[tuple[float, float, float]]
) -> Float[Tensor, "B R R"]:
    """The product of the P_k of all steps."""
    product: Tensor | None = None
    for step, (a, b, c) in enumerate(coefficients):
        # P without a I, which the next products add.
        rest = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if step < len(coefficients) - 1:
            half = torch.baddbmm(gram, rest, gram, beta=a)
            gram = torch.baddbmm(half, rest, half, beta=a)
        if product is None:
            product = rest
            product.diagonal(dim1=1, dim2=2).add_(a)
        else:
            product = torch.baddbmm(product, rest, product, beta=a)
    assert product is not None
    return product


def _normalised(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    out: Tensor = matrices_BRC / matrices_BRC.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    return out


class Muon(EagerOptimizer):
    """Muon over matrices; every parameter must have two dimensions.

    `lr` multiplies an update whose singular values are near sqrt(max(1, rows / columns));
    `weight_decay` is decoupled, as in AdamW.  With `rows`, each block of so many rows of a matrix
    is a matrix of its own.  In 3 `steps` those with a smaller side above `SMALL_SIDE` are
    orthogonalised by `orthogonalise_in_three`.  `pool`, where set, processes the matrices in
    `parts`.  With `functions`, blocks of float32 on a CPU are updated in C.
    """

    pool: Executor | None = None
    parts: int = 1
    functions: MuonFunctions | None = None

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rows: int | None = None,
        steps: int = STEPS,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.rows, self.steps = rows, steps

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            self._begin(weights)
            if self.functions is not None:
                in_c = [weight for weight in weights if self._is_in_c(weight)]
                self._step_in_c(self.functions, in_c, group)
                weights = [weight for weight in weights if not self._is_in_c(weight)]
            updates = self._momenta(weights, group["momentum"])
            if weights and group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            self._descend(weights, updates, group["lr"])
        return loss

    def _begin(self, weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    def _is_in_c(self, weight: Tensor) -> bool:
        """Whether its blocks can be updated in C."""
        rows, columns = weight.shape
        small = min(self.rows or rows, rows, columns) <= SMALL_SIDE
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
        return on_cpu and (small or mkl_products() is not None)

    def _step_in_c(
        self, functions: MuonFunctions, weights: list[Tensor], group: dict[str, Any]
    ) -> None:
        """One update of these weights, by the threads of the pool."""
        if not weights:
            return
        matrices = [
            (weight, weight.grad.contiguous(), self.state[weight]["momentum_buffer"])
            for weight in weights
            if weight.grad is not None
        ]
        rows = self.rows or max(len(weight) for weight in weights)
        blocks = sum(-(-len(weight) // rows) for weight in weights)
        bounds = [blocks * part // self.parts for part in range(self.parts + 1)]
        rates = group["lr"], group["momentum"], group["weight_decay"]
        of_steps = chain.from_iterable(((COEFFICIENTS,) * STEPS, OF_THREE_STEPS))
        settings = (*rates, *chain.from_iterable(of_steps), self.steps)
        products = mkl_products()
        if products is not None and not multiplies_bfloat16():
            products = MKLProducts(products.float32, None)

        def update(part: range) -> None:
            functions.step(matrices, rows, part, settings, products)

        parts = (range(first, end) for first, end in pairwise(bounds))
        deque((self.pool.map if self.pool else map)(update, parts), maxlen=0)

    def _descend(self, weights: list[Tensor], updates: list[Tensor], lr: float) -> None:
        """Subtract the orthogonalised updates, times the learning rate, from the weights."""
        # Blocks of equal shape share one batch; each is transposed where rows exceed columns.
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight, update in zip(weights, updates, strict=True):
            blocks = zip(self._blocks(weight), self._blocks(update), strict=True)
            for part_BRC, update_BRC in blocks:
                wide = update_BRC if update_BRC.shape[1] <= update_BRC.shape[2] else update_BRC.mT
                shape = (wide.shape[1], wide.shape[2])
                by_shape.setdefault(shape, []).append((part_BRC, wide))
        shapes = list(by_shape.values())
        size = sum(update.nbytes for update in updates)
        for group in [shapes] if size <= SMALL_BYTES else [[pairs] for pairs in shapes]:
            stacks = [torch.cat([wide for _, wide in pairs]) for pairs in group]
            self._orthogonalise(stacks)
            for pairs, stack in zip(group, stacks, strict=True):
                done = torch.split(stack, [len(wide) for _, wide in pairs])
                for (part_BRC, _), update in zip(pairs, done, strict=True):
                    rows, columns = part_BRC.shape[1:]
                    scale = max(1.0, rows / columns) ** 0.5
                    part_BRC.add_(update.mT if rows > columns else update, alpha=-lr * scale)

    def _momenta(self, weights: list[Tensor], momentum: float) -> list[Tensor]:
        """The Nesterov momentum of each weight."""
        if not weights:
            return []
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))

    def _blocks(self, matrix_RC: Tensor) -> list[Tensor]:
        """Views of all rows as batches of matrices: those of `rows` rows, and the rest."""
        total, columns = matrix_RC.shape
        rows = min(self.rows or total, total)
        whole = total - total % rows
        blocks = [matrix_RC[:whole].view(-1, rows, columns)]
        return blocks if whole == total else [*blocks, matrix_RC[None, whole:]]

    def _orthogonalise(self, stacks: list[Float[Tensor, "B R C"]]) -> None:
        """In place, by the threads of the pool."""
        function = _whole if self.rows is None else _in_blocks

        def replace(piece: Tensor) -> None:
            in_three = self.steps == len(OF_THREE_STEPS) and piece.shape[1] > SMALL_SIDE
            piece.copy_((_in_three if in_three else function)(piece))

        split = (stack.tensor_split(min(self.parts, len(stack))) for stack in stacks)
        pieces = (piece for of_stack in split for piece in of_stack)
        deque((self.pool.map if self.pool else map)(replace, pieces), maxlen=0)


def _whole(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    with torch.no_grad():  # a setting of the thread, not of the process
        return orthogonalise(matrices_BRC)


def _in_three(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    with torch.no_grad():
        return orthogonalise_in_three(matrices_BRC)


def _in_blocks(matrices_BRC: Float[Tensor, "B R C"]) -> Float[Tensor, "B R C"]:
    _, rows, columns = matrices_BRC.shape
    with torch.no_grad():
        wide = matrices_BRC.device.type == "cpu" and columns >= 2 * rows
        return orthogonalise_wide(matrices_BRC) if wide else orthogonalise(matrices_BRC)
