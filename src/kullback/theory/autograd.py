"""Scalar reverse-mode automatic differentiation, in the standard library alone.

A program that computes a number is a graph: each :class:`Value` stores its *children*, the values
that it is computed from, and the *local gradients*, its partial derivatives with respect to them.
By the chain rule a child's gradient is the sum of its parents' gradients times the local ones;
:meth:`Value.backward` accumulates it, parents before children (reverse mode: Linnainmaa, 1970).

A new operation is one line, ``Value(result, children, local_gradients, name)``, without closures
or recursion (a chain of a million nodes works); a dot product or a loss is a *single* node.
:func:`cross_entropy` derives ∂L/∂z_i = q_i - 1[i = y].  Logarithms are natural.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import mul
from random import Random
from types import ModuleType
from typing import TypeAlias, cast

from kullback.errors import InvalidValueError

__all__ = ["MLP", "Layer", "Neuron", "Value", "cross_entropy", "cross_entropy_from_primitives"]
__all__ += ["dot", "draw", "grad_check", "logsumexp", "softmax", "zero_grad"]

Unary: TypeAlias = "Callable[[Value], Value]"


@dataclass(slots=True, eq=False)
class Value:
    """A number, its children, a ``label`` for drawings and, after ``backward``, its gradient.

    >>> x, y = Value(3.0), Value(2.0)
    >>> (z := x * y + y**x).backward()
    >>> z.data, x.grad == 2 + 8 * math.log(2), y.grad
    (14.0, True, 15.0)
    """

    data: float
    children: tuple[Value, ...] = field(default=(), repr=False)
    local_gradients: Sequence[float] = field(default=(), repr=False)
    label: str = ""
    grad: float = 0.0

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")
        return Value(self.data + other, (self,), (1.0,), f"+ {other}")

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data), "×")
        return Value(self.data * other, (self,), (other,), f"× {other}")

    def __truediv__(self, other: Value | float) -> Value:
        over = other if isinstance(other, Value) else Value(other)
        ratio = self.data / over.data
        return Value(ratio, (self, over), (1.0 / over.data, -ratio / over.data), "÷")

    def __pow__(self, n: Value | float) -> Value:
        """x^n: ∂/∂x is n x^(n-1), infinite for a root at 0 and 0 for x^0; ∂/∂n is x^n log x."""
        if isinstance(n, Value):  # its derivative is real for x > 0 only: log raises for the rest
            log_x, power = self.log().data, self**n.data
            return Value(power.data, (self, n), (*power.local_gradients, power.data * log_x), "**")
        x, result = self.data, self.data**n
        if isinstance(result, complex) and not isinstance(x + n, complex):
            raise InvalidValueError(f"{x} ** {n} is not real: use a base ≥ 0 or a whole exponent")
        slope = n * x ** (n - 1) if x or n >= 1 else (math.inf if n else 0.0)
        return Value(result, (self,), (slope,), f"** {n}")

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -other

    def __rsub__(self, other: float) -> Value:
        return -self + other

    def __rtruediv__(self, other: float) -> Value:
        return Value(other) / self

    def __rpow__(self, other: float) -> Value:
        return Value(other) ** self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Value:
        """e^x, its own derivative."""
        if self.data.real > 709.782712893384:  # log of the largest float64
            raise InvalidValueError(f"exp({self.data}) overflows: use logsumexp or cross_entropy")
        result = _math(self.data).exp(self.data)
        return Value(result, (self,), (result,), "exp")

    def log(self) -> Value:
        """The natural logarithm; its derivative is 1/x."""
        if not self.data.real > 0:
            raise InvalidValueError(f"log({self.data}): the argument must be positive")
        return Value(_math(self.data).log(self.data), (self,), (1.0 / self.data,), "log")

    def tanh(self) -> Value:
        """The hyperbolic tangent t; its derivative is 1 - t²."""
        t = _math(self.data).tanh(self.data)
        return Value(t, (self,), (1.0 - t * t,), "tanh")

    def relu(self) -> Value:
        """max(x, 0); the derivative at 0 is taken as 0."""
        data, slope = (0.0, 0.0) if self.data.real <= 0 else (self.data, 1.0)
        return Value(data, (self,), (slope,), "relu")

    def backward(self) -> None:
        """Set every ``grad`` to d self / d node; leaves, not inner nodes, accumulate over calls."""
        order = _children_first(self)
        for node in order:
            node.grad = 0.0
        self.grad += 1.0
        for node in reversed(order):
            upstream = node.grad
            for child, local in zip(node.children, node.local_gradients, strict=True):
                child.grad += upstream * local


def _children_first(root: Value) -> list[Value]:
    """List the inner nodes below a root, each after its children, without the leaves."""
    order, path, seen = list[Value](), list[Value](), set[Value]()
    stack: list[Value | None] = [root] if root.children else []
    while stack:
        node = stack.pop()
        if node is None:  # everything below the path's last node has been listed
            order.append(path.pop())
        elif node not in seen:
            seen.add(node)
            path.append(node)
            stack += [None, *[v for v in node.children if v.children and v not in seen]]
    return order


def _math(x: float) -> ModuleType:
    """Return the functions for x: complex ones only during a complex-step check."""
    return cmath if isinstance(x, complex) else math


def zero_grad(values: Iterable[Value]) -> None:
    """Set the gradients of the values to zero, before the next ``backward``."""
    for value in values:
        value.grad = 0.0


def dot(left: Sequence[Value], right: Sequence[Value], bias: Value | None = None) -> Value:
    """Σ_i a_i b_i + bias as one node: ∂/∂a_i = b_i, ∂/∂b_i = a_i, ∂/∂bias = 1."""
    a, b = [v.data for v in left], [v.data for v in right]
    if len(a) != len(b):
        raise InvalidValueError(f"left has {len(a)} values, right {len(b)}: make them equally long")
    if bias is None:
        return Value(sum(map(mul, a, b)), (*left, *right), b + a, "dot")
    return Value(sum(map(mul, a, b), bias.data), (*left, *right, bias), [*b, *a, 1.0], "dot")


def _log_softmax(logits: Sequence[Value]) -> tuple[float, float, list[float]]:
    """Return m = max z, log Σ exp(z - m) and softmax(z), without overflow or cancellation."""
    z = [v.data for v in logits]
    reals = [x.real for x in z]
    if not (any(x > -math.inf for x in reals) and all(x < math.inf for x in reals)):
        raise InvalidValueError(f"logits are {z}: one must be finite and none nan or +inf")
    top, library = reals.index(max(reals)), _math(sum(z))
    terms = [library.exp(x - z[top]) for x in z]
    others = sum(terms[:top] + terms[top + 1 :], 0.0)
    log_total = math.log1p(others) if library is math else library.log(1.0 + others)
    return z[top], log_total, [t / (1.0 + others) for t in terms]


def logsumexp(values: Sequence[Value]) -> Value:
    """Log Σ_j exp(z_j) as one node, without overflow; its gradient is softmax(z)."""
    top, log_total, q = _log_softmax(values)
    return Value(top + log_total, tuple(values), q, "logsumexp")


def softmax(logits: Sequence[Value]) -> list[Value]:
    """q_i = exp(z_i - logsumexp(z)), through one shared node: O(C) edges, not a C × C table."""
    total = logsumexp(logits)
    return [(z - total).exp() for z in logits]


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """The loss -log q_y of logits z at the label y = ``target``, in nats, as one node.

    With q_i = exp(z_i) / Σ_j exp(z_j) the loss is L = log Σ_j exp(z_j) - z_y.  Now differentiate:
    ∂/∂z_i log Σ_j exp(z_j) = exp(z_i) / Σ_j exp(z_j) = q_i and ∂z_y/∂z_i = 1[i = y], so that

        ∂L/∂z_i = q_i - 1[i = y]:  the prediction minus the observation.

    At i = y this is -Σ_{j≠y} q_j, and is computed so: q_y - 1 would cancel in a confident model.

    >>> z = [Value(2.0), Value(0.0), Value(0.0)]
    >>> loss = cross_entropy(z, 0)
    >>> loss.backward()
    >>> round(loss.data, 6), [round(v.grad, 6) for v in z]
    (0.239545, [-0.213014, 0.106507, 0.106507])
    """
    _check_target(logits, target)
    top, log_total, q = _log_softmax(logits)
    q[target] = -sum(q[:target] + q[target + 1 :])
    return Value((top - logits[target].data) + log_total, tuple(logits), q, "cross-entropy")


def cross_entropy_from_primitives(logits: Sequence[Value], target: int) -> Value:
    """The same loss of exp, +, log and -, after the largest logit, a constant, is subtracted."""
    _check_target(logits, target)
    top = max(logits, key=lambda z: z.data.real).data
    terms = [(z - top).exp() for z in logits]
    return sum(terms[1:], terms[0]).log() - (logits[target] - top)


def _check_target(logits: Sequence[Value], target: int) -> None:
    if not 0 <= target < len(logits):
        raise InvalidValueError(f"target is {target}: a label must be in [0, {len(logits)})")


def grad_check(f: Callable[[list[Value]], Value], point: Sequence[float]) -> list[list[float]]:
    """Return three gradients at a point: by ``backward``, central differences, complex steps.

    (f(x + h) - f(x - h)) / 2h with h = ∛ε max(1, |x|) is accurate to about 1e-10; Im f(x + ih) / h
    with h = 1e-100 to the last digits, as nothing is subtracted (Squire and Trapp, 1998).

    >>> [round(g[0], 9) for g in grad_check(lambda v: v[0] ** 3, [2.0])]
    [12.0, 12.0, 12.0]
    """

    def moved(i: int, step: complex) -> complex:
        values = [p + step if j == i else p for j, p in enumerate(point)]
        # Every operation accepts complex data, but only this check may pass it: hence the cast.
        return f([Value(cast("float", p)) for p in values]).data

    leaves = [Value(x) for x in point]
    f(leaves).backward()
    h = [math.cbrt(2.0**-52) * max(1.0, abs(x)) for x in point]
    central = [(moved(i, h).real - moved(i, -h).real) / (2.0 * h) for i, h in enumerate(h)]
    complex_step = [moved(i, 1e-100j).imag / 1e-100 for i in range(len(point))]
    return [[leaf.grad for leaf in leaves], central, complex_step]


class Neuron:
    """f(w · x + b) with n weights uniform in ±1/√n; linear if the activation is None."""

    def __init__(self, inputs: int, rng: Random, activation: Unary | None) -> None:
        bound = inputs**-0.5
        self.weights = [Value(rng.uniform(-bound, bound)) for _ in range(inputs)]
        self.bias = Value(0.0)
        self.activation = activation

    def __call__(self, inputs: Sequence[Value]) -> Value:
        """Map n inputs to one output."""
        total = dot(self.weights, inputs, self.bias)
        return self.activation(total) if self.activation else total


class Layer:
    """n neurons with the same inputs."""

    def __init__(self, inputs: int, n: int, rng: Random, f: Unary | None) -> None:
        self.neurons = [Neuron(inputs, rng, f) for _ in range(n)]

    def __call__(self, inputs: Sequence[Value]) -> list[Value]:
        """List the neurons' outputs."""
        return [neuron(inputs) for neuron in self.neurons]


