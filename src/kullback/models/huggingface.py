"""Any causal language model of `transformers`, as hidden states and a head.

The body of a model (all but its output matrix) gives hidden states; the head turns them into
logits, V numbers a token, a block at a time and only when asked for.  What an architecture does
after its output matrix is part of the head: a bias (Phi, GPT-J), a scale (Granite divides, Cohere
multiplies), a soft-cap (Gemma 2).  Which of these apply is not looked up by name but tried:
`find_head` compares the factored logits with the model's own on a short input, and again with the
hidden states stretched so far that a soft-cap bends the logits.  A model that no head reproduces is
used as it is ("dense": N×V logits in memory), with a note.

In 16-bit types the body computes in that type; hidden states are widened to float32 and so is the
head.  An accelerator multiplies the 16-bit numbers and sums in float32, which is the same, and so
does a CPU that multiplies bfloat16 (`kullback.runtime.bfloat16_products`).  Logits rounded to
bfloat16 would save 0.3 s of 2.3 a core (SmolLM2-135M, 1,024 positions, Zen 4), but they tie at the
top of 5 % of the rows, change the most probable token in 2 %, and raise the mean nll by 2e-4 nats
(``benchmarks/bfloat16_head.py`` compares them).

Axes: N sequences, T positions, M rows (positions of all sequences), D width, V vocabulary.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kullback.errors import InvalidValueError
from kullback.models._context import context_of
from kullback.models._known_rows import with_known_rows
from kullback.models._probes import changed, probe_of, probes_of
from kullback.models.batch_probe import BatchProbe
from kullback.models.interface import Sharing
from kullback.models.length_scaling import LengthScaling
from kullback.models.placement import computing_device, is_spread, read_weight
from kullback.models.weights_identity import WeightsIdentity
from kullback.predictions.base import DensePredictions, FactoredPredictions, Head, at_least_float32
from kullback.runtime.fast_layers import FastLayers
from kullback.runtime.processor import multiplies

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kullback.text.tokenizer import TextTokenizer

__all__ = [
    "TOLERANCE",
    "HuggingFaceModel",
    "check_repeatable",
    "distance",
    "find_head",
    "output_matrix",
    "use_exact_experts",
]

# How far the factored logits may be from the model's own, over the largest of these: float32
# differs by the order of a sum (1e-6), 16-bit logits by their rounding (bfloat16: 2^-8).
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
# A soft-cap of 50, the largest in use, bends a logit of 100 by half.
STRETCHED_LOGIT = 100.0


@dataclass(frozen=True, eq=False)
class HuggingFaceModel:
    """A causal language model of `transformers`, ready to be measured: see `wrap`."""

    model: PreTrainedModel
    tokenizer: TextTokenizer
    name: str
    head: Head | None
    """None where the model cannot be factored."""
    vocabulary_size: int
    """V as the logits have it, rows that pad the vocabulary included."""
    layers: FastLayers
    """Replaces layers of `model` while `predict` runs."""
    scaling: LengthScaling
    context: int | None = None
    """The longest input; None where nothing limits it."""
    notes: tuple[str, ...] = ()
    file_bytes: int | None = None
    """The size of the .gguf file that the weights were dequantised from, where they were."""
    _identity: WeightsIdentity = field(default_factory=WeightsIdentity, repr=False)
    _batch_probes: list[BatchProbe] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def wrap(
        cls,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        name: str,
        longest: float | None = None,
    ) -> HuggingFaceModel:
        """The adapter of a loaded model; puts it in evaluation mode and finds its head.

        `longest` is the longest text of its tokenizer in tokens, which counts where the
        configuration names no context.
        Raises `InvalidValueError` where the tokenizer has no ids or begins texts with one that the
        model has no row for, where the model is random, or where it is not causal: what follows a
        position changes its predictions there.
        Predictions that are NaN are left to the pass over a text, which names their position.
        """
        if tokenizer.vocabulary_size == 0:
            raise InvalidValueError(
                f"the tokenizer of {name} has no tokens: give the model's own tokenizer"
            )
        model.train(False).requires_grad_(False)
        use_exact_experts(model)
        layers = FastLayers(model)
        device = computing_device(model, output_matrix(model))
        probe_1T = probes_of(model, tokenizer, device)[0]
        with torch.inference_mode(), layers.use():
            logits_TV = _own_logits(model, probe_1T)
        attending = FastLayers(model, attention=True)
        if attending.has_attention:
            with torch.inference_mode(), attending.use():
                faster_TV = _own_logits(model, probe_1T)
            if distance(faster_TV, logits_TV) <= TOLERANCE[model.dtype]:
                layers, logits_TV = attending, faster_TV
        with torch.inference_mode(), layers.use():
            V = logits_TV.shape[1]
            tokenizer = with_known_rows(model, tokenizer, V, name)
            check_repeatable(_own_logits(model, probe_1T), logits_TV, model.dtype, name)
            _check_causal(model, probe_1T, logits_TV, name)
            head, reason = find_head(model, probe_1T, logits_TV)
        notes = list(tokenizer.notes)
        if device.type == "cpu" and not multiplies(model.dtype):
            notes.append(
                f"this processor cannot multiply numbers of {str(model.dtype).split('.')[1]}: they "
                "are widened to float32 and the results rounded, which is as exact but no faster "
                "than float32"
            )
        if 2 * tokenizer.vocabulary_size < V:
            notes.append(
                f"the tokenizer of {name} has {tokenizer.vocabulary_size:,} ids and the model "
                f"predicts {V:,}: check that it belongs to this model"
            )
        if head is None:
            notes.append(
                f"{name} cannot be split into hidden states and a head ({reason}); its logits are "
                f"kept in memory, {4 * V:,} bytes a token"
            )
        scaling = LengthScaling(model)
        notes += scaling.notes(name)
        context = context_of(model, longest)
        return cls(
            model, tokenizer, name, head, V, layers, scaling, context, tuple(notes),
            _identity=WeightsIdentity.of(model),
        )  # fmt: skip

    def of_same_weights(self, model: PreTrainedModel) -> HuggingFaceModel:
        """The adapter of `model`, whose weights are those that `wrap` has tried, without trying.

        How sequences may share a batch is tried later, with those of a scheme (`sharing`).
        """
        model.train(False).requires_grad_(False)
        use_exact_experts(model)
        head, matrix = self.head, output_matrix(model)
        if head is not None:
            assert matrix is not None, "a head is made of it"
            head = replace(head, **_parts_of_head(model, matrix, self.vocabulary_size, self.device))
        return replace(
            self, model=model, head=head, scaling=LengthScaling(model),
            layers=FastLayers(model, attention=self.layers.has_attention),
            _identity=WeightsIdentity.of(model), _batch_probes=[], _lock=threading.Lock(),
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        """The type that the body computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs and gives its predictions."""
        return computing_device(self.model, output_matrix(self.model))

    @property
    def exclusive(self) -> bool:
        """Whether it reads one window at a time: weights or scales move while a layer computes."""
        return is_spread(self.model) or self.scaling.is_used

    @property
    def factored(self) -> bool:
        """Whether a head was found."""
        return self.head is not None

    def sharing(self, longest: int) -> Sharing:
        """As probes find it; each is made once."""
        with self._lock:
            probe = self._batch_probe()
        return probe.sharing(self.predict, longest)

    def _batch_probe(self) -> BatchProbe:
        if not self._batch_probes:
            config = self.model.config.get_text_config(decoder=True)
            size = min(config.vocab_size, self.tokenizer.vocabulary_size)
            tolerance = TOLERANCE[self.dtype]
            self._batch_probes.append(
                BatchProbe(
                    probe_of(size, config, self.device),
                    lambda ours, theirs: distance(ours, theirs) <= tolerance,
                    self.scaling.is_used,
                )
            )
        return self._batch_probes[0]

    @property
    def bytes_a_token(self) -> int:
        """About what the activations of a layer, or logits without a head, take of a position."""
        if self.head is None:
            return 8 * self.vocabulary_size
        return bytes_a_token(self.model, *self.head.weight_VD.shape)

    def weights_fingerprint(self) -> str:
        """SHA-256 of the weights as they are in memory; computed once."""
        return self._identity.fingerprint(self.model)

    @torch.inference_mode()
    def predict(self, inputs_NT: Int[Tensor, "N T"]) -> FactoredPredictions | DensePredictions:
        """Predictions at all N·T positions, row by row.

        Raises `InvalidValueError` where the inputs are longer than the context.
        """
        if self.context is not None and inputs_NT.shape[1] > self.context:
            raise InvalidValueError(
                f"inputs_NT has {inputs_NT.shape[1]} positions: {self.name} reads at most "
                f"{self.context}; use a shorter window"
            )
        with self.scaling.anew(), self.layers.use():
            if self.head is None:
                return DensePredictions(_own_logits(self.model, inputs_NT))
            hidden_MD = _hidden(self.model, inputs_NT).to(self.head.weight_VD.device)
        return FactoredPredictions(at_least_float32(hidden_MD), self.head)


def bytes_a_token(model: PreTrainedModel, V: int, D: int) -> int:
    """About what the activations of a layer take of a position, with a head of V×D weights."""
    widths = [weight.shape[0] for weight in model.parameters() if weight.ndim == 2]
    widest = max((width for width in widths if width < V), default=D)
    return model.dtype.itemsize * (4 * D + 3 * widest)


def find_head(
    model: PreTrainedModel, probe_1T: Int[Tensor, "1 T"], own_TV: Float[Tensor, "T V"]
) -> tuple[Head | None, str]:
    """The head with which hidden states give the model's own logits, or None and the reason.

    Candidates are made of the output matrix, its bias, and the scales and caps that the
    configuration names; one is accepted when the largest difference on the probe, over the largest
    logit, is below `TOLERANCE`: with the hidden states as they are, and stretched to logits of 100.
    """
    matrix = output_matrix(model)
    if matrix is None or model.base_model is model:
        return None, "its body and its output matrix are not known"
    weight_VD = getattr(matrix, "weight", None)
    hidden_TD = _hidden(model, probe_1T).to(probe_1T.device)
    if not isinstance(weight_VD, Tensor) or weight_VD.shape[1:] != hidden_TD.shape[1:]:
        return None, "its output matrix does not fit its hidden states"
    unscaled = Head(
        **_parts_of_head(model, matrix, own_TV.shape[1], probe_1T.device),
        product_dtype=hidden_TD.dtype if hidden_TD.dtype.itemsize == 2 else None,
    )
    hidden_TD = at_least_float32(hidden_TD)
    stretch = STRETCHED_LOGIT / _largest(unscaled.logits(hidden_TD))
    stretched_TV = _own_logits(model, probe_1T, stretch)

    def off_by(head: Head) -> float:
        return max(
            distance(head.logits(hidden_TD), own_TV),
            distance(head.logits(hidden_TD * stretch), stretched_TV),
        )

    scales, caps = _scales_and_caps(model.config.get_text_config(decoder=True))
    heads = [replace(unscaled, scale=scale, softcap=cap) for cap in caps for scale in scales]
    distances = [off_by(head) for head in heads]
    least = min(distances)
    if not least <= TOLERANCE[model.dtype]:
        return None, f"the logits of the nearest head are off by {least:.1e} of the largest logit"
    return heads[distances.index(least)], ""


def _scales_and_caps(config: PreTrainedConfig) -> tuple[list[float], list[float | None]]:
    """Factors and caps of logits that a configuration may mean; none of them comes first."""
    scales: list[float] = [1.0]
    caps: list[float | None] = [None]
    for key, value in config.to_dict().items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        if "cap" in key and ("logit" in key or "output" in key):
            caps.append(float(value))
        elif "logit" in key or "multiplier" in key:
            scales += [float(value), 1.0 / float(value)]
    return list(dict.fromkeys(scales)), list(dict.fromkeys(caps))


def output_matrix(model: PreTrainedModel) -> nn.Module | None:
    """The layer that makes logits; None where transformers does not know it."""
    matrix: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call] # theirs
    return matrix


def _parts_of_head(
    model: PreTrainedModel, matrix: nn.Module, V: int, device: torch.device
) -> dict[str, Any]:
    """Weight and bias of a `Head` of V rows."""
    parts: dict[str, Any] = {}
    for name, key in (("weight", "weight_VD"), ("bias", "bias_V")):
        own = getattr(matrix, name, None)
        # Some models cut off the rows that pad the vocabulary.
        parts[key] = None if own is None else _placed(model, matrix, name, own, device)[:V].detach()
    return parts


def _placed(
    model: PreTrainedModel, matrix: nn.Module, name: str, weight: Tensor, device: torch.device
) -> Tensor:
    """A weight of the output matrix on `device`, read where it is on none."""
    prefix = next(prefix for prefix, module in model.named_modules() if module is matrix)
    return read_weight(model, f"{prefix}.{name}", weight).to(device)


def _hidden(model: PreTrainedModel, inputs_NT: Int[Tensor, "N T"]) -> Float[Tensor, "M D"]:
    hidden_NTD: Tensor = model.base_model(input_ids=inputs_NT, use_cache=False, return_dict=True)[0]
    return hidden_NTD.flatten(0, 1)


def _own_logits(
    model: PreTrainedModel, inputs_NT: Int[Tensor, "N T"], stretch: float = 1.0
) -> Float[Tensor, "M V"]:
    """The model's own logits, with the input of its output matrix multiplied by `stretch`."""
    hooks = []
    matrix = output_matrix(model)
    if stretch != 1.0 and matrix is not None:
        hooks.append(matrix.register_forward_pre_hook(lambda _, inputs: (inputs[0] * stretch,)))
    try:
        logits_NTV: Tensor = model(input_ids=inputs_NT, use_cache=False, return_dict=True).logits
    finally:
        for hook in hooks:
            hook.remove()
    return at_least_float32(logits_NTV.flatten(0, 1))


