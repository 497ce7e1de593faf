"""Right forms over wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kullback.evaluation.minimal_pairs import minimal_pair_accuracy
from kullback.predictions.base import DensePredictions
from kullback.sources.conjugation_source import Cell, ConjugationSource
from other_device import OtherModel, use_other_device


@pytest.fixture(scope="module")
def source() -> ConjugationSource:
    """Two verbs, with two cells held out."""
    cells = (Cell("go", "past simple", "I"), Cell("work", "present simple", "I"))
    known = ConjugationSource(("go", "work"))
    everything = sorted({pair.cell for pair in known.minimal_pairs()})
    held = tuple(cell for cell in cells if cell in everything) or tuple(everything[:2])
    return ConjugationSource(("go", "work"), held)


@dataclass
class Knowing:
    """A model that gives the right forms, and only those, more than the rest, by `gain`."""

    source: ConjugationSource
    gain: float
    name: str = "knowing"

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.source.full.vocabulary)

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """Zero but for the right forms."""
        right = {(pair.prefix, pair.right) for pair in self.source.minimal_pairs()}
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for prefix, form in right:
            by_prefix.setdefault(prefix, []).append(form)
        N, T = inputs_NT.shape
        logits = torch.zeros(N, T, self.vocabulary_size)
        for i, sentence in enumerate(inputs_NT.tolist()):
            for t in range(T):
                logits[i, t, by_prefix.get(tuple(sentence[1 : t + 1]), [])] = self.gain
        return DensePredictions(logits.flatten(0, 1))


@pytest.mark.parametrize(("gain", "accuracy"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.0)])
def test_knowing_every_form_is_everything(source, gain, accuracy):
    """A model that prefers all right forms has 100 %, its opposite 0 %, and a tie is not right."""
    pairs = source.minimal_pairs()
    results = minimal_pair_accuracy(Knowing(source, gain), pairs, frozenset(source.holdout))
    assert {result.accuracy for result in results} == {accuracy}


def test_guessing_gets_a_half(source):
    """Random logits are right about half the time."""
    pairs = source.minimal_pairs()

    class Guessing(Knowing):
        def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
            rows = inputs_NT.numel()
            rng = np.random.default_rng(rows)
            return DensePredictions(torch.from_numpy(rng.normal(size=(rows, self.vocabulary_size))))

    results = minimal_pair_accuracy(Guessing(source, 0.0), pairs)
    everything = [result for result in results if result.group == "all"]
    right = sum(r.accuracy * r.pairs for r in everything)
    count = sum(r.pairs for r in everything)
    assert abs(right / count - 0.5) < 3 * 0.5 / count**0.5


def test_groups_add_up_to_all(source):
    """The pairs of a group's values are all pairs, and held-out cells are counted apart."""
    pairs = source.minimal_pairs()
    results = minimal_pair_accuracy(Knowing(source, 1.0), pairs, frozenset(source.holdout))
    for side in ("english", "spanish"):
        for held_out in (False, True):
            here = [r for r in results if (r.side, r.held_out) == (side, held_out)]
            (total,) = (r.pairs for r in here if r.group == "all")
            for group in ("tense", "person", "verb", "regularity"):
                assert sum(r.pairs for r in here if r.group == group) == total
            expected = [
                pair
                for pair in pairs
                if pair.language == side and (pair.cell in source.holdout) == held_out
            ]
            assert total == len(expected)


def test_a_model_on_an_accelerator_gets_its_inputs_there(source, monkeypatch):
    """A model on another device is as accurate as on the CPU."""
    use_other_device(monkeypatch)
    results = minimal_pair_accuracy(OtherModel(Knowing(source, 1.0)), source.minimal_pairs())
    assert {result.accuracy for result in results} == {1.0}
