"""The derivation as text: every step, identities that add up, and no wrapped line."""

from __future__ import annotations

import re
from decimal import Decimal
from io import StringIO

import pytest
from rich.console import Console

from kullback.report.terminal.derivation import derivation_text
from kullback.theory.derivation import Derivation, derive


def printed(derivation: Derivation, width: int = 100) -> str:
    """The text in a terminal of that width."""
    console = Console(width=width, record=True, file=StringIO())
    console.print(derivation_text(derivation))
    return console.export_text()


def test_the_text_shows_every_step_with_its_numbers() -> None:
    """Nine headings, the identities with their numbers, and no line beyond 80 columns."""
    text = printed(derive(), width=80)
    lines = text.splitlines()
    for number in range(1, 10):
        assert any(line.startswith(f"{number}. ") for line in lines)
    assert "1.406705 = 1.333074 + 0.073631" in text
    assert "0.510826 = 0.000000 + 0.510826" in text
    assert "q − 1[i = y]" in text  # and not a markup tag that was swallowed
    assert "← y" in text
    assert "log 600 = 6.3969" in text
    assert max(map(len, lines)) <= 81  # p̂ is two characters in one column


def test_no_minus_is_a_hyphen() -> None:
    """Formulas have the minus of the numbers beside them; a hyphen joins words."""
    text = printed(derive([0.5, 0.5], [0.9, 0.1]))
    assert re.findall(r"(?<!\w)-.*|.*-(?!\w).*", text) == []
    assert "H(p) = −Σ p log p" in text


def test_printed_identities_add_up() -> None:
    """The numbers as printed satisfy CE = H + KL: with fewer decimals where six would not."""
    text = printed(derive([1 / 3] * 3, [0.2, 0.3, 0.5]))
    identities = re.findall(r"([\d.]+) = ([\d.]+) \+ ([\d.]+)", text)
    assert identities[0] == ("1.16885", "1.09861", "0.07024")
    assert len(identities) == 3
    for ce, h, kl in identities:
        assert Decimal(ce) == Decimal(h) + Decimal(kl)


@pytest.mark.parametrize(
    ("p", "q"), [([0.0, 1.0], None), ([0.5, 0.5, 0.0], [0.5, 0.0, 0.5]), ([1e-9, 1 - 1e-9], None)]
)
def test_zeros_and_infinities_are_shown(p: list[float], q: list[float] | None) -> None:
    """A point mass, an infinite KL and a tiny probability give all nine steps."""
    text = printed(derive(p, q), width=80)
    assert "9. A language model" in text
    assert not re.search(r"\b(nan|inf)\b", text)
