"""What a ladder shows, in a sentence and in the rows of its law."""

from __future__ import annotations

from kullback.report.numbers import count, nats, write_number
from kullback.results.scaling import Scaling

__all__ = ["law_rows", "title_of", "verdict_of"]


def title_of(result: Scaling) -> str:
    """What grows, and on which data."""
    what = "Data" if result.vary == "data" else "Model size"
    return f"{what} scaling on {result.data}: L(x) = E + A·x^(−α)"


def verdict_of(result: Scaling) -> str:
    """E with its interval, whether that contains the exact entropy, and by how much it does not."""
    law = result.law
    exact = None if result.exact_entropy is None else nats(result.exact_entropy, 6)
    if not law.identified:
        known = "" if exact is None else f"; the exact entropy is {exact}"
        interval = _interval(law.floor_interval)
        return f"E is not identified by this ladder: {interval} nats/token{known}."
    said = (
        f"The irreducible loss E is {nats(law.floor)} nats/token (95 %: "
        f"{_interval(law.floor_interval)})"
    )
    if result.exact_entropy is None or result.floor_minus_exact is None:
        return f"{said}; the entropy of a text is unknown."
    if result.covers_exact:
        return f"{said}; the interval contains the exact entropy {exact}."
    low, high = law.floor_interval
    outside = max(low - result.exact_entropy, result.exact_entropy - high)
    difference = result.floor_minus_exact
    side = "above" if difference > 0 else "below"
    why = "the excess does not follow one power of x, which no interval of a fit shows"
    if difference > 0:
        kept = "models of this ladder keep"
        if result.vary == "data":
            kept = f"a model of this size keeps ({count(result.rungs[-1].parameters)} parameters)"
        why = f"it has the KL that {kept}, or {why}"
    return (
        f"{said}; the exact entropy {exact} is outside the interval by {nats(outside)}, and E is "
        f"{nats(abs(difference))} {side} it: {why}."
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
