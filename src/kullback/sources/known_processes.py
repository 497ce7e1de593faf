"""Hidden Markov processes of the literature, with their usual parameters.

* **Golden mean**: no two 0s in a row, otherwise a fair coin.  Entropy rate 2/3 bit; the last symbol
  determines the state.
* **Even**: 1s come in runs of even length between 0s, otherwise a fair coin.  Entropy rate 2/3 bit.
  A 0 determines the state, a run of 1s of any length does not: h(n) approaches the rate.
  (Both: J. P. Crutchfield and D. P. Feldman 2003, "Regularities unseen, randomness observed: Levels
  of entropy convergence", Chaos 13, 25-54.)
* **RRXOR**: two fair bits, then their exclusive or, again and again.  Entropy rate 2/3 bit, five
  states and 36 beliefs (ibid.; A. S. Shai et al. 2024, "Transformers represent belief state
  geometry in their residual stream", arXiv:2405.15943).
* **Mess3**: three states, each of which mostly repeats its own symbol; infinitely many beliefs, in
  a fractal.  Parameters α = 0.85 and x = 0.05 as in Shai et al. (S. E. Marzen and J. P. Crutchfield
  2017, "Nearly maximally predictive features and their dimensions", Phys. Rev. E 95, 051301).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from kullback.sources.process import Process, Step

__all__ = ["KNOWN", "known_process"]

MESS3_ALPHA, MESS3_X = 0.85, 0.05


def _golden_mean() -> Process:
    return Process.from_steps(
        "golden-mean",
        {"A": [Step("1", 0.5, "A"), Step("0", 0.5, "B")], "B": [Step("1", 1.0, "A")]},
    )


def _even() -> Process:
    return Process.from_steps(
        "even", {"A": [Step("0", 0.5, "A"), Step("1", 0.5, "B")], "B": [Step("1", 1.0, "A")]}
    )


def _rrxor() -> Process:
    return Process.from_steps(
        "rrxor",
        {
            "S": [Step("0", 0.5, "0"), Step("1", 0.5, "1")],
            "0": [Step("0", 0.5, "F"), Step("1", 0.5, "T")],
            "1": [Step("0", 0.5, "T"), Step("1", 0.5, "F")],
            "F": [Step("0", 1.0, "S")],
            "T": [Step("1", 1.0, "S")],
        },
    )


def _mess3() -> Process:
    own, other = MESS3_ALPHA, (1 - MESS3_ALPHA) / 2
    names = "ABC"
    return Process.from_steps(
        "mess3",
        {
            state: [
                # Move first, then write: mostly the symbol of the new state.
                Step(
                    symbol,
                    (1 - 2 * MESS3_X if target == state else MESS3_X)
                    * (own if symbol == target else other),
                    target,
                )
                for symbol in names
                for target in names
            ]
            for state in names
        },
    )


KNOWN: dict[str, tuple[str, Callable[[], Process]]] = {
    "golden-mean": ("no two 0s in a row; rate 2/3 bit", _golden_mean),
    "even": ("runs of 1s of even length; rate 2/3 bit", _even),
    "rrxor": ("two random bits and their exclusive or; rate 2/3 bit", _rrxor),
    "mess3": ("three hidden states with infinitely many beliefs", _mess3),
}
"""Name, what it is, and the process."""


@lru_cache(maxsize=8)
def known_process(name: str) -> Process:
    """The process of that name."""
    return KNOWN[name][1]()
