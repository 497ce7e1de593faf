"""The mini-GPT against the Llama of transformers, and against itself without padding."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses

from kullback.errors import InvalidValueError
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.packed_attention import PackedLayout

# Nothing is at its default, so that a field that gets lost on the way shows.
CONFIG = GPTConfig(
    vocabulary_size=97,
    context=24,
    width=48,
    layers=3,
    heads=4,
    mlp_width=80,
    rope_theta=500.0,
    norm_eps=1e-3,
)


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CONFIG.vocabulary_size, shape, generator=generator)


@pytest.fixture(scope="module")
def model() -> GPT:
    """Return a model whose weights are all random, norms included, and large enough to matter."""
    model = GPT(CONFIG, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.head_weight.mul_(10)
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
    return model


def llama_with_the_weights_of(model: GPT) -> transformers.LlamaForCausalLM:
    """Return the Llama that our configuration describes, with our weights."""
    config = CONFIG.to_huggingface(bos_token_id=0, eos_token_id=1)
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    state = model.state_dict()
    missing, unexpected = llama.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing in ([], ["lm_head.weight"])  # the head is the embedding
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    return llama


def test_logits_are_llamas_in_float32(model: GPT):
    """With the same weights the logits are those of `LlamaForCausalLM` to 1e-5."""
    tokens = random_tokens(3, CONFIG.context)
    llama = llama_with_the_weights_of(model)
    with torch.no_grad():
        ours, theirs = model(tokens), llama(tokens).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_logits_are_llamas_in_float64(model: GPT):
    """In float64 the logits agree to 1e-10, once Llama's norm does not round to float32."""
    llama = llama_with_the_weights_of(model).double()
    rounding = type(llama.model.norm)
    for module in list(llama.modules()):
        for name, child in module.named_children():
            if isinstance(child, rounding):
                exact = nn.RMSNorm(CONFIG.width, CONFIG.norm_eps, dtype=torch.float64)
                exact.weight = child.weight
                setattr(module, name, exact)
    double = GPT(CONFIG).double()
    double.load_state_dict(model.state_dict())
    tokens = random_tokens(2, CONFIG.context, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(double(tokens), llama(tokens).logits, rtol=0, atol=1e-10)


def test_parameter_names_are_llamas(model: GPT):
    """Names and shapes of the parameters are those of `LlamaForCausalLM`."""
    llama = llama_with_the_weights_of(model)
    ours = {name: weight.shape for name, weight in model.named_parameters()}
    theirs = {name: weight.shape for name, weight in llama.named_parameters()}
    assert ours == theirs
    assert set(model.state_dict()) == set(ours)


def test_configuration_round_trip():
    """A configuration read back from its `config.json` is the same."""
    assert GPTConfig.from_huggingface(CONFIG.to_huggingface(0, 1)) == CONFIG


def test_a_head_of_its_own_is_a_llama_too():
    """A head that is not tied is Llama's lm_head: names, logits, parameters, configuration."""
    sizes = replace(CONFIG, tied=False)
    assert GPTConfig.from_huggingface(sizes.to_huggingface(0, 1)) == sizes
    ours = GPT(sizes, seed=3)
    assert sum(weight.numel() for weight in ours.parameters()) == sizes.parameters
    generator = torch.Generator().manual_seed(5)
    for weight in ours.parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes.to_huggingface(0, 1)))
    llama.eval().load_state_dict(ours.state_dict())
    assert llama.lm_head.weight is not llama.model.embed_tokens.weight
    tokens = random_tokens(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), llama(tokens).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lengths", [[1], [5, 5], [1, 24, 3, 11], [20, 17]], ids=str)
def test_packed_sequences_are_as_if_alone(model: GPT, lengths: list[int]):
    """Hidden states of packed sequences are those of each sequence alone."""
    rows = [random_tokens(1, length, seed=length) for length in lengths]
    layout = PackedLayout.of(torch.tensor(lengths))
    with torch.no_grad():
        packed = model.hidden_packed(torch.cat(rows, dim=1)[0], layout)
        alone = torch.cat([model.hidden(row)[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_packed_gradients_are_as_if_alone(model: GPT):
    """Every parameter's gradient is the same packed as sequence by sequence, in float64."""
    double = GPT(CONFIG).double()
    double.load_state_dict(model.state_dict())
    lengths = [4, 9, 1]
    rows = [random_tokens(1, length, seed=length) for length in lengths]
    layout = PackedLayout.of(torch.tensor(lengths))
    packed = double.hidden_packed(torch.cat(rows, dim=1)[0], layout).square().sum()
    alone = torch.cat([double.hidden(row)[0] for row in rows]).square().sum()
    parameters = list(double.parameters())
    ours = torch.autograd.grad(packed, parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(alone, parameters), rtol=0, atol=1e-9)


def test_logits_do_not_see_the_future(model: GPT):
    """Changing a token leaves the logits before it untouched and changes those from it on."""
    tokens = random_tokens(1, 10)
    other = tokens.clone()
    other[0, 6] = (other[0, 6] + 1) % CONFIG.vocabulary_size
    with torch.no_grad():
        difference = (model(tokens) - model(other)).abs().amax(dim=-1)[0]
    assert (difference[:6] < 1e-6).all()
    assert (difference[6:] > 1e-3).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocabulary_size", [97, 604])
def test_untrained_models_know_nothing(vocabulary_size: int, tied: bool):
    """An untrained model's cross-entropy on random tokens is log V within 0.1 nats."""
    model = GPT(GPTConfig(vocabulary_size, context=16, tied=tied), seed=0)
    tokens = torch.randint(vocabulary_size, (64, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(vocabulary_size), abs=0.1)


def test_seeds():
    """Equal seeds give equal weights, different seeds different ones, and no global state moves."""
    before = torch.get_rng_state()
    first, again, other = (GPT(CONFIG, seed).head_weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_sequences_beyond_the_context(model: GPT):
    """A sequence longer than the context is an error with both numbers, packed or not."""
    message = "a sequence has 25 tokens: it must have at most the model's context, 24; shorten it"
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        model(random_tokens(2, 25))
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        model.hidden_packed(random_tokens(28), PackedLayout.of(torch.tensor([3, 25])))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 0}, "layers is 0: it must be a whole number of at least 1"),
        ({"layers": 10**8}, "layers is 100000000: it must be a whole number of at least 1 and"),
        ({"context": -1}, "context is -1: it must be a whole number of at least 1"),
        ({"tied": 1}, "tied is 1: it must be True or False"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0: it must be a number above 0"),
        (
            {"width": 60, "heads": 4},
            "width is 60 and heads is 4: rotary positions need a width that is a multiple of "
            "2 × heads = 8",
        ),
    ],
)
def test_impossible_sizes(sizes: dict[str, int], message: str):
    """Impossible sizes are errors that show them."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        GPTConfig(**({"vocabulary_size": 10, "context": 8} | sizes))
