"""What a ladder shows, in a sentence and in the rows of its law."""

from __future__ import annotations

from kullback.report.numbers import nats, write_number
from kullback.results.scaling import Scaling

__all__ = ["law_rows", "title_of", "verdict_of"]


def title_of(result: Scaling) -> str:
    """What grows, and on which data."""
    what = "Data" if result.vary == "data" else "Model size"
    return f"{what} scaling on {result.data}: L(x) = E + A·x^(−α)"


def verdict_of(result: Scaling) -> str:
    """E with its interval, and whether that contains the exact entropy."""
    law = result.law
    if not law.identified:
        return f"E is not identified by this ladder: {_interval(law.floor_interval)} nats/token."
    said = (
        f"The irreducible loss E is {nats(law.floor)} nats/token (95 %: "
        f"{_interval(law.floor_interval)})"
    )
    if result.exact_entropy is None:
        return f"{said}; the entropy of a text is unknown."
    exact = nats(result.exact_entropy, 6)
    if result.covers_exact:
        return f"{said}; the interval contains the exact entropy {exact}."
    excess = law.floor - result.exact_entropy
    why = "the excess does not follow one power of x"
    if excess > 0:
        why = f"models of this ladder keep a KL, or {why}"
    return (
        f"{said}; the interval does not contain the exact entropy {exact}, from which E differs by "
        f"{nats(excess)}: {why}."
    )


def law_rows(result: Scaling) -> list[tuple[str, str, str]]:
    """Label, value and interval of each number."""
    law = result.law
    x = "tokens" if result.vary == "data" else "parameters"
    rows = [("E, irreducible loss", nats(law.floor), _interval(law.floor_interval))]
    if result.exact_entropy is not None:
        rows.append(("exact entropy", nats(result.exact_entropy, 6), ""))
    steep, flat = law.exponent_interval
    rows.append(("α, exponent", nats(law.exponent, 3), f"{nats(steep, 3)} to {nats(flat, 3)}"))
    rows.append((f"A, with x in {x}", write_number(law.scale), ""))
    return rows


def _interval(ends: tuple[float, float]) -> str:
    return " to ".join("0.0000" if end < 5e-5 else nats(end) for end in ends)
