"""The NumPy loss against PyTorch, its own sample inputs, 60-digit arithmetic, and identities."""

from __future__ import annotations

import math
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kullback.errors import InvalidValueError
from kullback.theory.losses import cross_entropy, cross_entropy_and_gradient

try:
    import expecttest  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError:
    # PyTorch's sample inputs are in a module with its test classes, one of which has this module's
    # TestCase as its base; the samples do not use it.
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    sys.modules["expecttest"] = stand_in

from torch.testing._internal import common_modules
from torch.testing._internal.common_methods_invocations import op_db

INF, NAN = math.inf, math.nan
SUITES: dict[str, Callable[..., Any]] = {
    "CrossEntropyLoss": common_modules.module_inputs_torch_nn_CrossEntropyLoss,
    "NLLLoss": common_modules.module_inputs_torch_nn_NLLLoss,
}


def numpy_options(options: dict[str, Any]) -> dict[str, Any]:
    """PyTorch's keyword arguments with arrays instead of tensors."""
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def assert_same_as_torch(logits: Any, target: Any, **options: Any) -> None:
    """Compare the value and the gradient with PyTorch's float64, nan and inf included."""
    z = torch.as_tensor(logits, dtype=torch.float64).detach().clone().requires_grad_()
    y = torch.as_tensor(target).detach()
    expected = torch.nn.functional.cross_entropy(z, y, **options)
    expected.sum().backward()
    ours = numpy_options(options)
    loss, gradient = cross_entropy_and_gradient(z.detach().numpy(), y.numpy(), **ours)
    close = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
    np.testing.assert_allclose(loss, expected.detach().numpy(), **close)
    np.testing.assert_allclose(gradient, z.grad.numpy(), **close)
    np.testing.assert_array_equal(loss, cross_entropy(z.detach().numpy(), y.numpy(), **ours))
    assert np.shape(loss) == tuple(expected.shape)
    assert gradient.shape == tuple(z.shape)


def module_samples(suite: str) -> list[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]:
    """Draw PyTorch's sample inputs of one loss module in float64."""
    torch.manual_seed(20)
    drawn = SUITES[suite](None, "cpu", torch.float64, requires_grad=False, training=False)
    return [(*s.forward_input.args, s.constructor_input.kwargs) for s in drawn]


def operator_samples(name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]:
    """Draw PyTorch's sample inputs of one functional in float64."""
    torch.manual_seed(21)
    operator = next(op for op in op_db if op.name == name)
    for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=False):
        yield sample.input, sample.args[0], sample.kwargs


def test_every_sample_input_of_torch_cross_entropy_loss_agrees() -> None:
    """All 105 inputs on which PyTorch tests CrossEntropyLoss give its losses and gradients."""
    samples = module_samples("CrossEntropyLoss")
    assert len(samples) == 105
    for logits, target, options in samples:
        assert_same_as_torch(logits, target, **options)


def test_every_sample_input_of_torch_nll_loss_agrees() -> None:
    """Log-probabilities are logits: all 28 inputs of NLLLoss give NLLLoss's own values."""
    samples = module_samples("NLLLoss")
    assert len(samples) == 28
    for log_q, target, options in samples:
        assert_same_as_torch(log_q, target, **options)
        expected = torch.nn.functional.nll_loss(log_q, target, **options).numpy()
        actual = cross_entropy(log_q.numpy(), target.numpy(), **numpy_options(options))
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "count"), [("nn.functional.cross_entropy", 21), ("nn.functional.nll_loss", 61)]
)
def test_every_sample_input_of_the_functional_agrees(name: str, count: int) -> None:
    """The sample inputs of torch's operator database agree in value and gradient."""
    samples = list(operator_samples(name))
    assert len(samples) == count
    for logits, target, options in samples:
        assert_same_as_torch(logits, target, **options)


def test_every_error_input_of_torch_is_an_error_here() -> None:
    """The 7 inputs that PyTorch's CrossEntropyLoss must refuse are refused."""
    samples = common_modules.module_error_inputs_torch_nn_CrossEntropyLoss(
        None, "cpu", torch.float64, requires_grad=False, training=False
    )
    assert len(samples) == 7
    for sample in samples:
        logits, target = (t.numpy() for t in sample.module_error_input.forward_input.args)
        options = numpy_options(sample.module_error_input.constructor_input.kwargs)
        with pytest.raises(InvalidValueError):
            cross_entropy(logits, target, **options)
        with pytest.raises(InvalidValueError):
            cross_entropy_and_gradient(logits, target, **options)


