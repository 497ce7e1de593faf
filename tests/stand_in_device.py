"""A device that is not here: tensors of numbers on the CPU that do not mix with others.

torch checks devices in code that only runs where a device is, so the rules that a test needs are
checked here: operands must be on one device, a tensor is indexed by indices of its own device or of
the CPU, and Apple's GPU ("mps") has no float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["Away", "without_inference_mode"]

READ = (Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.numpy)
MIXED = RuntimeError("Expected all tensors to be on the same device")


def _own(value: Any) -> Any:
    return value.inner if isinstance(value, Away) else value


class Away(Tensor):
    """A tensor on the device `kind`, whose numbers are in `inner`."""

    kind = "xla"
    inner: Tensor

    def __new__(cls, inner: Tensor) -> Self:
        """Of the shape and type of `inner`, which it shares."""
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta",
            storage_offset=inner.storage_offset(),
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        if self.kind == "mps" and inner.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        self.inner = inner

    @property
    def device(self) -> torch.device:
        """Where it is said to be."""
        return torch.device(self.kind, 0)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], arguments: Any = (), named: Any = None
    ) -> Any:
        """Run an operation on the numbers."""
        named = dict(named or {})
        moves = str(function).split(".")[1] in ("_to_copy", "copy_")
        tensors = [one for one in tree_flatten((arguments, named))[0] if isinstance(one, Tensor)]
        if not moves and any(not isinstance(one, Away) and one.dim() for one in tensors):
            raise MIXED
        leaves = str(named.pop("device", None)) == "cpu"
        result = function(*tree_map(_own, arguments), **tree_map(_own, named))

        def wrapped(value: Any) -> Any:
            """What was changed in place stays the same object."""
            same = [one for one in tensors if _own(one) is value]
            return same[0] if same else value if leaves else cls(value)

        return tree_map(lambda one: wrapped(one) if isinstance(one, Tensor) else one, result)

    @classmethod
    @contextmanager
    def present(cls, kind: str) -> Iterator[None]:
        """The device is there: a type, such as "mps"."""
        cls.kind = kind
        with _Calls():
            yield


class _Calls(TorchFunctionMode):
    """What torch decides by the device before it calls an operation."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Any = (),
        named: Any = None,
    ) -> Any:
        named = named or {}
        among = [one for one in tree_flatten((arguments, named))[0] if isinstance(one, Away)]
        first = arguments[0] if arguments else None
        if function is Tensor.to:
            return _moved(first, *arguments[1:], **named)
        if not among:
            return function(*arguments, **named)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and not isinstance(first, Away):
            raise RuntimeError("indices should be on the cpu or on the device of the tensor")
        if function in (*READ, Tensor.__getitem__, Tensor.__setitem__, torch.where):
            result = function(*tree_map(_own, arguments), **named)
            is_kept = isinstance(result, Tensor) and function not in READ
            return Away(result) if is_kept else result
        return function(*arguments, **named)


def _moved(values: Tensor, *wanted: Any, **named: Any) -> Tensor:
    """`Tensor.to`, by a device, another tensor, or a type."""
    target = wanted[0] if wanted else None
    is_device = isinstance(target, torch.device)
    there = isinstance(target, Away) or (is_device and target.type == Away.kind)
    here = not there and (is_device or isinstance(target, Tensor))
    if there or here:
        inner = _own(values)
        inner = inner if is_device else inner.to(target.dtype)
        return Away(inner) if there else inner
    if isinstance(values, Away):
        return Away(values.inner.to(*wanted, **named))
    return values.to(*wanted, **named)


def without_inference_mode(function: Callable[..., Any]) -> Callable[..., Any]:
    """What ``torch.inference_mode`` wraps, without gradients: it allows no wrapped tensors."""
    return torch.no_grad()(function.__wrapped__)  # type: ignore[attr-defined]
