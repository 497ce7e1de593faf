"""How sequences share a batch: what the probes find, and that numbers are those of each alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from kullback.models.batch_probe import BatchProbe, scales_with_length
from kullback.models.huggingface import HuggingFaceModel
from kullback.predictions.base import DensePredictions
from swept_architectures import FAST, SLOW, VOCABULARY, WINDOW, tiny
from tiny_models import byte_tokenizer

LENGTHS = (WINDOW - 1, 17, 5)


def check(architecture: str) -> str:
    """Assert that windows that may share a batch predict there what they do alone; how they may."""
    ours = HuggingFaceModel.wrap(tiny(architecture), byte_tokenizer(), architecture)
    sharing = ours.sharing(WINDOW - 1)
    generator = torch.Generator().manual_seed(1)
    if sharing == "alone":
        return sharing
    lengths = LENGTHS if sharing == "padded" else (17, 17)
    inputs = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]
    longest = max(lengths)
    padded_NT = torch.stack(
        [torch.cat([ids, ids[-1:].expand(longest - len(ids))]) for ids in inputs]
    )
    together = ours.predict(padded_NT)
    for n, ids_T in enumerate(inputs):
        first = n * longest
        batched_TV = together.logits(slice(first, first + len(ids_T)))
        alone_TV = ours.predict(ids_T[None]).logits(slice(0, len(ids_T)))
        largest = float(alone_TV.abs().max())
        assert float((batched_TV - alone_TV).abs().max()) <= 1e-4 * largest
    return sharing


@pytest.mark.parametrize("architecture", FAST)
def test_padded_batches_of_common_architectures(architecture: str) -> None:
    """The families that people run most are safe with padding, state spaces and experts too."""
    assert check(architecture) == "padded"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SLOW)
def test_batches_of_other_architectures(architecture: str) -> None:
    """Every other architecture gives in a batch what it gives alone, as the probe says."""
    check(architecture)


def with_rope(**rope: object) -> HuggingFaceModel:
    """A tiny Llama with scaled positions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, initializer_range=0.3,
        rope_parameters={"rope_theta": 10_000.0, **rope},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).train(False)
    return HuggingFaceModel.wrap(model, byte_tokenizer(), "rope")


def test_rope_that_depends_on_the_longest_input_is_not_padded() -> None:
    """A window padded beside a longer one would get positions of another scale."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    original = {"original_max_position_embeddings": 32}
    scaled = with_rope(rope_type="longrope", factor=8.0, **factors, **original)
    dynamic = with_rope(rope_type="dynamic", factor=4.0)
    linear = with_rope(rope_type="linear", factor=4.0)
    assert scaled.sharing(64) == dynamic.sharing(64) == "equal lengths"
    assert linear.sharing(64) == "padded"
    assert scales_with_length(scaled.model.config)
    assert not scales_with_length(linear.model.config)


def test_the_length_of_the_text_is_tried_where_the_configuration_says_nothing() -> None:
    """The same model without the hint: the probe at the text's own length finds it."""
    original = {"original_max_position_embeddings": 32}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    scaled = with_rope(rope_type="longrope", factor=8.0, **factors, **original)
    probe_1T = torch.arange(12)[None]
    probe = BatchProbe(probe_1T, lambda ours, theirs: torch.allclose(ours, theirs, atol=1e-4))
    assert probe.sharing(scaled.predict, 30) == "padded"
    assert probe.sharing(scaled.predict, 64) == "equal lengths"
    assert probe.sharing(scaled.predict, 30) == "padded"


@pytest.mark.parametrize(
    ("dependence", "expected"),
    [("none", "padded"), ("length", "equal lengths"), ("batch", "alone"), ("fails", "alone")],
)
def test_what_a_model_depends_on_says_how_windows_share(dependence: str, expected: str) -> None:
    """Logits that depend on the longest row, or on the rows beside it, are found out."""

    def predict(inputs_NT: torch.Tensor) -> DensePredictions:
        N, T = inputs_NT.shape
        if dependence == "fails" and N > 1:
            raise ValueError("one sequence only")
        logits_NTV = torch.nn.functional.one_hot(inputs_NT, 16).float()
        if dependence == "length":
            logits_NTV += T
        if dependence == "batch":
            logits_NTV += inputs_NT.float().mean()
        return DensePredictions(logits_NTV.flatten(0, 1))

    probe = BatchProbe(torch.arange(12)[None], torch.allclose)
    assert probe.sharing(predict, 12) == expected
