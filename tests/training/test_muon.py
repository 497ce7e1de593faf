"""Muon against torch's own, matrix by matrix."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from kullback.runtime.mkl_products import mkl_products
from kullback.runtime.processor import VECTOR_FLAGS, multiplies_bfloat16
from kullback.training import muon, muon_library
from kullback.training.muon import (
    OF_THREE_STEPS,
    Muon,
    orthogonalise,
    orthogonalise_in_three,
    orthogonalise_wide,
)
from kullback.training.muon_library import SMALL_SIDE, MuonFunctions, muon_functions

HAS_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")
SHAPES = [(16, 16), (40, 16), (16, 40), (16, 16), (16, 40), (1, 8), (8, 1)]
# Sides that are no multiple of a vector or a tile, wide and tall.
UNEVEN = [(5, 3), (3, 70), (33, 17), (100, 33), (64, 65), (1, 1)]
# Whose products are MKL's: in one part, and in several, the last of them smaller; the last are
# deeper than a panel of a triangle.
LARGE = [(65, 65), (97, 230), (230, 97), (200, 200), (70, 801), (801, 70)]


@pytest.fixture(params=["own vectors", "AVX2"])
def functions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MuonFunctions:
    """Return the C function, as compiled here and for AVX2, which multiplies by triangles."""
    if request.param == "AVX2":
        if not torch.cpu._is_avx2_supported():
            pytest.skip("the processor has no AVX2")
        monkeypatch.setattr(muon_library, "vector_flags", lambda: VECTOR_FLAGS["AVX2"])
    compiled = muon_functions.__wrapped__()
    assert compiled is not None
    return compiled


def matrices(seed: int, shapes: list[tuple[int, int]] = SHAPES) -> list[Tensor]:
    """Return a random matrix of each shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def walk(optimiser: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 8) -> None:
    """Take steps along gradients that are the same for every optimiser."""
    shapes = [tuple(weight.shape) for weight in weights]
    for step in range(steps):
        for weight, gradient in zip(weights, matrices(100 + step, shapes), strict=True):
            weight.grad = gradient * 10.0 ** (step - 4)
        optimiser.step()


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}, {"momentum": 0.5}], ids=str)
def test_muon_is_torchs(settings: dict[str, float]):
    """After eight steps every matrix is where `torch.optim.Muon` takes it, within bfloat16."""
    ours, theirs = ([nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    walk(Muon(ours, lr=0.05, **settings), ours)
    walk(torch.optim.Muon(theirs, lr=0.05, **({"weight_decay": 0.0} | settings)), theirs)
    for mine, other, begin in zip(ours, theirs, matrices(0), strict=True):
        moved = (other - begin).norm()
        assert moved > 0.05
        # torch rounds to 8 bits of mantissa in every product; so do we where the processor can.
        assert (mine - other).norm() < 0.04 * moved


def test_muon_is_jordans_in_float32(monkeypatch: pytest.MonkeyPatch):
    """Without bfloat16, eight steps are those of Jordan's rule written out in float64."""
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: False)
    weights = [nn.Parameter(m) for m in matrices(0)]
    walk(Muon(weights, lr=0.05, momentum=0.9), weights)
    assert_jordans(weights, SHAPES)


@needs_compiler
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_in_c_are_jordans(decay: float, functions: MuonFunctions):
    """Eight steps in C are those of the rule in float64, for sides of any size."""
    shapes = SHAPES + UNEVEN
    weights = [nn.Parameter(m) for m in matrices(0, shapes)]
    optimiser = Muon(weights, lr=0.05, momentum=0.9, weight_decay=decay)
    optimiser.functions = functions
    walk(optimiser, weights)
    assert_jordans(weights, shapes, decay)


@needs_compiler
@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("steps", [5, 3])
def test_large_blocks_in_c_are_those_of_the_rule(
    steps: int, in_bfloat16: bool, functions: MuonFunctions, monkeypatch: pytest.MonkeyPatch
):
    """With MKL's products eight steps are Jordan's, in bfloat16 within its rounding.

    In three steps, which are in float32, they are those of three polynomials of singular values.
    """
    products = mkl_products()
    if products is None or (in_bfloat16 and products.bfloat16 is None):
        pytest.skip("C cannot multiply here")
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: in_bfloat16)
    weights = [nn.Parameter(m) for m in matrices(0, LARGE)]
    optimiser = Muon(weights, lr=0.05, momentum=0.9, weight_decay=0.3, steps=steps)
    optimiser.functions = functions
    monkeypatch.setattr(optimiser, "_descend", lambda weights, *_: assert_none(weights))
    walk(optimiser, weights)
    if steps == 3:
        assert_jordans(weights, LARGE, 0.3, rule=three_polynomials)
    else:
        assert_jordans(weights, LARGE, 0.3, 3e-3 if in_bfloat16 else 1e-4)


