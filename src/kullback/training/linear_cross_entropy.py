"""Cross-entropy of a linear head without all logits in memory.

With hidden states h (M×D), head W (V×D) and targets y, the loss ``sum_m w_m nll_m`` has
``nll_m = logsumexp(W h_m) - (W h_m)[y_m]`` and, by the gradient q - onehot of the loss with respect
to the logits (:mod:`kullback.theory.losses`),

    d loss / d h = (w (q - onehot)) W          d loss / d W = (w (q - onehot))^T h

Both are sums over blocks of rows: the logits of a block are computed, turned into q - onehot in
place and used while they are in the cache.  Values and gradients are computed in the same pass;
the tests compare them with :mod:`kullback.theory.losses` in float64.

With `bfloat16` the operands of products are rounded to it where the products come in float32: those
of a GPU (CUDA).  A CPU would round the logits, so these stay float32 there, and only the two
products of the gradient are in bfloat16.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.training.arithmetic import product
from kullback.training.block_library import BlockFunctions

__all__ = ["linear_cross_entropy"]

# Bytes of the logits of a block: half of a 1 MB second-level cache.
BLOCK_BYTES = 1 << 19
# On an accelerator: large enough that a few products do all, and small beside its memory.
ACCELERATOR_BLOCK_BYTES = 1 << 28


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden_MD: Tensor,
        head_VD: Tensor,
        target_M: Tensor,
        weight_M: Tensor,
        bfloat16: bool,
        with_gradient: bool,
        functions: BlockFunctions | None,
    ) -> tuple[Tensor, Tensor]:
        M, V = len(hidden_MD), len(head_VD)
        on_cpu = hidden_MD.device.type == "cpu"
        block_bytes = BLOCK_BYTES if on_cpu else ACCELERATOR_BLOCK_BYTES
        rows = max(1, block_bytes // (V * hidden_MD.element_size()))
        factor_VD = head_VD.bfloat16() if bfloat16 else head_VD
        native = bfloat16 and hidden_MD.device.type == "cuda"
        block_BV = hidden_MD.new_empty(0 if native else min(rows, M), V)
        nll_M = hidden_MD.new_empty(M)
        grad_hidden_MD = torch.empty_like(hidden_MD) if with_gradient else None
        grad_head_VD = torch.zeros_like(head_VD) if with_gradient else None
        for start in range(0, M, rows):
            part = slice(start, min(start + rows, M))
            hidden_BD, target_B1 = hidden_MD[part], target_M[part, None]
            q_BV = block_BV[: len(hidden_BD)]
            if native:
                q_BV = _float32_product(hidden_BD, factor_VD.T)
            else:
                torch.mm(hidden_BD, head_VD.T, out=q_BV)
            if functions is not None:
                rounded_BV = torch.empty_like(q_BV, dtype=torch.bfloat16) if bfloat16 else None
                functions.cross_entropy(
                    q_BV, target_M[part], weight_M[part] if with_gradient else None, nll_M[part],
                    rounded_BV,
                )  # fmt: skip
                q_BV = q_BV if rounded_BV is None else rounded_BV
            else:
                q_BV.sub_(q_BV.amax(dim=1, keepdim=True))
                target_logit_B1 = q_BV.gather(1, target_B1)
                total_B1 = q_BV.exp_().sum(dim=1, keepdim=True)
                nll_M[part] = (total_B1.log() - target_logit_B1)[:, 0]
                if with_gradient:
                    weight_B1 = weight_M[part, None]
                    q_BV.mul_(weight_B1 / total_B1)
                    q_BV.scatter_add_(1, target_B1, -weight_B1)
            if grad_hidden_MD is None or grad_head_VD is None:
                continue
            if bfloat16:
                q_BV = q_BV.bfloat16()
                grad_hidden_MD[part] = _float32_product(q_BV, factor_VD)
                grad_head_VD += _float32_product(q_BV.T, hidden_BD)
            else:
                torch.mm(q_BV, head_VD, out=grad_hidden_MD[part])
                grad_head_VD.addmm_(q_BV.T, hidden_BD)
        if grad_hidden_MD is not None and grad_head_VD is not None:
            ctx.save_for_backward(grad_hidden_MD, grad_head_VD)
        ctx.mark_non_differentiable(nll_M)
        return (nll_M * weight_M).sum(), nll_M

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_loss: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_hidden_MD, grad_head_VD = ctx.saved_tensors  # type: ignore[attr-defined]
        if grad_loss.device.type != "cpu" or float(grad_loss) != 1.0:
            grad_hidden_MD, grad_head_VD = grad_hidden_MD * grad_loss, grad_head_VD * grad_loss
        return grad_hidden_MD, grad_head_VD, None, None, None, None, None


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in float32 of operands rounded to bfloat16; on a GPU (CUDA) itself not rounded."""
    if a.device.type == "cuda":
        return torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32)
    return product(a, b, bfloat16=True)


def linear_cross_entropy(
    hidden_MD: Float[Tensor, "M D"],
    head_VD: Float[Tensor, "V D"],
    target_M: Int[Tensor, "M"],
    weight_M: Float[Tensor, "M"],
    bfloat16: bool = False,
    functions: BlockFunctions | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "M"]]:
    """The weighted sum of the negative log-likelihoods, and those of all rows, in nats.

    The sum is differentiable in `hidden_MD` and `head_VD`; the second result carries no gradient.
    Under `torch.no_grad` only the logits are multiplied.  With `functions`, for float32 on a CPU,
    rows of logits are processed in C.

    >>> hidden, head = torch.zeros(2, 4), torch.zeros(8, 4)
    >>> total, nll = linear_cross_entropy(hidden, head, torch.tensor([0, 7]), torch.ones(2) / 2)
    >>> round(total.item(), 4), [round(x, 4) for x in nll.tolist()]
    (2.0794, [2.0794, 2.0794])
    """
    total, nll_M = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_MD, head_VD, target_M, weight_M, bfloat16, torch.is_grad_enabled(), functions
    )
    return total, nll_M
