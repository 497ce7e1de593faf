"""Functions of transformers that call another package where it is installed, called in torch.

transformers decides at the import of a model's module: where causal_conv1d, mamba_ssm or fla
(flash-linear-attention) is installed their kernels compute, otherwise torch.  The two differ in
rounding and, for some versions, in what they compute; numbers must not depend on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from inspect import signature
from types import CellType, FunctionType
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["choose_torch", "torch_functions"]

# The names in the closure of what `use_kernel_func_from_hub_with_fallback` returns.
CHOSEN, IS_FOREIGN, OWN = "implementation", "is_new_implementation", "torch_function"
PARAMETERS = "applicable_params"
# The package kernels puts a module around the function.
DEPTH = 3
Closure: TypeAlias = dict[str, CellType]


def torch_functions(model: PreTrainedModel) -> dict[int, Closure]:
    """The functions in the modules of `model` that a package may compute, by the id of a cell."""
    names = {type(part).__module__ for part in model.modules()}
    return {
        id(closure[CHOSEN]): closure
        for name in sorted(names)
        if name.startswith("transformers.")
        for value in vars(sys.modules[name]).values()
        for closure in _closures(value, DEPTH)
    }


def choose_torch(closure: Closure) -> Callable[[], None]:
    """Let torch compute the function; returns what puts back what it was."""
    own = closure[OWN].cell_contents
    chosen = {
        CHOSEN: own,
        IS_FOREIGN: False,
        PARAMETERS: tuple(signature(own).parameters),
    }
    before = {name: closure[name].cell_contents for name in chosen}
    for name, value in chosen.items():
        closure[name].cell_contents = value

    def undo() -> None:
        for name, value in before.items():
            closure[name].cell_contents = value

    return undo


def _closures(value: object, depth: int) -> Iterator[Closure]:
    """The closures of functions that choose between torch and a package, in `value`."""
    function = type(value).forward if isinstance(value, nn.Module) else value
    if depth == 0 or not isinstance(function, FunctionType) or function.__closure__ is None:
        return
    closure = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    if {CHOSEN, IS_FOREIGN, OWN, PARAMETERS} <= closure.keys():
        yield closure
        return
    for cell in function.__closure__:
        yield from _closures(_contents(cell), depth - 1)


def _contents(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
