r"""How many nats does a distribution hold, and how many does a model of it waste?

For a truth ``p`` and a model ``q`` over the same outcomes, in nats (natural logarithms)::

    H(p)     = -Σ p log p           entropy: the world's, no model can go below it
    H(p, q)  = -Σ p log q           cross-entropy: what the model pays
    KL(p‖q)  =  Σ p log(p/q)        the difference, ≥ 0 (Gibbs), 0 only where p = q

    H(p, q) = H(p) + KL(p‖q)

Conventions.  ``0 log 0 = 0``; an outcome with p > 0 and q = 0 costs ``inf``.  Nothing is clipped
or renormalised: :func:`normalise` is there for those who want it, by name.  Every function takes
``given=``: the arguments are ``"probs"``, ``"log_probs"`` or ``"logits"``.  The last two
never pass through a probability that must then be logged, so one impossible-looking token costs
its true surprisal and not ``inf``.  ``axis`` counts in the broadcast shape and holds the outcomes.

What "exact" means.  Floating-point probabilities hardly ever sum to exactly one, and when p and q
differ by 1e-9 their KL (5e-19) is far below the rounding of their sums (1e-16): ``Σ p log(p/q)``
over the stored numbers is then mostly that rounding, and can be negative.  So the quantity here is

    KL(p‖q) = Σ [ p log(p/q) - p + q ],

the I-divergence of Csiszár (1991).  It equals the textbook sum when the totals are equal, each of
its terms is ≥ 0, and it is stationary at p = q, so rounding in the inputs only matters in second
order.  On the stored numbers ``H(p, q) - H(p) - KL`` is therefore ``Σp - Σq``: rounding for inputs
normalised in float64, and never more than twice the ``tolerance`` that the totals are held to.
Relative to these definitions on the stored numbers, results for probabilities keep within
``4e-16 · max(1, log2 n)`` of the exact value on every hard input of the tests (the worst that
rounding could do to a KL term is 5e-16), and a denormal result keeps the digits that it has.

Only NumPy is imported, so that the import stays cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback.errors import InvalidValueError

__all__ = [
    "Decomposition",
    "Given",
    "cross_entropy",
    "decompose",
    "entropy",
    "jensen_shannon",
    "kl_divergence",
    "log_softmax",
    "normalise",
    "perplexity",
]

FloatArray: TypeAlias = NDArray[np.float64]
Given: TypeAlias = Literal["probs", "log_probs", "logits"]

#: Values handled at a time: the seven 128 kB buffers of one KL block fit a 1 MB second-level cache.
_BLOCK = 16_384
_TINY = 5e-324  # the smallest positive float64


class Decomposition(NamedTuple):
    """Cross-entropy = entropy + KL, in nats; each of the three is computed by itself."""

    cross_entropy: FloatArray
    entropy: FloatArray
    kl: FloatArray


def entropy(
    p: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Entropy H(p) = -Σ p log p in nats (Shannon, 1948, §6).

    ``p`` holds distributions along ``axis``, in the form that ``given`` names; the result has the
    remaining shape (a scalar for one distribution).  Raises InvalidValueError for what is no
    distribution.

    >>> float(entropy([0.5, 0.25, 0.25]) / np.log(2))
    1.5
    """
    kernel = _ce_rows if given == "probs" else _ce_log_rows
    return _summed(kernel, given, axis, tolerance, p=p)


