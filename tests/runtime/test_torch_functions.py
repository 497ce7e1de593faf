"""Kernels of packages are not used while kullback reads, whatever is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.hub_kernels import use_kernel_func_from_hub_with_fallback
from transformers.models.mamba import modeling_mamba

from kullback.runtime.fast_layers import FastLayers
from kullback.runtime.torch_functions import torch_functions
from tiny_architectures import ARCHITECTURES

IDS = torch.arange(9)[None]


def tiny_mamba() -> PreTrainedModel:
    """Return a random Mamba."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=32, **ARCHITECTURES["mamba"])
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@torch.inference_mode()
def logits(model: PreTrainedModel) -> Tensor:
    """Return the model's own logits."""
    return model(input_ids=IDS, use_cache=False).logits


class Wrapped(nn.Module):
    """A function as the package kernels wraps it."""


def in_module(function: object) -> nn.Module:
    """Return a module whose class calls `function`."""
    kind = type("Func", (Wrapped,), {"forward": lambda self, *args, **kw: function(*args, **kw)})  # type: ignore[operator] # it is one
    return kind()


@pytest.mark.parametrize("wrap", [lambda function: function, in_module])
def test_a_package_that_can_be_imported_does_not_change_the_numbers(
    wrap: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the scope torch computes, and afterwards the package again."""
    model = tiny_mamba()
    expected = logits(model)
    (tmp_path / "causal_conv1d.py").write_text(
        "def causal_conv1d_fn(*args, **kwargs):\n    return 3 * args[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "causal_conv1d", raising=False)
    name = "causal_conv1d_fn"
    own = getattr(modeling_mamba, name).__wrapped__
    chosen = use_kernel_func_from_hub_with_fallback(name, "causal_conv1d")(own)
    monkeypatch.setattr(modeling_mamba, name, wrap(chosen))  # type: ignore[operator] # a function
    changed = logits(model)
    with FastLayers(model).use():
        read = logits(model)
    assert not torch.allclose(changed, expected)
    assert torch.equal(read, expected)
    assert torch.equal(logits(model), changed)


def test_the_functions_of_transformers_are_those_expected() -> None:
    """The names in transformers' closures are as this version of kullback knows them."""
    assert len(torch_functions(tiny_mamba())) >= 3
