"""Which layers a quantisation costs most in."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from kullback.comparison.sensitivity import measure_sensitivity
from kullback.evaluation.passes import ModelPredictor, TokenizedText, divergence_rows, subsample
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.models.quantization import Scheme, quantise_layers
from kullback.scoring.divergence import concatenate_divergences
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

SCHEME = Scheme.parse("int3-g32")


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> HuggingFaceModel:
    """A tiny Llama of its own, whose layers are quantised in turn."""
    loaded = load_text_model(str(tiny_llama_folder))
    assert isinstance(loaded, HuggingFaceModel)
    return loaded


@pytest.fixture(scope="module")
def tokenized(model: HuggingFaceModel) -> TokenizedText:
    """A text, in windows of 32."""
    return TokenizedText.of(
        [Document("text", TEXT)], Protocol(window=32), model.tokenizer, model.context
    )


def test_costs_are_those_of_copies_quantised_by_hand(model, tokenized):
    """Each group's KL is that of a copy with only this group quantised; the ranking falls."""
    found = measure_sensitivity(model, SCHEME, tokenized)
    kls = [cost.kl.value for cost in found.groups]
    assert kls == sorted(kls, reverse=True)
    assert len(kls) == 4  # attention and MLP of two blocks
    for cost in found.groups:
        copied = copy.deepcopy(model.model)
        saved = quantise_layers(
            copied, SCHEME, lambda name, g=cost.group: name.startswith(g)
        ).size_bytes
        other = HuggingFaceModel.wrap(copied, model.tokenizer, "copy")
        rows = divergence_rows(ModelPredictor(model), ModelPredictor(other), tokenized)
        by_hand = concatenate_divergences(list(rows)).kl.mean()
        assert cost.kl.value == pytest.approx(by_hand, rel=1e-4)
        assert cost.bytes_saved == sum(4 * w.numel() for w in copied.parameters()) - saved


def test_the_model_is_as_before(model, tokenized):
    """Afterwards the weights are, bit for bit, what they were."""
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    found = measure_sensitivity(model, SCHEME, tokenized)
    after = model.model.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert found.sum_of_parts == pytest.approx(sum(cost.kl.value for cost in found.groups))
    assert found.whole > 0


def test_a_part_is_spread_over_the_text(tokenized):
    """A part has about as many tokens as asked for, from beginning to end."""
    part = subsample(tokenized, 100)
    assert 80 <= len(part) <= 160
    assert part.windows[0].key == tokenized.windows[0].key
    assert part.windows[-1].last > tokenized.windows[-1].last * 0.7