def cross_entropy(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Cross-entropy H(p, q) = -Σ p log q in nats: ``inf`` where p > 0 and q = 0.

    ``p`` and ``q`` broadcast against each other except along ``axis``, where they must have the
    same outcomes.  Raises InvalidValueError for what is no distribution.

    >>> float(round(cross_entropy([1, 0, 0, 0, 0], [0.6, 0.1, 0.1, 0.1, 0.1]), 3))
    0.511
    """
    kernel = _ce_rows if given == "probs" else _ce_log_rows
    return _summed(kernel, given, axis, tolerance, p=p, q=q)


def kl_divergence(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """KL(p‖q) = Σ [p log(p/q) - p + q] in nats (Kullback and Leibler, 1951; Csiszár, 1991).

    Never negative, and accurate however close p and q are: see the module's text for why the two
    extra terms belong.  Shapes and errors as in :func:`cross_entropy`.

    >>> float(kl_divergence([0.5, 0.5], [0.5 + 2**-40, 0.5 - 2**-40]) * 2**79)
    1.0
    """
    kernel = _kl_rows if given == "probs" else _kl_log_rows
    return _summed(kernel, given, axis, tolerance, p=p, q=q)


def jensen_shannon(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> FloatArray:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, in nats (Lin, 1991, eq. 4.1).

    Symmetric, between 0 and log 2, finite even where KL is not.  This is the divergence; its
    square root is the distance.  Shapes and errors as in :func:`cross_entropy`.

    >>> float(jensen_shannon([1, 0], [0, 1]) / np.log(2))
    1.0
    """
    kernel = _js_rows if given == "probs" else _js_log_rows
    return _summed(kernel, given, axis, tolerance, p=p, q=q)


def perplexity(
    p: ArrayLike,
    q: ArrayLike | None = None,
    *,
    axis: int = -1,
    given: Given = "probs",
    tolerance: float = 1e-9,
) -> FloatArray:
    """Perplexity exp H(p), or exp H(p, q) of a model: the equivalent number of equal outcomes.

    Shapes and errors as in :func:`cross_entropy`; ``inf`` where the cross-entropy is.

    >>> float(perplexity([0.25, 0.25, 0.25, 0.25]))
    4.0
    """
    if q is None:
        return np.exp(entropy(p, axis=axis, given=given, tolerance=tolerance))
    ce = cross_entropy(p, q, axis=axis, given=given, tolerance=tolerance)
    with np.errstate(over="ignore"):
        return np.exp(ce)


def decompose(
    p: ArrayLike, q: ArrayLike, *, axis: int = -1, given: Given = "probs", tolerance: float = 1e-9
) -> Decomposition:
    """Cross-entropy, entropy and KL, each computed by itself, so that their sum is a check.

    Shapes and errors as in :func:`cross_entropy`; ``entropy`` has the broadcast shape too.

    >>> parts = decompose([0.5, 0.5], [0.9, 0.1])
    >>> [round(float(part), 6) for part in parts]
    [1.203973, 0.693147, 0.510826]
    """
    ce = cross_entropy(p, q, axis=axis, given=given, tolerance=tolerance)
    kl = kl_divergence(p, q, axis=axis, given=given, tolerance=tolerance)
    h = entropy(np.broadcast_arrays(p, q)[0], axis=axis, given=given, tolerance=tolerance)
    return Decomposition(ce, h, kl)


def log_softmax(logits: ArrayLike, *, axis: int = -1) -> FloatArray:
    """Log-probabilities ``z - log Σ exp z`` along ``axis``, in nats, of the shape of ``logits``.

    The largest outcome's share of the sum is left out and ``log1p`` puts it back, so that the
    log-probability of a near-certain outcome keeps its digits.  ``-inf`` is an impossible outcome.
    Raises InvalidValueError for NaN, +inf, or nothing but -inf.

    >>> log_softmax([0.0, 50.0]).tolist()
    [-50.0, -1.9287498479639178e-22]
    """
    (array,), axis = _aligned(axis, logits=logits)
    _refuse("logits", axis, 0, logits=array)
    with np.errstate(over="ignore"):  # logits further apart than the largest float: -inf
        rows = _log_softmax_rows(np.moveaxis(array, axis, -1))
    return np.moveaxis(rows, -1, axis)


def normalise(weights: ArrayLike, *, axis: int = -1) -> FloatArray:
    """Weights (counts, masses) divided by their sum along ``axis``, so that they sum to one.

    Raises InvalidValueError for a negative or non-finite weight, and where all weights are zero.

    >>> normalise([3, 1]).tolist()
    [0.75, 0.25]
    """
    (array,), axis = _aligned(axis, weights=weights)
    good = np.isfinite(array) & (array >= 0)
    _refuse_where(~good, "weights", array, "a weight must be finite and at least 0")
    # A power of two is divided out first, exactly: the sum of huge weights then stays finite.
    top = array.max(axis=axis, keepdims=True)
    rule = f"along axis {axis} at least one weight must be positive"
    _refuse_where(top == 0, "weights", top, rule, "has a maximum of")
    scaled: FloatArray = np.ldexp(array, -np.frexp(top)[1])
    scaled /= scaled.sum(axis=axis, keepdims=True)
    return scaled


# --- the sum of each row of a block: probabilities ------------------------------------------------

# Times 2⁶⁰⁰ every probability is a normal number; the divergences are homogeneous: it divides out.
_SCALE = 2.0**600


def _ce_rows(out: FloatArray, p: FloatArray, q: FloatArray | None = None) -> None:
    q = p if q is None else q  # the entropy
    terms = np.log(q, order="C")
    terms *= p
    if q.min() == 0:
        terms[(p == 0) & (q == 0)] = 0
    np.negative(terms.sum(axis=-1), out=out)


def _kl_rows(out: FloatArray, p: FloatArray, q: FloatArray) -> None:
    terms = _divergence_terms(_scaled(p), _scaled(q))
    np.divide(terms.sum(axis=-1), _SCALE, out=out)


def _js_rows(out: FloatArray, p: FloatArray, q: FloatArray) -> None:
    p, q = _scaled(p), _scaled(q)
    s = (q - p) / np.maximum(q + p, _TINY)
    np.divide(_js_terms(p, q, s).sum(axis=-1), _SCALE, out=out)


def _scaled(p: FloatArray) -> FloatArray:
    return np.multiply(p, _SCALE, order="C")


# (atanh s - s)/s³ as a polynomial in s² ≤ 1/9: interpolated at Chebyshev nodes in 60 digits, which
# puts the error of a KL term below 3e-17 of it.  Taylor's series, 1/3 + s²/5 + .., takes 16 terms.
_ATANH_TAIL = (
    0.3333333333333333, 0.20000000000007292, 0.1428571428355438, 0.11111111358713932,
    0.09090894718066429, 0.07692785032479312, 0.06657072104827468, 0.06000536404795356,
    0.04400369243072337, 0.08082022805971766,
)  # fmt: skip
_ONE_EXPONENT = 1 << 52  # one step of a float64's exponent, as seen by an integer


def _divergence_terms(p: FloatArray, r: FloatArray) -> FloatArray:
    """φ(p, q) = p log(p/q) - p + q to 3 units in the last place; p and r = q are overwritten.

    Let k be log2(p/q) rounded towards zero, and r = 2ᵏ q, which is within a factor 2 of p, on the
    side of q.  Then e = r - p is exact (Sterbenz, 1974), and algebra gives three terms, all ≥ 0::

        φ(p, q) = φ(p, r)  +  p (k log 2 - 1 + 2⁻ᵏ)  +  (2⁻ᵏ - 1) e
        φ(p, r) = s e [1 - (1 - s) s G(s²)],   s = e / (p + r),   G(s²) = (atanh s - s) / s³

    since log(r/p) = 2 atanh s, with |s| ≤ 1/3.  Nothing cancels, there is no branch and no ``log``:
    a few dozen passes over buffers in cache, which is why it is faster than ``rel_entr``.
    """
    if zeros := bool(min(p.min(), r.min()) == 0):
        p += 0.0  # -0.0 has a sign bit, which the integers below would see
        r += 0.0
        impossible = (r == 0) & (p > 0)
    terms: FloatArray = np.empty(p.shape)
    stretch, e, s, k_floats = np.empty((4, *p.shape))
    k, k_small = k_floats.view(np.int64), stretch.view(np.int64)  # in units of _ONE_EXPONENT
    p_bits, r_bits = p.view(np.int64), r.view(np.int64)

    # The bits of positive floats are log2 of them, linear between powers of two.
    np.subtract(p_bits, r_bits, out=k)
    np.right_shift(k, 63, out=k_small)
    k_small &= _ONE_EXPONENT - 1
    k += k_small  # so that dropping the fraction rounds towards zero
    k &= -_ONE_EXPONENT
    # Below -62, φ = q to the last bit whatever k is; above 62, 2⁻ᵏ - 1 = -1 likewise.
    np.maximum(k, -62 * _ONE_EXPONENT, out=k)
    r_bits += k
    np.minimum(k, 62 * _ONE_EXPONENT, out=k_small)
    np.subtract(1023 * _ONE_EXPONENT, k_small, out=k_small)  # the bits of 2⁻ᵏ
    stretch -= 1
    np.multiply(k, math.log(2) / _ONE_EXPONENT, out=terms)
    terms += stretch
    terms *= p
    np.subtract(r, p, out=e)
    stretch *= e
    terms += stretch

    r += p
    np.maximum(r, _TINY, out=r)  # no 0/0 where p = q = 0
    np.divide(e, r, out=s)
    e *= s
    terms += e
    z, tail = np.multiply(s, s, out=r), stretch
    np.multiply(z, _ATANH_TAIL[-1], out=tail)
    for coefficient in _ATANH_TAIL[-2:0:-1]:
        tail += coefficient
        tail *= z
    tail += _ATANH_TAIL[0]
    s -= z
    tail *= s
    tail *= e
    terms -= tail
    if zeros:
        terms[impossible] = np.inf
    return terms


def _js_terms(p: FloatArray, q: FloatArray, s: FloatArray) -> FloatArray:
    """½ [p log(2p/σ) + q log(2q/σ)], σ = p + q, given s = (q - p)/σ to its last digits.

    It is σ/4 [(1-s) log(1-s) + (1+s) log(1+s)] = σ/4 Σₙ s²ⁿ/(n (2n-1)), and for large s also
    ¼ [φ(2p, σ) + φ(2q, σ)], which is stationary in σ, so that the rounding of p + q is harmless.
    """
    total, z = p + q, np.minimum(s * s, 0.25)
    series = np.zeros_like(z)
    for n in range(26, 0, -1):  # 4⁻²⁶ is below the last bit
        series = series * z + 1 / (n * (2 * n - 1))
    far = _divergence_terms(2 * p, total.copy()) + _divergence_terms(2 * q, total.copy())
    terms: FloatArray = np.where(np.abs(s) <= 0.5, total * s * s * series, far) / 4
    return terms


# --- the sum of each row of a block: log-probabilities, and delta = log(q/p) to its last digits ---


def _ce_log_rows(out: FloatArray, lp: FloatArray, *lq_and_delta: FloatArray) -> None:
    p = np.maximum(np.exp(lp), _TINY)  # a p that underflows still makes q = 0 cost inf
    lq = lq_and_delta[0] if lq_and_delta else lp
    np.negative(np.where(lp == -np.inf, 0.0, p * lq).sum(axis=-1), out=out)


def _kl_log_rows(out: FloatArray, lp: FloatArray, lq: FloatArray, delta: FloatArray) -> None:
    """Σ p (exp δ - 1 - δ): by its series where |δ| ≤ 1, and as q - p (1 + δ) beyond."""
    p, q, x = np.maximum(np.exp(lp), _TINY), np.exp(lq), np.clip(delta, -1, 1)
    series = np.zeros_like(x)
    for n in range(20, 1, -1):  # 1/21! is below the last bit
        series = series * x + 1 / math.factorial(n)
    far = np.where(lp == -np.inf, q, q - p * (1 + delta))
    np.where(np.abs(delta) <= 1, p * x * x * series, far).sum(axis=-1, out=out)


def _js_log_rows(out: FloatArray, lp: FloatArray, lq: FloatArray, delta: FloatArray) -> None:
    s = np.where(np.isnan(delta), 0.0, np.tanh(delta / 2))
    _js_terms(np.exp(lp), np.exp(lq), s).sum(axis=-1, out=out)


def _log_softmax_rows(logits: FloatArray) -> FloatArray:
    rows = np.ascontiguousarray(logits)
    top = rows.argmax(axis=-1)[..., None]
    rows = rows - np.take_along_axis(rows, top, axis=-1)
    others = np.exp(rows)
    np.put_along_axis(others, top, 0.0, axis=-1)
    rows -= np.log1p(others.sum(axis=-1, keepdims=True))
    return rows


def _logit_delta(a: FloatArray, b: FloatArray, lp: FloatArray, lq: FloatArray) -> FloatArray:
    """log q - log p of two softmaxes, from b - a rather than from two rounded logarithms.

    It is d = b - a less one constant per row, the one for which Σ p exp δ = 1.  The difference of
    the normalisers is that constant up to rounding, and one Newton step removes the rounding.
    """
    d = b - a
    back = d - b
    lost = (b - (d - back)) - (a + back)  # what rounding took from d (Knuth, 1998, §4.2.2)
    normaliser_q = b.max(axis=-1, keepdims=True) - lq.max(axis=-1, keepdims=True)
    normaliser_p = a.max(axis=-1, keepdims=True) - lp.max(axis=-1, keepdims=True)
    d -= normaliser_q - normaliser_p
    d += np.where(np.isfinite(lost), lost, 0.0)
    p = np.exp(lp)
    excess = np.where(d < 700, p * np.expm1(d), np.exp(lq) - p)  # e⁷⁰⁰ is still finite
    d -= np.log1p(excess.sum(axis=-1, keepdims=True))
    return d


# --- blocks, shapes and refusals ----------------------------------------------------------------


def _summed(
    kernel: Callable[..., None], given: Given, axis: int, tolerance: float, **named: ArrayLike
) -> FloatArray:
    """Add up ``kernel`` along ``axis``, in blocks of whole rows that stay in cache.

    Each block is validated while it is there: a minimum and a row sum cost less than a pass from
    memory.  Only when one fails does :func:`_refuse` look for the place, to say it.
    """
    if given not in ("probs", "log_probs", "logits"):
        raise InvalidValueError(f"given is {given!r}: it must be 'probs', 'log_probs' or 'logits'")
    arrays, axis = _aligned(axis, **named)
    checked = dict(zip(named, arrays, strict=True))
    if given == "logits":
        _refuse(given, axis, tolerance, **checked)
    rows = [np.moveaxis(a, axis, -1) for a in np.broadcast_arrays(*arrays)]
    *shape, outcomes = rows[0].shape
    flat = [a.reshape(-1, outcomes) for a in rows]
    height, ones = max(1, _BLOCK // outcomes), np.ones(outcomes)
    out = np.empty(flat[0].shape[0])
    with np.errstate(all="ignore"):
        for start in range(0, out.size, height):
            block = [a[start : start + height] for a in flat]
            if given == "logits":
                logs = [_log_softmax_rows(a) for a in block]
                block = [*logs, _logit_delta(*block, *logs)] if len(block) == 2 else logs
            else:
                for x in block:
                    valid = x.min() >= 0 if given == "probs" else not np.isnan(x).any()
                    total = (x if given == "probs" else np.exp(x)) @ ones
                    if not (valid and np.abs(total - 1).max() <= tolerance):
                        _refuse(given, axis, tolerance, **checked)
                if given == "log_probs" and len(block) == 2:
                    block.append(block[1] - block[0])
            kernel(out[start : start + height], *block)
    out += 0.0  # -0.0, of a certain outcome, becomes 0.0
    return out.reshape(shape)[()]


def _as_float(name: str, values: ArrayLike) -> FloatArray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"dtype {array.dtype}")
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{name} cannot be read as an array of real numbers ({error}): pass a rectangular one"
        ) from error


