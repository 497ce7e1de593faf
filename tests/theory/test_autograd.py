"""The scalar engine against PyTorch, finite differences, 60-digit arithmetic and micrograd."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import micrograd.engine
import micrograd.nn
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kullback.theory.autograd
from kullback.errors import InvalidValueError
from kullback.theory.autograd import (
    MLP,
    Value,
    cross_entropy,
    cross_entropy_from_primitives,
    dot,
    draw,
    grad_check,
    logsumexp,
    softmax,
    zero_grad,
)
from kullback.theory.losses import cross_entropy_and_gradient

ROOT = Path(__file__).parents[2]
NUMBERS = st.floats(-20.0, 20.0).filter(lambda x: x == 0 or abs(x) > 1e-6)
POSITIVE = st.floats(1e-3, 20.0)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter and capture its output."""
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)


def assert_same_as_torch(
    ours: Callable[..., Value], theirs: Callable[..., torch.Tensor], *point: float
) -> None:
    """Compare a function's value and gradient with PyTorch's in float64."""
    values = [Value(x) for x in point]
    result = ours(*values)
    result.backward()
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in point]
    expected = theirs(*tensors)
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-13, abs=1e-13)
    gradient = [v.grad for v in values]
    expected_gradient = [0.0 if t.grad is None else t.grad.item() for t in tensors]
    assert gradient == pytest.approx(expected_gradient, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x / y,
        lambda x, y: x + 3.0 - (2.5 - y),
        lambda x, y: (1 + x) * 2.0 + 3 * y,
        lambda x, y: x / 4.0 + 1.5 / y,
        lambda x, y: -x - -y,
        lambda x, y: x * x * y + x,
        lambda x, y: x**2 + y**-1,
        lambda x, y: x**3 + y**0,
        lambda x, y: x.exp() * y,
        lambda x, y: x.tanh() + (0.1 * y).tanh(),
        lambda x, y: x.relu() + (y - x).relu(),
    ],
)
@settings(max_examples=30, deadline=None)
@given(x=NUMBERS, y=NUMBERS.filter(bool))
def test_each_operation_agrees_with_torch(function: Callable[..., Any], x: float, y: float) -> None:
    """The value and both partial derivatives are torch's, the reflected operators included."""
    assert_same_as_torch(function, function, x, y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.log(),
        lambda x: x**0.5,
        lambda x: x**-1.7,
        lambda x: x.log() / x,
        lambda x: x ** (x * 0.3),
        lambda x: 2.5 ** (x - 7.0) + 0.5**x,
    ],
)
@settings(max_examples=30, deadline=None)
@given(x=POSITIVE)
def test_each_operation_on_positive_numbers_agrees_with_torch(
    function: Callable[..., Any], x: float
) -> None:
    """Logarithms, roots, real powers and powers of values have torch's value and derivative."""
    assert_same_as_torch(function, function, x)


@settings(max_examples=60, deadline=None)
@given(x=POSITIVE, n=st.floats(-8.0, 8.0))
def test_a_value_as_an_exponent_agrees_with_torch(x: float, n: float) -> None:
    """x ** n has torch's value and both of its derivatives, n x^(n-1) and x^n log x."""
    x_value, n_value = Value(x), Value(n)
    power = x_value**n_value
    power.backward()
    x_tensor, n_tensor = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, n))
    expected = x_tensor**n_tensor
    expected.backward()
    assert power.children == (x_value, n_value)
    for ours, theirs in (
        (power.data, expected.item()),
        (x_value.grad, x_tensor.grad.item()),
        (n_value.grad, n_tensor.grad.item()),
    ):
        assert ours == pytest.approx(theirs, rel=1e-13, abs=1e-300)


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-300, -1e300, 400.0])
def test_corners_agree_with_torch(x: float) -> None:
    """At 0 relu is flat, x^0 is flat and x^1.5 is flat; far out tanh is; all as in torch."""
    for corner in (lambda v: v.relu() + v.tanh(), lambda v: v**0 + v**1 + (v * 1e-300).exp()):
        assert_same_as_torch(corner, corner, x)
    root = Value(0.0) ** 0.5
    root.backward()
    assert root.children[0].grad == math.inf
    assert math.isnan(Value(math.nan).relu().data)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=6), st.data())