HARD_LOGITS = [
    [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]],
    [[1.0, -INF, 3.0], [1.0, 2.0, 3.0]],
    [[-INF, -INF, -INF], [1.0, 2.0, 3.0]],
    [[INF, 1.0, 2.0], [1.0, 2.0, INF]],
    [[1.0, NAN, 3.0], [1.0, 2.0, 3.0]],
    [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]],
]


@pytest.mark.parametrize("logits", HARD_LOGITS)
@pytest.mark.parametrize("target", [[0, 1], [1, 1], [-100, 1], [-100, -100]])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 3.0], [2.0, 0.0, 1.0], [-1.0, 1.0, 2.0]])
def test_infinities_and_ignored_rows_agree(
    logits: list[list[float]], target: list[int], weight: list[float] | None
) -> None:
    """-inf, +inf, nan, huge logits, ignored rows and zero weights give torch's inf, nan and 0."""
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    folded = np.array(logits).T[np.newaxis]  # the same rows along d1 instead of N
    for reduction in ("none", "sum", "mean"):
        for smoothing in (0.0, 0.1, 1.0):
            options = {
                "weight": weights,
                "label_smoothing": smoothing,
                "reduction": reduction,
            }
            assert_same_as_torch(logits, target, **options)
            assert_same_as_torch(folded, [target], **options)
            assert_same_as_torch(logits[0], target[0], **options)


@pytest.mark.parametrize("logits", HARD_LOGITS)
def test_infinities_beside_probabilities_agree(logits: list[list[float]]) -> None:
    """A probability of 0 on a logit of -inf is nan, as in torch, and so are the other cases."""
    target = torch.tensor([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64)
    for reduction in ("none", "sum", "mean"):
        for smoothing in (0.0, 0.1):
            options = {"reduction": reduction, "label_smoothing": smoothing}
            assert_same_as_torch(logits, target, **options)
            assert_same_as_torch(logits[0], target[0], **options)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 0)])
def test_empty_batches_agree(reduction: str, smoothing: float, shape: tuple[int, ...]) -> None:
    """Over no rows the sum is 0 and the mean nan, with an empty gradient."""
    if 0 in shape[:1] + shape[2:] and not (smoothing and shape[1] == 0):
        labels = torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
        options = {"reduction": reduction, "label_smoothing": smoothing}
        assert_same_as_torch(torch.zeros(shape), labels, **options)
    assert_same_as_torch(
        torch.zeros(shape), torch.zeros(shape, dtype=torch.float64), reduction=reduction
    )


def test_the_mean_over_nothing_is_nan_without_a_warning() -> None:
    """Empty and all-ignored batches have a nan mean and, where there are rows, a zero gradient."""
    assert math.isnan(cross_entropy(np.zeros((0, 3)), np.zeros(0, dtype=int)))
    loss, gradient = cross_entropy_and_gradient([[1.0, 2.0]], [-100])
    assert math.isnan(loss)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def exact(logits: list[float], label: int) -> tuple[float, list[float]]:
    """Return the loss and q - onehot from 60-digit arithmetic."""
    with mpmath.workdps(60):
        terms = [mpmath.exp(mpmath.mpf(z)) for z in logits]
        total = mpmath.fsum(terms)
        q = [t / total for t in terms]
        loss = mpmath.log(total) - mpmath.mpf(logits[label])
        return float(loss), [float(v - (i == label)) for i, v in enumerate(q)]


@pytest.mark.parametrize(
    "logits",
    [
        [math.log(0.999999), math.log(5e-7), math.log(5e-7)],
        [50.0, 0.0, -3.0],
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 1e4],
        [-1e4, -1e4, -1e4 + 1e-9],
        [0.3, -0.2, 0.1],
    ],
)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_loss_and_gradient_keep_their_digits(logits: list[float], label: int) -> None:
    """At q = 0.999999 and beyond, q - onehot is right to 13 digits *relative*, loss included."""
    loss, gradient = cross_entropy_and_gradient(logits, label)
    expected_loss, expected_gradient = exact(logits, label)
    assert loss == pytest.approx(expected_loss, rel=1e-13, abs=0.0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-13, atol=0.0)


