"""kullback: train, evaluate, compare and quantise language models with every nat accounted for.

cross-entropy = entropy + KL.  What `__all__` names is public and loaded when it is first used; this
module alone imports neither NumPy nor torch::

    import kullback as kb

    result = kb.evaluate("gpt2", text="book.txt", window=1024)
    result.perplexity.interval, float(result.bits_per_byte), result.tokens.to_pandas()
    kb.compare("m", ["m@int8", "m@int4-g32"], text="book.txt", noise_floor=True).ranking.to_pandas()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kullback.errors import (
    InvalidValueError,
    KullbackError,
    MissingExtraError,
    RunError,
)

if TYPE_CHECKING:
    from kullback import sources
    from kullback.comparison.compare import compare
    from kullback.evaluation.evaluate import evaluate
    from kullback.evaluation.evaluate_source import evaluate_source
    from kullback.evaluation.record import record
    from kullback.ladder.scaling import scaling
    from kullback.models.load import load_sized as load_model
    from kullback.models.quantise import quantise
    from kullback.models.train import train_model as train
    from kullback.results.comparison import Comparison
    from kullback.results.evaluation import Evaluation
    from kullback.results.lab import LabResults
    from kullback.results.measurement import Measurement
    from kullback.results.scaling import Scaling
    from kullback.results.source import SourceEvaluation
    from kullback.results.training import TrainingRun
    from kullback.text.documents import Document
    from kullback.uncertainty.intervals import mean_with_interval

__all__ = [
    "Comparison",
    "Document",
    "Evaluation",
    "InvalidValueError",
    "KullbackError",
    "LabResults",
    "Measurement",
    "MissingExtraError",
    "RunError",
    "Scaling",
    "SourceEvaluation",
    "TrainingRun",
    "compare",
    "evaluate",
    "evaluate_source",
    "load_model",
    "mean_with_interval",
    "quantise",
    "record",
    "scaling",
    "sources",
    "train",
]

__version__ = "0.2.0"

# Where each public name is, and what it is called there if that differs.
_PLACES = {
    "Comparison": "kullback.results.comparison",
    "Document": "kullback.text.documents",
    "Evaluation": "kullback.results.evaluation",
    "LabResults": "kullback.results.lab",
    "Measurement": "kullback.results.measurement",
    "Scaling": "kullback.results.scaling",
    "SourceEvaluation": "kullback.results.source",
    "TrainingRun": "kullback.results.training",
    "compare": "kullback.comparison.compare",
    "evaluate": "kullback.evaluation.evaluate",
    "evaluate_source": "kullback.evaluation.evaluate_source",
    "load_model": "kullback.models.load:load_sized",
    "mean_with_interval": "kullback.uncertainty.intervals",
    "quantise": "kullback.models.quantise",
    "record": "kullback.evaluation.record",
    "scaling": "kullback.ladder.scaling",
    "sources": "kullback:sources",
    "train": "kullback.models.train:train_model",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        from kullback.runtime.wording import suggestion

        meant = "" if name.startswith("_") else suggestion(name, __all__)
        raise AttributeError(f"module 'kullback' has no attribute {name!r}{meant}")
    module, _, own_name = _PLACES[name].partition(":")
    value: object = (
        import_module(f"kullback.{own_name}")
        if module == "kullback"
        else getattr(import_module(module), own_name or name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
