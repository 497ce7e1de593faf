"""Kneser-Ney models against what KenLM's own estimator gives for the same text.

``kenlm.json`` has the text, held-out sentences, the discounts that `lmplz` chose and the log10 of
the probability of every held-out token; it says how it was made.  KenLM needs a compiler, so it is
not asked again here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kullback.models.kneser_ney import NgramModel

KENLM = json.loads((Path(__file__).parent / "kenlm.json").read_text(encoding="utf-8"))
# KenLM stores float32, of which kenlm.json has six decimals.
TOLERANCE = 2e-6
# <s> is only in contexts and <unk> only a prediction, so that one id serves for both.
START, END = 0, 1


def units(line: str, unit: str) -> list[str]:
    """The characters or words of a line."""
    return list(line) if unit == "characters" else line.split()


@pytest.mark.parametrize(
    "model", KENLM["models"], ids=lambda model: f"{model['unit']}-{model['order']}"
)
def test_probabilities_and_discounts_are_kenlms(model: dict) -> None:
    """Every held-out token, the ends of lines too, and the discounts of every order."""
    unit, order = model["unit"], model["order"]
    known = sorted({token for line in KENLM["train"] for token in units(line, unit)})
    ids = {token: 2 + i for i, token in enumerate(known)}

    def row(line: str) -> list[int]:
        return [*(ids[token] for token in units(line, unit)), END]

    ours = NgramModel.fit(
        [row(line) for line in KENLM["train"]],
        order=order, vocabulary_size=2 + len(known), bos=START,
    )  # fmt: skip
    assert np.allclose(ours.discounts, model["discounts"], rtol=1e-5, atol=0)
    held_out = KENLM["held_out"][unit]
    assert len(held_out) == len(model["log10"]) > 3
    for line, expected in zip(held_out, model["log10"], strict=True):
        log10 = ours.token_log_probs(np.array([row(line)]))[0] / math.log(10)
        assert np.abs(log10 - expected).max() < TOLERANCE


def test_estimated_and_fallback_discounts_are_compared() -> None:
    """The text is large enough for estimated discounts of every order but one of characters."""
    chosen = [discounts for model in KENLM["models"] for discounts in model["discounts"]]
    assert [0.5, 1.0, 1.5] in chosen
    assert len({tuple(discounts) for discounts in chosen}) > 6
