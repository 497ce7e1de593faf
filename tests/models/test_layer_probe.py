"""Which architectures can be run a layer at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kullback.models.layer_probe import Result, Unstreamable, find_layers
from swept_architectures import tiny


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "qwen3_moe", "mamba", "falcon"])
def test_layers_that_read_only_the_layer_before_are_accepted(architecture: str) -> None:
    """Attention, experts and states of a layer are its own; V is that of the logits."""
    layers = find_layers(tiny(architecture).to("meta"))
    assert len(layers.modules) == len(layers.results) == 2
    assert layers.vocabulary_size == 256


@pytest.mark.parametrize("architecture", ["gemma3n_text", "zamba2", "zaya"])
def test_layers_that_read_older_hidden_states_are_refused(architecture: str) -> None:
    """Inputs of each layer made of the embedding, and a router that reads the router before."""
    with pytest.raises(Unstreamable, match="layer 1 reads hidden states other than"):
        find_layers(tiny(architecture).to("meta"))


def test_a_forward_that_changes_weights_is_refused() -> None:
    """RWKV divides some at the first call, which are then not read yet."""
    with pytest.raises(Unstreamable, match="changes its weights"):
        find_layers(tiny("rwkv").to("meta"))


class _Remembering(nn.Module):
    """A layer that keeps what it computed on a module that another one reads."""

    def __init__(self, layer: nn.Module, store: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.store = layer, store

    def forward(self, hidden: Tensor, *arguments: object, **named: object) -> Tensor:
        """Add the first result of all to its own."""
        result: Tensor = self.layer(hidden, *arguments, **named)
        self.store.append(result)
        return result + self.store[0]


def test_state_that_layers_share_outside_of_their_arguments_is_seen() -> None:
    """Layers that hand a tensor on in a list are refused, whatever their arguments."""
    model = tiny("llama")
    store: list[Tensor] = []
    inner = model.base_model.layers
    model.base_model.layers = nn.ModuleList(_Remembering(layer, store) for layer in inner)
    with pytest.raises(Unstreamable, match="layer 1"):
        find_layers(model.to("meta"))


def test_layers_that_run_in_another_order_are_refused() -> None:
    """The layer of a list that runs twice has weights that are read once."""
    model = tiny("llama")
    inner = model.base_model.layers
    model.base_model.layers = nn.ModuleList([inner[0], inner[1], inner[0]])
    model.config.num_hidden_layers = 3
    with pytest.raises(Unstreamable, match="one after the other"):
        find_layers(model.to("meta"))


def test_the_check_leaves_the_model_as_it_was() -> None:
    """No `forward` stays replaced, and neither does the implementation of experts."""
    model = tiny("qwen3_moe").to("meta")
    before = model.config._experts_implementation
    find_layers(model)
    assert model.config._experts_implementation == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_form_of_results() -> None:
    """A layer may return its hidden states alone or first of several results."""
    hidden = torch.zeros(1)
    assert Result.of(hidden).around(hidden) is hidden
    assert Result.of((hidden, hidden)).around(hidden) == (hidden, None)
    assert Result.of([hidden]).around(hidden) == [hidden]