def use_exact_experts(model: PreTrainedModel) -> None:
    """Compute experts one by one in float64, for which torch has no grouped product."""
    if model.dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")


def check_repeatable(again: Tensor, first: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise `InvalidValueError` where the same input gives other predictions a second time.

    On an accelerator sums may be in another order, so only differences above rounding count.
    """
    change = distance(again, first)
    if change > (0.0 if first.device.type == "cpu" else TOLERANCE[dtype]):
        raise InvalidValueError(
            f"the model {name} is random: the same input gives other predictions a second time (by "
            f"{change:.1e} of the largest logit); turn off what makes it so (dropout, noise of a "
            "router) in its code or config.json"
        )


def _check_causal(
    model: PreTrainedModel, probe_1T: Int[Tensor, "1 T"], logits_TV: Float[Tensor, "T V"], name: str
) -> None:
    half = probe_1T.shape[1] // 2
    if half == 0:
        return
    changed_1T = changed(probe_1T)
    before_TV, after_TV = logits_TV[:half], _own_logits(model, changed_1T)[:half]
    # NaN says nothing about causality: it spreads through attention even where the weight is 0.
    known_TV = ~(before_TV.isnan() | after_TV.isnan())
    change = distance(after_TV.where(known_TV, 0.0), before_TV.where(known_TV, 0.0))
    if change > TOLERANCE[model.dtype]:
        raise InvalidValueError(
            f"{name} is not a causal language model: other tokens after a position change its "
            f"predictions there (by {change:.1e} of the largest logit), so they depend on the "
            "target token; choose a model that was trained to predict the next token"
        )


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest finite value; inf where only one is finite or NaN.

    Equal infinities are at no distance, and neither are NaN and NaN.
    """
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    distance = float((ours - theirs).abs().masked_fill(same, 0.0).max()) / _largest(theirs)
    return distance if distance == distance else float("inf")


def _largest(values: Tensor) -> float:
    """The largest finite value, by its size; never 0."""
    sizes = values.abs().nan_to_num(nan=0.0, posinf=0.0)
    return max(float(sizes.max()), 1e-30)