def _aligned(axis: int, **named: ArrayLike) -> tuple[list[FloatArray], int]:
    """The arrays as float64, and ``axis`` as a negative number that means the same in each."""
    arrays = [_as_float(name, values) for name, values in named.items()]
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
            f"{shapes}: along axis {axis} each must have the same outcomes, at least one"
        )
    return arrays, axis


def _refuse_where(
    bad: NDArray[np.bool_], name: str, array: FloatArray, rule: str, verb: str = "is"
) -> None:
    """Raise, with the first place where ``bad`` holds and the value there."""
    if bad.any():
        place = tuple(np.argwhere(bad)[0].tolist())
        index = str(list(place)) if place else ""
        raise InvalidValueError(f"{name}{index} {verb} {float(array[place])!r}: {rule}")


def _refuse(given: Given, axis: int, tolerance: float, **named: FloatArray) -> None:
    """Raise, with the place, for the first value or total that no distribution has."""
    for name, array in named.items():
        if given == "logits":
            good, rule = array < np.inf, "a logit must be finite, or -inf for the impossible"
        elif given == "log_probs":
            good, rule = array <= tolerance, "a log-probability must be at most 0"
        else:
            good = (array >= 0) & (array <= 1 + tolerance)
            rule = "a probability must lie in [0, 1]"
        _refuse_where(~good, name, array, rule)
        if given == "logits":
            top = array.max(axis=axis)
            rule = f"along axis {axis} at least one logit must be finite"
            _refuse_where(top == -np.inf, name, top, rule, "has a maximum of")
        else:
            total = (array if given == "probs" else np.exp(array)).sum(axis=axis)
            off = np.abs(total - 1) > tolerance
            rule = f"along axis {axis} that must be 1 within {tolerance:g}; normalise() it, or pass"
            verb = "sums to" if given == "probs" else "has probabilities that sum to"
            _refuse_where(off, name, total, f"{rule} a larger tolerance=", verb)
