"""What was asked of `kullback.compare`, and checks of it before an operand is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kullback.errors import InvalidValueError
from kullback.evaluation.options import Model, PassOptions, named_paths
from kullback.models.quantization import Scheme
from kullback.models.quantized import SizedModel, split_scheme
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import TOLERANCES
from kullback.text.inputs import Text

__all__ = ["Request", "as_tuple", "check_values"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for; None is what was not given."""

    reference: Model
    candidates: tuple[Model, ...]
    text: Text | None
    schemes: tuple[str, ...]
    noise_floor: bool
    sensitivity: bool
    by_bytes: bool
    tolerance: float | None
    budget: int | None
    passages: bool
    options: PassOptions
    progress: Progress

    @property
    def operands(self) -> tuple[Model, ...]:
        """The reference and the candidates."""
        return (self.reference, *self.candidates)


def check_values(request: Request) -> None:
    """Raise `InvalidValueError` for a tolerance that is none, and for an unknown scheme."""
    tolerance = request.tolerance
    if tolerance is not None:
        TOLERANCES.check("tolerance (--tolerance)", tolerance, " nats/token")
        if request.budget is not None:
            raise InvalidValueError(
                "tolerance (--tolerance) and budget (--budget) choose by different rules: give one"
            )
    for scheme in request.schemes:
        Scheme.parse(scheme)
    for name in named_paths(*request.operands):
        split_scheme(str(name))
    request.options.check_backend(*request.operands)
    request.options.check_device(*request.operands)
    request.options.check_spread(*request.operands, schemes=request.schemes)
    whole = ["--noise-floor"] * request.noise_floor + ["--sensitivity"] * request.sensitivity
    request.options.check_stream(*request.operands, schemes=(*whole, *request.schemes))


def as_tuple(candidates: Model | Sequence[Model]) -> tuple[Model, ...]:
    """The candidates; a pair of a model and its tokenizer is one of them."""
    if isinstance(candidates, str | Path | SizedModel) or hasattr(candidates, "predict"):
        return (candidates,)  # type: ignore[return-value]  # a name or a loaded model
    if isinstance(candidates, tuple) and len(candidates) == 2 and hasattr(candidates[0], "forward"):
        return (candidates,)  # type: ignore[return-value]  # a transformers model and tokenizer
    return tuple(candidates)
