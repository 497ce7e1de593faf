"""Fast layers are used inside a scope, and leave the model as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kullback.runtime.fast_layers import FastLayers


def llama(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Return a tiny random Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def replaced(model: torch.nn.Module) -> int:
    """Return how many modules have a `forward` of their own."""
    return sum("forward" in vars(module) for module in model.modules())


def test_linear_layers_are_replaced_inside_only() -> None:
    """Every `nn.Linear` and `Conv1D` is replaced inside the scope, and none after it."""
    for model, layers in (
        (llama(), 2 * 7 + 1),
        (GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4)), 2 * 4 + 1),
    ):
        fast = FastLayers(model)
        assert replaced(model) == 0
        with fast.use(), fast.use():
            assert replaced(model) == layers
        assert replaced(model) == 0
        assert not fast.has_attention


def test_logits_inside_are_those_outside() -> None:
    """The numbers differ by the order of sums at most."""
    model, inputs = llama(), torch.arange(40)[None]
    with torch.inference_mode():
        expected = model(inputs).logits
        with FastLayers(model).use():
            logits = model(inputs).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("without_amx")
def test_attention_is_replaced_inside_only() -> None:
    """A bfloat16 model has its own attention back after the scope, after an error too."""
    model = llama(torch.bfloat16)
    fast = FastLayers(model, attention=True)
    assert fast.has_attention
    assert model.config._attn_implementation == "sdpa"
    with fast.use():
        assert model.config._attn_implementation == "kullback_causal"
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(IndexError), fast.use():
        model(torch.full((1, 3), 1000))
    assert model.config._attn_implementation == "sdpa"
    assert not FastLayers(llama(), attention=True).has_attention


def test_layers_that_another_library_replaced_are_left_alone() -> None:
    """A `forward` that is set on a layer, as accelerate does, stays there inside and after."""
    model = llama()
    layer = model.model.layers[0].mlp.up_proj
    forward = layer.forward
    layer.forward = lambda x: forward(x)
    hook = layer.forward
    with FastLayers(model).use():
        assert layer.forward is hook
    assert layer.forward is hook


@pytest.mark.usefixtures("without_amx")
def test_two_users_in_many_threads_leave_the_model_as_it_was() -> None:
    """Overlapping scopes of two objects on one model end with the model unchanged."""
    model, inputs = llama(torch.bfloat16), torch.arange(40)[None]
    users = [FastLayers(model, attention=True) for _ in range(2)]

    @torch.inference_mode()
    def read(i: int) -> torch.Tensor:
        with users[i % 2].use():
            return model(inputs).logits

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(read, range(40))
    assert all(torch.equal(first, logits) for logits in others)
    assert replaced(model) == 0
    assert model.config._attn_implementation == "sdpa"