def test_a_million_to_one_logits_saturate_the_gradient_exactly() -> None:
    """With logits of ±1e4 the gradient is onehot(argmax) - onehot(label) and the loss 2e4."""
    loss, gradient = cross_entropy_and_gradient([1e4, -1e4, -1e4], 1)
    assert loss == 2e4
    np.testing.assert_array_equal(gradient, [1.0, -1.0, 0.0])


@settings(max_examples=100, deadline=None)
@given(
    logits=arrays(np.float64, (3, 4, 2), elements=st.floats(-1e3, 1e3)),
    labels=arrays(np.int64, (3, 2), elements=st.sampled_from([-100, 0, 1, 2, 3])),
    weight=arrays(np.float64, 4, elements=st.floats(0.1, 10)),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(["none", "sum"]),
)
def test_the_gradient_sums_to_zero_along_the_classes(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, smoothing: float, reduction: Any
) -> None:
    """No loss changes when a constant is added to every logit of a row."""
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
    loss, gradient = cross_entropy_and_gradient(logits, labels, **options)
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-13)
    moved = cross_entropy(logits + 512.0, labels, **options)
    np.testing.assert_allclose(moved, loss, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    logits=arrays(np.float64, (3, 4), elements=st.floats(-30, 30)),
    labels=arrays(np.int64, 3, elements=st.integers(0, 3)),
    smoothing=st.sampled_from([0.0, 0.2]),
)
def test_a_label_is_the_distribution_that_is_sure(
    logits: np.ndarray, labels: np.ndarray, smoothing: float
) -> None:
    """One-hot probabilities and their class indices give the same loss and gradient."""
    by_label = cross_entropy_and_gradient(logits, labels, label_smoothing=smoothing)
    by_distribution = cross_entropy_and_gradient(
        logits, np.eye(4)[labels], label_smoothing=smoothing
    )
    for left, right in zip(by_label, by_distribution, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-13)


def test_other_dtypes_are_summed_in_float64() -> None:
    """float32 logits, uint8, int32 and int64 labels and nested lists all give the float64 loss."""
    logits = np.array([[0.5, 0.25, -1.0]], dtype=np.float32)
    expected = cross_entropy([[0.5, 0.25, -1.0]], [2])
    for dtype in (np.uint8, np.int32, np.int64, np.uint64):
        assert cross_entropy(logits, np.array([2], dtype=dtype)) == expected


def test_the_arguments_are_left_as_they_were() -> None:
    """Neither function writes into logits, target or weight."""
    arguments = np.array([[1.0, 2.0, 3.0]]), np.array([[0.2, 0.3, 0.5]]), np.array([1.0, 2.0, 3.0])
    before = [a.copy() for a in arguments]
    cross_entropy_and_gradient(arguments[0], arguments[1], weight=arguments[2], label_smoothing=0.1)
    for array, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (
            np.zeros((1, 2, 3)),
            [[0, 1, 7]],
            {},
            r"target\[0, 2\] is 7.*\[0, 2\).*ignore_index, -100",
        ),
        ([1.0, 2.0], -1, {}, r"target is -1.*\[0, 2\)"),
        ([1.0, 2.0], [1], {}, r"target has shape \(1,\).*\(\).*\(2,\)"),
        ([[1.0, 2.0]], 1, {}, r"target has shape \(\)"),
        ([[1.0, 2.0]], [True], {}, "target has dtype bool"),
        ([[1.0, 2.0]], [0.0], {}, "target has dtype float64"),
        ([[1.0, 2.0]], [[0, 1]], {}, "target .*int64"),
        (1.0, 0, {}, "logits .*classes"),
        ([[1j, 2.0]], [0], {}, "logits .*complex128"),
        (np.zeros((2, 0)), [0, 0], {}, r"target\[0\] is 0"),
        ([[1.0, 2.0]], [0], {"weight": [1.0]}, r"weight has shape \(1,\).*\(2,\)"),
        ([[1.0, 2.0]], [0], {"reduction": "avg"}, "reduction is 'avg'"),
        ([[1.0, 2.0]], [0], {"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ([[1.0, 2.0]], [0], {"label_smoothing": NAN}, "label_smoothing is nan"),
        ([[1.0, 2.0]], [[0.5, 0.5]], {"ignore_index": 0}, "ignore_index is 0"),
    ],
)
def test_an_error_names_the_argument_its_value_and_its_place(
    logits: Any, target: Any, options: dict[str, Any], message: str
) -> None:
    """Each wrong argument raises InvalidValueError with its name, its place and its value."""
    with pytest.raises(InvalidValueError, match=message):
        cross_entropy(logits, target, **options)