@needs_compiler
def test_three_steps_of_small_blocks_are_five(functions: MuonFunctions):
    """Matrices with a smaller side of at most `SMALL_SIDE` are as without `steps`."""
    shapes = [*SHAPES, (SMALL_SIDE, SMALL_SIDE + 30)]
    for in_c in (None, functions):
        three, five = ([nn.Parameter(m) for m in matrices(0, shapes)] for _ in range(2))
        for weights, steps in ((three, 3), (five, 5)):
            optimiser = Muon(weights, steps=steps)
            optimiser.functions = in_c
            walk(optimiser, weights, 2)
        assert all(map(torch.equal, three, five))


@pytest.mark.parametrize("rows", [None, 70])
def test_large_matrices_in_three_steps_by_torch(rows: int | None):
    """Torch's operations give the three polynomials, of whole matrices and of blocks."""
    shapes = [(70, 801), (70, 70)] if rows else LARGE
    weights = [nn.Parameter(m) for m in matrices(0, shapes)]
    walk(Muon(weights, lr=0.05, momentum=0.9, rows=rows, steps=3), weights)
    assert_jordans(weights, shapes, rule=three_polynomials)


def test_three_steps_leave_singular_values_near_one():
    """Of a matrix of 96 singular values from 1 to 0.02 all end between 0.72 and 1.28."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(96, 96, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(200, 96, generator=generator))
    values = torch.logspace(0, -1.7, 96)
    for factor in (1e-3, 1.0, 1e6):
        (done,) = orthogonalise_in_three(factor * (left * values @ right.T)[None])
        ends = (left.T @ done @ right).diagonal()
        assert 0.72 < ends.min() < ends.max() < 1.28
        torch.testing.assert_close(done, left * ends @ right.T, rtol=0, atol=1e-3)


def assert_none(weights: list[Tensor]) -> None:
    """Check that no weight is left to torch."""
    assert not weights


@needs_compiler
@pytest.mark.parametrize("rows", [7, 16, 70, None])
def test_threads_do_not_change_a_bit_in_c(rows: int | None, functions: MuonFunctions):
    """Blocks give the same bits in any number of threads, and those of torch within rounding."""
    shapes = SHAPES + UNEVEN + LARGE
    weights = {parts: [nn.Parameter(m) for m in matrices(0, shapes)] for parts in (0, 1, 2, 5)}
    with ThreadPoolExecutor(2) as pool:
        for parts, of_parts in weights.items():
            optimiser = Muon(of_parts, lr=0.05, rows=rows)
            if parts:
                optimiser.functions, optimiser.pool, optimiser.parts = functions, pool, parts
            walk(optimiser, of_parts, 2)
    for parts in (2, 5):
        assert all(map(torch.equal, weights[parts], weights[1]))
    tolerance = 0.01 if _rounds() else 1e-4
    for ours, theirs in zip(weights[1], weights[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@needs_compiler
def test_large_matrices_are_left_to_torch_without_mkl(
    functions: MuonFunctions, monkeypatch: pytest.MonkeyPatch
):
    """A matrix whose smaller side is larger than `SMALL_SIDE` moves as without C."""
    monkeypatch.setattr(muon, "mkl_products", lambda: None)
    shapes = [(SMALL_SIDE + 1, SMALL_SIDE + 1), (SMALL_SIDE, SMALL_SIDE + 1)]
    plain, mixed = ([nn.Parameter(m) for m in matrices(0, shapes)] for _ in range(2))
    walk(Muon(plain), plain, 1)
    optimiser = Muon(mixed)
    optimiser.functions = functions
    walk(optimiser, mixed, 1)
    assert torch.equal(mixed[0], plain[0])
    assert not torch.equal(mixed[1], plain[1])
    assert set(optimiser.state[mixed[1]]) == {"momentum_buffer"}


def assert_jordans(
    weights: list[nn.Parameter],
    shapes: list[tuple[int, int]],
    decay: float = 0.0,
    tolerance: float = 1e-4,
    rule: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Check that weights are where eight steps of a rule, or Jordan's, take them in float64."""
    for place, (updated, begin) in enumerate(zip(weights, matrices(0, shapes), strict=True)):
        weight, momentum = begin.double(), torch.zeros_like(begin, dtype=torch.float64)
        for step in range(8):
            gradient = matrices(100 + step, shapes)[place].double() * 10.0 ** (step - 4)
            momentum = 0.9 * momentum + 0.1 * gradient
            x = (rule or jordans)(0.1 * gradient + 0.9 * momentum)
            rows, columns = weight.shape
            weight = (1 - 0.05 * decay) * weight - 0.05 * max(1.0, rows / columns) ** 0.5 * x
        torch.testing.assert_close(updated.detach().double(), weight, rtol=0, atol=tolerance)


