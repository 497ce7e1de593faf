"""Whether processes that share a text or a source read the same tokens with the same models.

Each process cuts the text or samples the source, loads the models and plans the batches by itself,
perhaps on another machine.  Where these differ, rows would be taken for those of others.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from kullback.errors import InvalidValueError
from kullback.evaluation.batches import PlannedBatch
from kullback.evaluation.predictors import Predictor, parts_of, token_budget
from kullback.evaluation.source_corpora import SourceCorpus
from kullback.evaluation.tokenized_text import TokenizedText
from kullback.models.interface import LanguageModel
from kullback.models.placement import is_spread
from kullback.models.weight_matrices import modules_of
from kullback.runtime.weights import weights_sample
from kullback.runtime.workers import ProcessGroup
from kullback.text.fingerprint import text_fingerprint

__all__ = ["check_same_plan", "check_same_reading", "check_same_source", "check_same_tokens"]

CPU = torch.device("cpu")
# What is compared of a model beside its weights, where it has that.
ABOUT = ("name", "vocabulary_size", "context", "dtype", "backend", "file_bytes")


def check_same_tokens(processes: ProcessGroup, tokenized: TokenizedText) -> None:
    """Raise `InvalidValueError` in all processes unless all read the same text and windows.

    Those of a machine read the tokens of one of them, so the text itself is compared, too.
    """
    if processes.world_size > 1:
        parts = _of_text(tokenized)
        parts["the tokens of the text"] += text_fingerprint(tokenized.documents)
        _check_equal(processes, parts)


def check_same_reading(
    processes: ProcessGroup, tokenized: TokenizedText, predictors: Sequence[Predictor]
) -> None:
    """Raise `InvalidValueError` in all processes unless all have the same tokens and models.

    Of weights a sample is compared.
    """
    if processes.world_size > 1:
        parts = _of_text(tokenized)
        for predictor in predictors:
            name = f"the model {predictor.name}"
            parts[name] = parts.get(name, "") + _about(predictor)
        parts["the tokens of a batch"] = str(token_budget(*predictors))
        _check_equal(processes, parts)


def check_same_source(processes: ProcessGroup, model: LanguageModel, corpus: SourceCorpus) -> None:
    """Raise `InvalidValueError` in all processes unless all have the same prefixes and model."""
    if processes.world_size > 1:
        parts = {f"the prefixes of {corpus.name}": corpus.digest()}
        parts[f"the model {model.name}"] = _about(model)
        _check_equal(processes, parts)


def check_same_plan(processes: ProcessGroup, planned: Sequence[PlannedBatch], at_once: int) -> None:
    """Raise `InvalidValueError` in all processes unless all read the same batches."""
    if processes.world_size > 1:
        digest = hashlib.blake2b(f"{at_once} {len(planned)}".encode(), digest_size=16)
        for batch in planned:
            digest.update(np.append(batch.numbers_N, -1).tobytes())
        _check_equal(processes, {"the batches of the text": digest.hexdigest()})


def _of_text(tokenized: TokenizedText) -> dict[str, str]:
    return {
        "the tokens of the text": tokenized.encodings.digest,
        "the windows of the text": tokenized.windows.digest(),
    }


def _about(predictor: Predictor | LanguageModel) -> str:
    """What tells a predictor or model from one that predicts something else."""
    known: list[object] = [getattr(predictor, "device", CPU).type]
    for part in parts_of(predictor):
        if isinstance(part, nn.Module):
            continue  # found in what wraps it
        known.append(type(part).__name__)
        known += [str(getattr(part, name, None)) for name in ABOUT]
        known.append(getattr(getattr(part, "recording", None), "metadata", None))
        known += map(_sample, modules_of(part))
    return repr(known)


def _sample(module: nn.Module) -> str:
    weights = module.state_dict()
    if is_spread(module):  # in each process as its memory allows
        weights = {name: weight.to("meta") for name, weight in weights.items()}
    return weights_sample(weights)


def _check_equal(processes: ProcessGroup, parts: Mapping[str, str]) -> None:
    gathered = processes.gather((socket.gethostname(), dict(parts)))
    host, first = gathered[0]
    for rank, (other, theirs) in enumerate(gathered):
        differing = [name for name, value in first.items() if theirs.get(name) != value]
        if differing:
            raise InvalidValueError(
                f"the processes of torchrun cannot share this work: rank {rank} on {other} and "
                f"rank 0 on {host} differ in {', '.join(differing)}: give each machine the same "
                "files, the same kind of device and the same versions of the libraries"
            )
