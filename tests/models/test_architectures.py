"""The nll of every architecture, at its own window, beside that of plain transformers."""

from __future__ import annotations

import pytest
import torch

from kullback.models.huggingface import HuggingFaceModel
from kullback.scoring.token_statistics import token_statistics
from swept_architectures import FAST, LEFT_OUT, SLOW, VOCABULARY, WINDOW, tiny
from tiny_models import byte_tokenizer


def check(architecture: str) -> None:
    """Assert that all tokens of a window have the nll of plain transformers' logits in float64."""
    model = tiny(architecture)
    generator = torch.Generator().manual_seed(1)
    ours = HuggingFaceModel.wrap(model, byte_tokenizer(), architecture)
    assert ours.context in (None, WINDOW)
    ids_T = torch.randint(3, VOCABULARY, (WINDOW + 1,), generator=generator)
    inputs_1T, targets_T = ids_T[None, :-1], ids_T[1:]
    with torch.inference_mode():
        logits_TV = model(input_ids=inputs_1T, use_cache=False).logits[0]
    assert logits_TV.dtype == torch.float32
    theirs_T = -logits_TV.double().log_softmax(1).gather(1, targets_T[:, None])[:, 0]
    ours_T = token_statistics(ours.predict(inputs_1T), targets_T).nll
    assert float(theirs_T.std()) > 0.01, "the logits say nothing"
    # With AVX-512 layers are multiplied by another library than the model's (`fast_linear`).
    bound = 1e-6 if torch.backends.cpu.get_cpu_capability() != "AVX512" else 5e-6
    assert abs(ours_T - theirs_T.numpy()).max() <= bound


@pytest.mark.parametrize("architecture", FAST)
def test_the_nll_is_that_of_plain_transformers(architecture: str) -> None:
    """Of the families that people run most, to 1e-6 nats at each token."""
    check(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SLOW)
def test_the_nll_of_other_architectures_is_that_of_plain_transformers(architecture: str) -> None:
    """Of every other architecture that can be built tiny on a CPU, to 1e-6 nats at each token."""
    check(architecture)


def test_the_lists_are_of_different_architectures() -> None:
    """At least sixty, none of them twice, and none of them left out."""
    names = [*FAST, *SLOW]
    assert len(set(names)) == len(names) >= 60
    assert not set(names) & {name for key in LEFT_OUT for name in key.split(", ")}