class MLP:
    """Layers of the given sizes, inputs first; all but the last pass through the activation."""

    def __init__(self, sizes: Sequence[int], rng: Random, activation: Unary = Value.relu) -> None:
        shapes = zip(sizes[:-1], sizes[1:], [*[activation] * (len(sizes) - 2), None], strict=True)
        self.layers = [Layer(inputs, n, rng, f) for inputs, n, f in shapes]

    def __call__(self, inputs: Sequence[Value | float]) -> list[Value]:
        """Map the inputs, values or floats, to the outputs of the last layer."""
        values = [x if isinstance(x, Value) else Value(x) for x in inputs]
        for layer in self.layers:
            values = layer(values)
        return values

    def parameters(self) -> list[Value]:
        """List each neuron's weights and then its bias, layer by layer."""
        return [p for layer in self.layers for n in layer.neurons for p in (*n.weights, n.bias)]


def draw(root: Value) -> str:
    """Draw the graph in Graphviz's DOT: values, gradients and, on the edges, local gradients."""
    nodes = {v: None for node in [*_children_first(root), root] for v in (*node.children, node)}
    number = {node: f"n{i}" for i, node in enumerate(nodes)}
    lines = ["digraph {", "  rankdir=LR; node [shape=box];"]
    for v in nodes:
        label = v.label.replace("\\", "\\\\").replace('"', r"\"")
        lines.append(f'  {number[v]} [label="{label}\\n{v.data:.4g}\\ngrad {v.grad:.4g}"];')
        for child, local in zip(v.children, v.local_gradients, strict=True):
            lines.append(f'  {number[child]} -> {number[v]} [label="{local:.4g}"];')
    return "\n".join([*lines, "}"])
