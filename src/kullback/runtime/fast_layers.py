"""The fast layers of a model of transformers, in use only while kullback reads with it.

Inside `FastLayers.use` the layers of `kullback.runtime.fast_linear` and
`kullback.runtime.fast_attention` replace torch's, and torch's functions those of packages
(`kullback.runtime.torch_functions`); afterwards the model is as its owner left it.
Hooks keep working: they are called around `forward`, which alone is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kullback.runtime.fast_attention import IMPLEMENTATION, fast_attention_configs
from kullback.runtime.fast_linear import fast_forwards
from kullback.runtime.scopes import shared_scope
from kullback.runtime.torch_functions import choose_torch, torch_functions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FastLayers"]


class FastLayers:
    """The layers of `model` that can be faster: linear ones and, on request, attention.

    `has_attention` says whether attention is among them.
    """

    def __init__(self, model: PreTrainedModel, attention: bool = False) -> None:
        self._model = model
        self._forwards = fast_forwards(model)
        self._configs = fast_attention_configs(model) if attention else []
        self._functions = torch_functions(model)

    @property
    def has_attention(self) -> bool:
        """Whether attention is replaced, too."""
        return bool(self._configs)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Let the model use the fast layers; several threads may be inside at a time."""
        with ExitStack() as scopes:
            scopes.enter_context(shared_scope((id(self._model), "linear"), self._replace_linear))
            # They belong to all models of a kind.
            for cell, closure in self._functions.items():
                scopes.enter_context(shared_scope((cell, "torch"), partial(choose_torch, closure)))
            if self._configs:
                key = (id(self._model), "attention")
                scopes.enter_context(shared_scope(key, self._replace_attention))
            yield

    def _replace_linear(self) -> Callable[[], None]:
        # By the dictionary: torch's own setting of an attribute takes 20 times as long, and this
        # happens at each prediction.
        for module, forward in self._forwards:
            vars(module)["forward"] = forward

        def undo() -> None:
            for module, _ in self._forwards:
                vars(module).pop("forward", None)

        return undo

    def _replace_attention(self) -> Callable[[], None]:
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = IMPLEMENTATION

        def undo() -> None:
            for config, implementation in zip(self._configs, before, strict=True):
                config._attn_implementation = implementation

        return undo
