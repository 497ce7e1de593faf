"""Models that run a layer at a time, by their own forward."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from kullback.models.layer_probe import find_layers
from kullback.models.layer_stream import LayerStream
from swept_architectures import tiny


def test_what_is_between_the_layers_is_computed() -> None:
    """A hook that halves the input of the second layer, as RWKV does between some layers."""
    model = tiny("llama").eval()
    second = model.base_model.layers[1]
    second.register_forward_pre_hook(lambda _, inputs: (inputs[0] / 2, *inputs[1:]))
    ids_NT = torch.arange(10)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids_NT, use_cache=False).logits
        layers = find_layers(copy.deepcopy(model).to("meta"))
        stream = LayerStream(model, replace(layers, modules=list(model.base_model.layers)))
        stream.install()
        hidden_NTD = stream.embed(ids_NT)
        for i in range(2):
            hidden_NTD = stream.layer(i, ids_NT, hidden_NTD)
        stream.known(lambda _: hidden_NTD)
        assert torch.equal(model(input_ids=ids_NT, use_cache=False).logits, expected)