def test_fused_nodes_agree_with_torch(point: list[float], data: st.DataObject) -> None:
    """Logsumexp, softmax, dot and cross-entropy have torch's values and gradients."""
    target = data.draw(st.integers(0, len(point) - 1))
    weights = data.draw(st.lists(NUMBERS, min_size=len(point), max_size=len(point)))
    stack, label = torch.stack, torch.tensor(target)
    assert_same_as_torch(lambda *z: logsumexp(z), lambda *z: stack(z).logsumexp(0), *point)
    assert_same_as_torch(
        lambda *z: dot(softmax(z), [Value(w) for w in weights]),
        lambda *z: stack(z).softmax(0) @ torch.tensor(weights, dtype=torch.float64),
        *point,
    )
    for loss in (cross_entropy, cross_entropy_from_primitives):
        assert_same_as_torch(
            lambda *z, loss=loss: loss(z, target),
            lambda *z: torch.nn.functional.cross_entropy(stack(z), label),
            *point,
        )
    half = len(point) // 2
    assert_same_as_torch(
        lambda *v: dot(v[:half], v[half : 2 * half], v[0]) + dot(v, v),
        lambda *v: (
            stack(v[:half] + v[:1]) @ stack((*v[half : 2 * half], v[0] ** 0))
            + sum(x * x for x in v)
        ),
        *point,
    )


def test_cross_entropy_is_one_node_with_gradient_q_minus_onehot() -> None:
    """The children of the loss are its logits, and it agrees with NumPy's to the last digits."""
    point = [0.3, -1.2, 2.5, 0.0]
    for target in range(4):
        logits = [Value(z) for z in point]
        loss = cross_entropy(logits, target)
        loss.backward()
        assert loss.children == tuple(logits)
        expected_loss, expected_gradient = cross_entropy_and_gradient(point, target)
        assert loss.data == pytest.approx(expected_loss, rel=1e-15)
        gradient = [v.grad for v in logits]
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-14)
        q = [v.data for v in softmax(logits)]
        np.testing.assert_allclose(gradient, np.array(q) - np.eye(4)[target], atol=1e-15)
        assert math.fsum(gradient) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize(
    "point",
    [
        [math.log(0.999999), math.log(5e-7), math.log(5e-7)],
        [50.0, 0.0, -3.0],
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 1e4],
        [-math.inf, 2.0, 1.0],
    ],
)
def test_a_confident_loss_keeps_its_digits(point: list[float], target: int) -> None:
    """At q = 0.999999, at logits of ±1e4 and beside -inf, loss and gradient keep 13 digits."""
    logits = [Value(z) for z in point]
    loss = cross_entropy(logits, target)
    loss.backward()
    with mpmath.workdps(60):
        terms = [mpmath.exp(mpmath.mpf(z)) for z in point]
        total = mpmath.fsum(terms)
        expected = float(mpmath.log(total) - mpmath.mpf(point[target]))
        q_minus_onehot = [float(t / total - (i == target)) for i, t in enumerate(terms)]
    assert loss.data == pytest.approx(expected, rel=1e-13, abs=0.0)
    np.testing.assert_allclose([v.grad for v in logits], q_minus_onehot, rtol=1e-13, atol=0.0)


def everything(v: list[Value]) -> Value:
    """Use every operation of the engine once."""
    x, y, z = v
    a = (x * y).tanh() + x / z - 2.0 / y + (x - 3.0) ** 3 + z**0.5 - (5.0 - x).log()
    b = logsumexp([x, y, z]) * softmax([x, y, z])[1] + dot([x, y], [z, a], z)
    c = (b * 0.01).relu() + (-x).relu() + (x * 0.1).exp()
    d = (z**0.3) ** (y * 0.1) - 1.5**x
    return cross_entropy([a, b, c], 1) + cross_entropy_from_primitives([x, y, c], 2) + d


@pytest.mark.parametrize("point", [[0.7, -1.3, 2.0], [-0.4, 0.9, 0.3], [2.0, 3.0, 11.0]])
def test_three_ways_to_differentiate_agree(point: list[float]) -> None:
    """Backward equals complex steps to 1e-12 and central differences to 1e-7, relatively."""
    gradient, central, complex_step = grad_check(everything, point)
    assert all(abs(g) > 1e-3 for g in gradient)
    assert gradient == pytest.approx(complex_step, rel=1e-12)
    assert gradient == pytest.approx(central, rel=1e-7)


def test_grad_check_catches_a_wrong_derivative() -> None:
    """A node whose local gradient is 1 % off differs from both kinds of difference by 1 %."""

    def wrong(v: list[Value]) -> Value:
        return Value(v[0].data ** 2, (v[0],), (2.02 * v[0].data,), "wrong square")

    gradient, central, complex_step = grad_check(wrong, [3.0])
    assert gradient[0] == pytest.approx(6.06)
    assert central[0] == pytest.approx(6.0)
    assert complex_step[0] == pytest.approx(6.0, rel=1e-15)


