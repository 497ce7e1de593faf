"""Rows of a source that a model is measured on again and again while it is trained.

The arithmetic is that of `kullback.evaluate_source`: at every prefix of the rows the whole
distribution of the source enters, so KL(truth‖model) has the noise of the prefixes alone, not that
of the tokens.  Units are nats/token.

Axes: N rows, T positions, M positions that count, V vocabulary.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kullback.errors import InvalidValueError
from kullback.evaluation.source_corpora import (
    Batch,
    Corpus,
    FirstTokens,
    SourceCorpus,
    WindowCorpus,
)
from kullback.evaluation.source_sums import BatchSums, SourceSums
from kullback.models._context import configured_context
from kullback.predictions.base import DensePredictions, at_least_float32
from kullback.results.source import PartEvaluation
from kullback.scoring.source_statistics import row_statistics
from kullback.sources.catalogue import NAMES, AnySource
from kullback.sources.facts import window_of
from kullback.sources.finding import open_named
from kullback.sources.floor import FLOOR, read_floor
from kullback.sources.process import Process
from kullback.sources.sentences import Sentences
from kullback.sources.validation_rows import sampled_rows, validation_rows
from kullback.text.special_tokens import EOS_ID

__all__ = ["FixedRows", "Logits", "logits_of", "open_rows"]

# Logits that are in memory at once, beside those of the training: 8,192 positions of 4,096 columns.
LOGITS_BYTES = 128 << 20
#: From a model and token ids to logits.
Logits: TypeAlias = Callable[[Any, Int[Tensor, "N T"]], Float[Tensor, "N T V"]]


class FixedRows:
    """Some rows of a source, what the source says at each position, and the bytes of their text."""

    def __init__(self, corpus: Corpus | WindowCorpus) -> None:
        self._whole = corpus
        self._model: weakref.ref[nn.Module] | None = None
        """That the batches are for."""
        self._take(corpus)

    def _take(self, corpus: Corpus | WindowCorpus) -> None:
        self._corpus = corpus
        self._batches: list[Batch] = [corpus.batch(rows) for rows in corpus.batches()]
        self.rows: int = corpus.summed.rows
        self.tokens: int = corpus.prefixes
        self.bytes: int = _bytes_of(corpus)

    @property
    def vocabulary_size(self) -> int:
        """How many ids the source has; a model may have more."""
        corpus: SourceCorpus = self._corpus
        return corpus.vocabulary_size

    def first(self, rows: int) -> FixedRows:
        """The first so many of these rows."""
        corpus = self._whole
        weights = corpus.weights[:rows]
        if isinstance(corpus, WindowCorpus):
            return FixedRows(replace(corpus, symbols=corpus.symbols[:rows], weights=weights))
        arcs = corpus.sentences.arcs[:rows]
        sentences = corpus.sentences.language.sentences_of(arcs)
        return FixedRows(replace(corpus, sentences=sentences, weights=weights))

    def evaluation(self, model: nn.Module, logits: Logits, name: str = "model") -> PartEvaluation:
        """CE = H + KL of `model`, which is left in the mode that it was in.

        Rows are cut at the context that the configuration of the model names, and the floor is of
        the tokens before.  Raises `InvalidValueError` where it has fewer ids than the source.
        """
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with torch.no_grad(), _evaluation_mode(model):
            if self._model is None or self._model() is not model:
                self._take(_cut(self._whole, _context_of(model)) or self._whole)
                first = self._batches[0].inputs_BT[:1, :1].to(device)
                self._batches = self._fitting(logits(model, first).shape[-1])
                self._model = weakref.ref(model)
            summed = self._corpus.summed
            sums = SourceSums(summed, has_reference=False)
            for batch in self._batches:
                logits_NTV = logits(model, batch.inputs_BT.to(device))
                self._check(logits_NTV, batch.inputs_BT)
                logits_MV = at_least_float32(logits_NTV.flatten(0, 1).cpu())
                predictions = DensePredictions(logits_MV).select(batch.keep_M)
                statistics = row_statistics(predictions, batch.prefixes.truth)
                sums.add(BatchSums.of(batch.prefixes, statistics, summed))
        return sums.evaluation(name, "training")

    def _fitting(self, columns: int) -> list[Batch]:
        """The batches, smaller where the model has so many more ids that the memory matters."""
        most = LOGITS_BYTES // (4 * columns)
        fitting: list[Batch] = []
        for rows, batch in zip(self._corpus.batches(), self._batches, strict=True):
            count = max(1, most // batch.inputs_BT.shape[1])
            parts = [rows[start : start + count] for start in range(0, len(rows), count)]
            fitting += map(self._corpus.batch, parts) if len(parts) > 1 else [batch]
        return fitting

    def metrics(self, model: nn.Module, logits: Logits) -> dict[str, float]:
        """What the callback logs: nats/token, and bits/byte of the text of the rows."""
        part = self.evaluation(model, logits)
        assert part.floor is not None
        nats = part.cross_entropy.value * self.tokens
        return {
            "cross_entropy": part.cross_entropy.value,
            "floor": part.floor,
            "kl": part.kl.value,
            "kl_standard_error": part.kl.standard_error,
            "bits_per_byte": nats / math.log(2) / self.bytes,
        }

    def _check(self, logits_NTV: Tensor, inputs_NT: Tensor) -> None:
        V = self.vocabulary_size
        if logits_NTV.shape[:-1] != inputs_NT.shape or logits_NTV.shape[-1] < V:
            raise InvalidValueError(
                f"the model gives logits of shape {tuple(logits_NTV.shape)} for "
                f"{tuple(inputs_NT.shape)} tokens, and {self._corpus.name} has {V} ids: train it "
                "with the tokenizer of the export, and give logits= where its forward returns "
                "something else"
            )


def _cut(corpus: Corpus | WindowCorpus, context: int | None) -> Corpus | WindowCorpus | None:
    """The rows as far as a model reads them; None where it reads all."""
    if context is None or corpus.weights.shape[1] <= context:
        return None
    if isinstance(corpus, WindowCorpus):
        symbols, weights = corpus.symbols[:, :context], corpus.weights[:, :context]
        return replace(corpus, symbols=symbols, weights=weights)
    return FirstTokens.of(corpus, context)


def _context_of(model: nn.Module) -> int | None:
    """The longest input that the configuration of a model of transformers names."""
    config: Any = getattr(model, "config", None)  # transformers has no types
    if not hasattr(config, "get_text_config"):
        return None
    return configured_context(config.get_text_config(decoder=True))


def open_rows(
    source: str | Path | AnySource, rows: int, window: int | None, seed: int
) -> FixedRows:
    """The first `rows` sentences of the validation split of an export, or a sample.

    A source without a validation split on disk is sampled with `seed`, and so is a process, whose
    exported windows follow one another: such rows are as independent of the training split.
    Raises `InvalidValueError` for an unknown source.
    """
    folder: Path | None = None
    exported: int | None = None
    opened: AnySource
    if isinstance(source, str | Path):
        opened, exported = open_named(str(source))
        folder = _export_of(str(source))
    else:
        opened = source
    size = window_of(opened, exported if window is None else window)
    kept: Sentences | Int[np.ndarray, "N T"] | None = None
    if folder is not None and not isinstance(opened, Process):
        kept = validation_rows(folder, opened, rows)
    if kept is None:
        kept = sampled_rows(opened, rows, size, seed)
    if isinstance(kept, np.ndarray):
        assert isinstance(opened, Process)
        inputs = kept[:, :-1]
        return FixedRows(WindowCorpus(opened, inputs, np.ones(inputs.shape), exact=False))
    return FixedRows(Corpus(kept, kept.mask.astype(np.float64), exact=False))


def _export_of(name: str) -> Path | None:
    """The folder of an export by its name or that of its ``floor.json``; None for a source."""
    path = Path(name)
    if name in NAMES or not (path.is_dir() or path.name == FLOOR):
        return None
    return read_floor(path).path.parent


def logits_of(model: Any, inputs_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T V"]:
    """The logits of a model of transformers, or of a module whose forward returns them."""
    if hasattr(model, "config"):
        output = model(input_ids=inputs_NT, use_cache=False)
    else:
        output = model(inputs_NT)
    if isinstance(output, tuple):
        output = output[0]
    logits: Tensor = getattr(output, "logits", output)
    return logits


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout; each module is put back into the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _bytes_of(corpus: Corpus | WindowCorpus) -> int:
    """The bytes of the scored text: a space or the end of the line belongs to each token."""
    if isinstance(corpus, WindowCorpus):
        # What a window predicts begins after its first symbol and has one more at its end, which
        # is not fixed: its length is an expectation of the source.
        sizes = np.array([len(symbol.encode()) + 1 for symbol in corpus.process.symbols])
        within = int(sizes[corpus.symbols[:, 1:]].sum())
        p_NV = corpus.process.predictor.distributions(corpus.symbols)[:, -1]
        return within + round(float((p_NV @ sizes).sum()))
    sizes = np.array([len(word.encode()) + 1 for word in corpus.sentences.language.vocabulary])
    sizes[EOS_ID] = 0  # the end of the line is counted with the last word
    empty = int((corpus.sentences.lengths == 1).sum())
    return int(sizes[corpus.sentences.tokens[corpus.sentences.mask]].sum()) + empty
