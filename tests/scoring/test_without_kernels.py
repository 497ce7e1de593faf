"""Statistics on accelerators for which there are no Triton kernels, with a stand-in for them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from kullback.predictions.base import DensePredictions, FactoredPredictions, Head, Predictions
from kullback.scoring import divergence, token_statistics
from stand_in_device import Away, without_inference_mode

V, PADDED = 3000, 3100
DRAW = torch.Generator().manual_seed(3)
HIDDEN, WEIGHT = (torch.randn(shape, generator=DRAW) for shape in ((6, 16), (PADDED, 16)))
LOGITS = torch.randn(6, V, generator=DRAW)
TARGETS = torch.arange(6) * 500


def models(there: bool) -> tuple[Predictions, Predictions]:
    """One with a head and columns that pad the vocabulary, and logits that exclude tokens."""
    move = Away if there else lambda values: values
    logits = LOGITS.clone()
    logits[2, 7], logits[3] = -torch.inf, 40 * LOGITS[3]
    factored = FactoredPredictions(move(HIDDEN.clone()), Head(move(WEIGHT.clone())))
    return factored, DensePredictions(move(logits))


@pytest.mark.parametrize("kind", ["mps", "xla"])
def test_the_statistics_are_those_of_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one model and of two: a GPU without Triton, and Apple's, which has no float64."""
    for module in (divergence, token_statistics):
        monkeypatch.setattr(module, "to_device", lambda values, device: values.to(device))
    monkeypatch.setenv("KULLBACK_COMPILE", "0")
    of_one = without_inference_mode(token_statistics.start_statistics)
    of_two = without_inference_mode(divergence.start_divergences)
    here = models(there=False)
    expected = of_one(here[0], TARGETS, 5)(), of_two(*here, TARGETS)()
    with Away.present(kind):
        there = models(there=True)
        assert token_statistics.device_of(there[1]).type == kind
        found = of_one(there[0], TARGETS, 5)(), of_two(*there, TARGETS)()
    for ours, theirs in (found[0], expected[0]), (found[1].candidate, expected[1].candidate):
        for field in fields(ours):
            np.testing.assert_allclose(
                getattr(ours, field.name), getattr(theirs, field.name), rtol=1e-5, atol=1e-6
            )
    for name in ("kl", "reverse_kl", "jensen_shannon", "total_variation", "reference_padding"):
        ours, theirs = getattr(found[1], name), getattr(expected[1], name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.isinf(found[1].kl[2])