def test_shared_nodes_count_every_path_and_are_visited_once() -> None:
    """Forty doublings y ← y + y have 2^40 paths, and the derivative 2^40, at once."""
    x = Value(1.0)
    y = x
    for _ in range(40):
        y = y + y
    y.backward()
    assert x.grad == 2.0**40


def test_leaves_accumulate_over_passes_and_inner_nodes_do_not() -> None:
    """Two passes double the leaves' gradients, as in torch; zero_grad takes them back to 0."""
    x, y = Value(3.0), Value(4.0)
    inner = x * y
    loss = inner * inner
    loss.backward()
    assert (x.grad, y.grad, inner.grad, loss.grad) == (96.0, 72.0, 24.0, 1.0)
    loss.backward()
    assert (x.grad, y.grad, inner.grad, loss.grad) == (192.0, 144.0, 24.0, 1.0)
    zero_grad([x, y])
    assert (x.grad, y.grad) == (0.0, 0.0)
    x.backward()
    x.backward()
    assert x.grad == 2.0


def test_a_sum_of_many_terms_needs_no_recursion() -> None:
    """A sum of 1,100 terms, at which micrograd raises RecursionError, has gradients of 1."""
    peers = [micrograd.engine.Value(1.0) for _ in range(1100)]
    with pytest.raises(RecursionError):
        sum(peers).backward()
    terms = [Value(1.0) for _ in range(1100)]
    sum(terms, Value(0.0)).backward()
    assert {t.grad for t in terms} == {1.0}


def test_a_long_chain_of_nodes_is_built_differentiated_and_freed() -> None:
    """A graph of depth 200,000 works, and dropping it neither recurses nor crashes the process."""
    program = """
import gc
from kullback.theory.autograd import Value
x = y = Value(1.0)
for _ in range(100_000):
    y = y * 1.0 + x
y.backward()
assert (y.data, x.grad) == (100_001.0, 100_001.0)
gc.collect()
del y
y = x
for _ in range(200_000):
    y = y + 1.0
cycle = [y]
cycle.append(cycle)
del y, cycle
assert gc.collect() > 1
print("freed")
"""
    done = run_python("-X", "faulthandler", "-c", program)
    assert (done.returncode, done.stdout) == (0, "freed\n"), done.stderr


def test_a_dropped_graph_leaves_nothing_to_the_garbage_collector() -> None:
    """Nodes point down only: without cycles, reference counts free everything at once."""
    model = MLP([3, 4, 2], Random(0))
    gc.collect()
    cross_entropy(model([0.1, 0.2, 0.3]), 1).backward()
    assert gc.collect() == 0


def test_the_network_agrees_with_torch() -> None:
    """An MLP with tanh has the outputs and gradients of the same torch.nn.Sequential."""
    model = MLP([3, 5, 4], Random(1), activation=Value.tanh)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)
    ).double()
    with torch.no_grad():
        for linear, layer in zip((network[0], network[2]), model.layers, strict=True):
            weights = [[w.data for w in neuron.weights] for neuron in layer.neurons]
            linear.weight.copy_(torch.tensor(weights, dtype=torch.float64))
            linear.bias.copy_(torch.tensor([n.bias.data for n in layer.neurons]))
    point = [0.5, -1.0, 2.0]
    cross_entropy(model(point), 2).backward()
    torch.nn.functional.cross_entropy(
        network(torch.tensor(point, dtype=torch.float64)), torch.tensor(2)
    ).backward()
    expected = [
        g
        for linear in (network[0], network[2])
        for row, b in zip(linear.weight.grad, linear.bias.grad, strict=True)
        for g in (*row.tolist(), b.item())
    ]
    assert [p.grad for p in model.parameters()] == pytest.approx(expected, rel=1e-12, abs=1e-16)


def test_gradients_are_micrograds() -> None:
    """On a small max-margin problem every parameter's gradient is the one that micrograd gets."""
    ours, theirs = MLP([2, 8, 8, 1], Random(5)), micrograd.nn.MLP(2, [8, 8, 1])
    for source, copy in zip(ours.parameters(), theirs.parameters(), strict=True):
        copy.data = source.data
    points = [([0.3, -1.0], 1), ([-0.7, 0.2], -1), ([1.5, 0.4], 1), ([-0.1, -0.8], -1)]

    def loss(score: Callable[[list[float]], Any], parameters: list[Any]) -> Any:
        margins = sum((1 + -label * score(inputs)).relu() for inputs, label in points)
        return margins * 0.25 + 1e-4 * sum(p * p for p in parameters)

    loss(lambda x: ours(x)[0], ours.parameters()).backward()
    loss(theirs, theirs.parameters()).backward()
    expected = [p.grad for p in theirs.parameters()]
    assert sum(g != 0 for g in expected) > 60
    assert [p.grad for p in ours.parameters()] == pytest.approx(expected, rel=1e-13, abs=1e-17)