def jordans(x: Tensor) -> Tensor:
    """Return the matrix after Jordan's five steps."""
    x = x / x.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


def three_polynomials(x: Tensor) -> Tensor:
    """Return the matrix with three polynomials of its singular values in place of these."""
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    values = values / values.pow(8).sum() ** 0.125
    for coefficients in OF_THREE_STEPS:
        values = sum(c * values ** (2 * k + 1) for k, c in enumerate(coefficients))
    return left * values @ right


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_orthogonalise_keeps_the_directions(in_bfloat16: bool, monkeypatch: pytest.MonkeyPatch):
    """Singular vectors stay, and singular values come to lie between 0.65 and 1.25."""
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: in_bfloat16)
    matrix = torch.stack([m for m in matrices(1) if m.shape == (16, 40)])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    product = left.mT @ orthogonalise(matrix) @ right.mT
    assert values.amax() > 3 * values.amin()
    tolerance = 0.03 if in_bfloat16 else 1e-4
    diagonal = product.diagonal(dim1=1, dim2=2)
    assert (product - torch.diag_embed(diagonal)).abs().max() < tolerance
    assert diagonal.min() > 0.65
    assert diagonal.max() < 1.25


def test_the_scale_of_a_gradient_does_not_matter():
    """A gradient a thousand times larger makes the same update."""
    small, large = ([nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    for weights, factor in ((small, 1.0), (large, 1000.0)):
        optimiser = Muon(weights, lr=0.1)
        for weight, gradient in zip(weights, matrices(1), strict=True):
            weight.grad = gradient * factor
        optimiser.step()
    torch.testing.assert_close(list(small), list(large), rtol=0, atol=0.1 * 0.02)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_threads_do_not_change_a_bit(parts: int):
    """Work shared out over a pool gives the very weights of one thread."""
    alone, shared = ([nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    walk(Muon(alone), alone)
    with ThreadPoolExecutor(2) as pool:
        optimiser = Muon(shared)
        optimiser.pool, optimiser.parts = pool, parts
        walk(optimiser, shared)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_zero_and_missing_gradients_move_nothing():
    """A zero gradient and a missing one leave the weight as it is, with nothing infinite."""
    zero, missing = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    zero.grad = torch.zeros(4, 4)
    Muon([zero, missing], lr=0.1).step()
    assert torch.equal(zero.detach(), torch.ones(4, 4))
    assert torch.equal(missing.detach(), torch.ones(4, 4))


def test_closures_are_called_once():
    """`step` returns what the closure computes, as every optimiser does."""
    weight = nn.Parameter(torch.ones(2, 2))
    calls: list[float] = []
    assert Muon([weight]).step(lambda: calls.append(1.5) or 1.5) == 1.5
    assert calls == [1.5]


def test_wide_matrices_by_the_shorter_way():
    """Both ways to orthogonalise agree where singular values differ a thousandfold."""
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 16, 40, generator=generator) * torch.logspace(0, -3, 16)[:, None]
    expected = orthogonalise(matrices.double()).double()
    ours = orthogonalise_wide(matrices).double()
    torch.testing.assert_close(ours, expected, rtol=0, atol=0.05 if _rounds() else 1e-4)


def _rounds() -> bool:
    return multiplies_bfloat16()


def test_blocks_are_matrices_of_their_own():
    """With `rows`, each block moves as it would alone, the last, smaller one too."""
    whole, parts = nn.Parameter(torch.ones(20, 24)), [torch.ones(8, 24)] * 2 + [torch.ones(4, 24)]
    gradient = torch.randn(20, 24, generator=torch.Generator().manual_seed(0))
    pieces = [nn.Parameter(part.clone()) for part in parts]
    whole.grad = gradient
    for piece, part in zip(pieces, gradient.split(8), strict=True):
        piece.grad = part.clone()
    Muon([whole], rows=8).step()
    Muon(pieces, rows=8).step()
    assert (whole.detach() != 1).all()
    torch.testing.assert_close(whole, torch.cat(pieces), rtol=0, atol=1e-6)
