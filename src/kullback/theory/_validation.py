"""Validation of arrays, distributions and labels, with errors that name the value and its place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback.errors import InvalidValueError
from kullback.theory._types import FloatArray, Given, IntArray

__all__ = [
    "aligned", "check_distributions", "counts_as_floats", "labels_below", "positive_counts",
    "real_array", "refuse_where",
]  # fmt: skip


def real_array(name: str, values: ArrayLike, kinds: str = "biuf") -> FloatArray:
    """The values as float64; ``kinds`` are the NumPy dtype kinds that are accepted."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in kinds:
            raise TypeError(f"dtype {array.dtype}")
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{name} cannot be read as an array of real numbers ({error}): pass a rectangular one"
        ) from error


def aligned(axis: int, **named: ArrayLike) -> tuple[list[FloatArray], int]:
    """The arrays as float64, and ``axis`` as a negative number that is valid for each of them."""
    arrays = [real_array(name, values) for name, values in named.items()]
    shapes = " and ".join(f"{n} has shape {a.shape}" for n, a in zip(named, arrays, strict=True))
    try:
        dimensions = len(np.broadcast_shapes(*(a.shape for a in arrays)))
    except ValueError:
        raise InvalidValueError(
            f"{shapes}: they must broadcast against each other; align the batch dimensions"
        ) from None
    if not -dimensions <= axis < dimensions:
        raise InvalidValueError(
            f"axis is {axis}, but {shapes}: pass an axis that exists, with the outcomes along it"
        )
    axis = axis - dimensions if axis >= 0 else axis
    sizes = {a.shape[axis] if a.ndim >= -axis else 1 for a in arrays}
    if len(sizes) > 1 or sizes == {0}:
        raise InvalidValueError(
            f"{shapes}: along axis {axis} they must have the same outcomes, at least one"
        )
    return arrays, axis


def refuse_where(
    wrong: NDArray[np.bool_], name: str, array: NDArray[np.generic], rule: str, verb: str = "is"
) -> None:
    """Raise, with the first place where ``wrong`` is true and the value there."""
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        index = str(list(place)) if place else ""
        raise InvalidValueError(f"{name}{index} {verb} {array[place].item()!r}: {rule}")


def check_distributions(given: Given, axis: int, tolerance: float, **named: FloatArray) -> None:
    """Raise, with its place, for the first value or total that is not that of a distribution."""
    for name, array in named.items():
        if given == "logits":
            good, rule = array < np.inf, "a logit must be finite, or -inf for an impossible outcome"
        elif given == "log_probs":
            good, rule = array <= tolerance, "a log-probability must be at most 0"
        else:
            good = (array >= 0) & (array <= 1 + tolerance)
            rule = "a probability must be in [0, 1]"
        refuse_where(~good, name, array, rule)
        if given == "logits":
            top = array.max(axis=axis)
            rule = f"along axis {axis} at least one logit must be finite"
            refuse_where(top == -np.inf, name, top, rule, "has a maximum of")
        else:
            total = (array if given == "probs" else np.exp(array)).sum(axis=axis)
            off = np.abs(total - 1) > tolerance
            rule = f"along axis {axis} that must be 1 within {tolerance:g}; normalise() it, or pass"
            verb = "sums to" if given == "probs" else "has probabilities that sum to"
            refuse_where(off, name, total, f"{rule} a larger tolerance=", verb)


def labels_below(
    name: str, values: ArrayLike, size: int, ignore_index: int | None = None
) -> IntArray:
    """The labels as int64: integers in [0, ``size``), or equal to ``ignore_index``."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise InvalidValueError(f"{name} has dtype {array.dtype}: its values must be integers")
    labels = array.astype(np.int64)
    wrong = (labels < 0) | (labels >= size)
    rule = f"it must be an integer in [0, {size})"
    if ignore_index is not None:
        wrong &= labels != ignore_index
        rule += f" or equal to ignore_index, {ignore_index}; fix the label or set ignore_index"
    refuse_where(wrong, name, array, rule)
    return labels


def counts_as_floats(values: ArrayLike, dimensions: int | None = None) -> FloatArray:
    """Whole numbers, at least 0, as float64; raises with the first that is not.

    The outcomes are along the last axis; ``dimensions`` is the required number of axes, if any.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim == 0 or array.ndim != (dimensions or array.ndim):
        raise InvalidValueError(
            f"counts has shape {array.shape} and dtype {array.dtype}: it must contain whole "
            "numbers, in the shape (K,)"
        )
    numbers = array.astype(np.float64)
    wrong = ~((numbers >= 0) & (numbers == np.floor(numbers)) & (numbers < np.inf))
    refuse_where(wrong, "counts", array, "a count must be a whole number, at least 0")
    return numbers


def positive_counts(values: ArrayLike) -> FloatArray:
    """Whole numbers of shape (K,), at least one of them positive, as float64."""
    numbers = counts_as_floats(values, dimensions=1)
    if not numbers.any():
        raise InvalidValueError("counts contains no sample: at least one count must be positive")
    return numbers