def test_a_seed_fixes_the_weights_and_the_bound_is_one_over_root_n() -> None:
    """Weights are reproducible, uniform in ±1/√n for n inputs, and biases start at 0."""
    first, second = (MLP([16, 50, 1], Random(3)).parameters() for _ in range(2))
    assert [p.data for p in first] == [p.data for p in second]
    hidden = [p.data for p in first[: 17 * 50]]
    assert max(map(abs, hidden)) <= 0.25
    assert max(map(abs, hidden)) > 0.24
    assert hidden[16::17] == [0.0] * 50


def test_a_drawing_shows_values_gradients_and_local_gradients() -> None:
    """Each node is one box and each use of a child one edge, with the numbers on them."""
    x, y = Value(2.0, label='the "x"'), Value(-3.0, label="y")
    z = x * y + x
    z.backward()
    text = draw(z)
    assert re.fullmatch(r"digraph \{\n.*\n\}", text, re.DOTALL)
    assert text.count("label=") == 4 + 4
    assert r'[label="the \"x\"\n2\ngrad -2"];' in text
    assert r'[label="×\n-6\ngrad 1"];' in text
    name = {label: box for box, label in re.findall(r'(n\d+) \[label="(.*?)\\n', text)}
    assert f'{name["y"]} -> {name["×"]} [label="2"];' in text
    assert f'{name["×"]} -> {name["+"]} [label="1"];' in text
    assert draw(Value(1.5, label="alone")).count("label=") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Value(-1.0).log(), r"log\(-1.0\)"),
        (lambda: Value(0.0).log(), r"log\(0.0\)"),
        (lambda: Value(710.0).exp(), r"exp\(710.0\)"),
        (lambda: Value(-8.0) ** (1 / 3), r"-8.0 \*\* 0.333"),
        (lambda: Value(0.0) ** Value(2.0), r"log\(0.0\)"),
        (lambda: Value(-2.0) ** Value(2.0), r"log\(-2.0\)"),
        (lambda: dot([Value(1.0)], []), "left .*1.* right 0"),
        (lambda: cross_entropy([Value(1.0)], 1), r"target is 1.*\[0, 1\)"),
        (lambda: cross_entropy([Value(1.0)], -1), "target is -1"),
        (lambda: cross_entropy_from_primitives([Value(1.0)], -1), "target is -1"),
        (lambda: logsumexp([]), r"logits are \[\]"),
        (lambda: logsumexp([Value(-math.inf)]), r"logits are \[-inf\]"),
        (lambda: logsumexp([Value(math.nan), Value(0.0)]), r"logits are \[nan, 0.0\]"),
        (lambda: softmax([Value(math.inf), Value(0.0)]), r"logits are \[inf, 0.0\]"),
    ],
)
def test_an_error_names_the_function_and_the_value(
    wrong: Callable[[], object], message: str
) -> None:
    """An operation without a real value raises at once, instead of returning nan."""
    with pytest.raises(InvalidValueError, match=message):
        wrong()


def test_the_engine_has_at_most_300_lines() -> None:
    """The file of the engine stays short."""
    assert len(Path(kullback.theory.autograd.__file__).read_text("utf-8").splitlines()) <= 300


def test_the_example_learns_every_form_of_the_verb() -> None:
    """The loss starts near log 5, falls on every printed line, and all thirty forms are right."""
    done = run_python(str(ROOT / "examples" / "learn_a_verb.py"))
    losses = [float(x) for x in re.findall(r"loss = KL = ([\d.]+)", done.stdout)]
    assert losses[0] == pytest.approx(math.log(5), abs=0.1)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01
    assert "30 of 30 forms are right" in done.stdout
    table = [re.split(r"\s{2,}", row)[1:] for row in done.stdout.splitlines()[-7:-2]]
    truth = [["go"] * 6, ["go", "go", "goes", "go", "go", "go"]]
    truth += [[form] * 6 for form in ("went", "gone", "will go")]
    assert [[cell.rsplit(" ", 2)[0] for cell in row] for row in table] == truth
