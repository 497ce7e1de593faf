"""Probes of whether sequences get the same predictions in a batch as alone.

Causal attention does not see what follows, so that padding on the right needs no mask.  Whether a
model is safe with it is not looked up by name but tried: a short sequence beside a longer one, two
of one length, and a sequence padded to the longest length in use, where positions may depend on the
length of the input (RoPE scaled by it, for example).

Axes: N sequences, T positions, M rows, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kullback.models.interface import Sharing
from kullback.predictions.base import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["BatchProbe", "SharedInputs", "scales_with_length"]

Predict: TypeAlias = "Callable[[Int[Tensor, 'N T']], Predictions]"


@dataclass(frozen=True, eq=False)
class SharedInputs:
    """Sequences alone and the batches that they are compared in, made of one probe."""

    alone: dict[str, Int[Tensor, "1 T"]]
    batches: dict[str, tuple[Int[Tensor, "N T"], tuple[str, ...], Sharing]]
    """By name: the batch, the names of its sequences, and what may be shared where their
    predictions are not those that they have alone."""

    @classmethod
    def of(cls, probe_1T: Int[Tensor, "1 T"], longest: int, padded: bool = True) -> SharedInputs:
        """Two sequences of one length; if `padded`, one beside a longer one and one that is padded
        to `longest`.  None of them where the probe has a single token.
        """
        first_1T, second_1T = probe_1T, probe_1T.flip(1) // 2
        T = first_1T.shape[1]
        if T < 2:
            return cls({}, {})
        half_1T = second_1T[:, : T // 2]
        alone = {"first": first_1T, "second": second_1T}
        batches: dict[str, tuple[Tensor, tuple[str, ...], Sharing]] = {
            "equal": (torch.cat([first_1T, second_1T]), ("first", "second"), "alone"),
        }
        if padded:
            alone["half"] = half_1T
            beside_2T = torch.cat([first_1T, _padded(half_1T, T)])
            batches["beside"] = (beside_2T, ("first", "half"), "equal lengths")
        if padded and longest > T:
            batches["long"] = (_padded(first_1T, longest), ("first",), "equal lengths")
        return cls(alone, batches)

    def allowed(
        self, rows: Callable[[Tensor, int, int], Tensor], is_near: Callable[[Tensor, Tensor], bool]
    ) -> Sharing:
        """What may be shared; ``rows(batch_NT, n, length)`` are those of the n-th sequence."""
        for batch_NT, names, otherwise in self.batches.values():
            for n, name in enumerate(names):
                alone_1T = self.alone[name]
                length = alone_1T.shape[1]
                if not is_near(rows(batch_NT, n, length), rows(alone_1T, 0, length)):
                    return otherwise
        return "padded"


@dataclass(eq=False)
class BatchProbe:
    """What was tried with one model, and what came out; each probe is made once."""

    probe_1T: Int[Tensor, "1 T"]
    """Tokens to try with."""
    is_near: Callable[[Tensor, Tensor], bool]
    """Whether logits are the same but for rounding."""
    scales_with_length: bool = False
    """Whether the configuration says that positions depend on the length of the input."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _of_short: list[Sharing] = field(default_factory=list)
    _safe_to: int = 0
    _unsafe_from: int | None = None

    def sharing(self, predict: Predict, longest: int) -> Sharing:
        """How sequences of at most `longest` tokens may be read in one batch; of several threads,
        one tries.
        """
        with self._lock:
            return self._shared(predict, longest)

    def _shared(self, predict: Predict, longest: int) -> Sharing:
        if not self._of_short:
            self._of_short.append(self._try_short(predict))
            self._safe_to = self.probe_1T.shape[1]
        if self._of_short[0] != "padded" or longest <= 1:
            return self._of_short[0]
        if self.scales_with_length:
            return "equal lengths"
        if longest > self._safe_to and not self._is_unsafe(longest):
            if self._try_length(predict, longest):
                self._safe_to = longest
            else:
                self._unsafe_from = longest
        return "equal lengths" if self._is_unsafe(longest) else "padded"

    def _is_unsafe(self, longest: int) -> bool:
        return self._unsafe_from is not None and longest >= self._unsafe_from

    def _try_short(self, predict: Predict) -> Sharing:
        T = self.probe_1T.shape[1]
        inputs = SharedInputs.of(self.probe_1T, T)
        if not inputs.batches:
            return "alone"
        try:
            alone = {
                name: _logits(predict, ids_1T, ids_1T.shape[1])
                for name, ids_1T in inputs.alone.items()
            }
            for batch_NT, names, otherwise in inputs.batches.values():
                batch_MV = _logits(predict, batch_NT, 2 * T)
                for n, name in enumerate(names):
                    row_TV = batch_MV[n * T : n * T + len(alone[name])]
                    if not self.is_near(row_TV, alone[name]):
                        return otherwise
        # Of any class: it is the model's own code that runs, perhaps made for one sequence.
        except Exception:
            return "alone"
        return "padded"

    def _try_length(self, predict: Predict, longest: int) -> bool:
        """Whether a short sequence that is padded to `longest` tokens predicts what it does alone.

        Alone it is read last: some models keep the scale of the longest input that they have read.
        """
        T = self.probe_1T.shape[1]
        try:
            padded_TV = _logits(predict, _padded(self.probe_1T, longest), T)
            alone_TV = _logits(predict, self.probe_1T, T)
        # As above; also where the memory is too small, which the pass itself finds out.
        except Exception:
            return False
        return self.is_near(padded_TV, alone_TV)


def scales_with_length(config: PreTrainedConfig) -> bool:
    """Whether the configuration has RoPE whose frequencies depend on the length of the input.

    On short inputs these are the usual ones, so that a probe would have to know from which length
    on they are not.
    """
    return any(
        isinstance(value, str) and ("dynamic" in value or value == "longrope")
        for value in _rope_types(config.to_dict())
    )


def _rope_types(settings: object) -> list[object]:
    if not isinstance(settings, dict):
        return []
    own = [value for key, value in settings.items() if key in ("rope_type", "type")]
    return own + [part for value in settings.values() for part in _rope_types(value)]


def _padded(ids_1T: Int[Tensor, "1 T"], length: int) -> Int[Tensor, "1 length"]:
    """Tokens, and the last of them again up to a length."""
    return torch.cat([ids_1T, ids_1T[:, -1:].expand(-1, length - ids_1T.shape[1])], dim=1)


def _logits(predict: Predict, inputs_NT: Int[Tensor, "N T"], rows: int) -> Float[Tensor, "M V"]:
    """The logits of the first rows."""
    return predict(inputs_NT).logits(slice(0, rows))
