"""Evaluation on a source whose entropy is known: cross-entropy = entropy + KL, exactly.

At every prefix the source knows the whole distribution p of the next token, so H(p), the
cross-entropy −Σ p log q and KL(p‖q) = Σ p (log p − log q) are sums over the vocabulary, not
estimates from the one token that was sampled; the three are computed independently.  Either all
prefixes enter with their probabilities (the result is exact), or those of sampled sentences (it has
an interval).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.evaluation.agreement import check_same_source
from kullback.evaluation.predictors import inputs_at_once, predict_rows
from kullback.evaluation.source_corpora import (
    Batch,
    Corpus,
    FirstTokens,
    SourceCorpus,
    WindowCorpus,
)
from kullback.evaluation.source_sums import BatchSums, SourceSums
from kullback.models.interface import LanguageModel, Sharing
from kullback.models.llama_cpp import LlamaCppModel
from kullback.predictions.base import Predictions, joined
from kullback.results.evaluation import NonZeroRank
from kullback.results.source import LanguagePart, PartEvaluation, SourceEvaluation
from kullback.runtime.progress import Progress, Tokens
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.source_statistics import row_statistics
from kullback.sources.catalogue import Source
from kullback.sources.language import Language
from kullback.sources.process import Process

__all__ = ["Corpus", "evaluate_on_process", "evaluate_on_source", "evaluate_parts", "source_sums"]

# Sentences to sample where a language has too many prefixes to enumerate.
SAMPLED_SENTENCES = 20_000


def evaluate_parts(
    model: LanguageModel,
    source: Source,
    sentences: int | None,
    seed: int,
    progress: Progress,
    padded: bool = False,
    processes: ProcessGroup | None = None,
) -> SourceEvaluation | NonZeroRank:
    """Measure `model` on the training language of `source`, and on the held-out one if it has one.

    All prefixes are read where that is feasible, or a sample of so many `sentences`, drawn with
    `seed`.  `progress` has a stage for each part, and its prefixes as tokens.  The `processes`
    share the prefixes; rank 0 has the result.
    """
    processes = processes or ProcessGroup()
    languages: dict[LanguagePart, Language | None] = {
        "training": source.training,
        "held out": source.held_out,
    }
    parts = []
    for part, language in languages.items():
        if language is None:
            continue
        if sentences:
            corpus = Corpus.sample(language, sentences, seed)
        else:
            corpus = Corpus.best(language, SAMPLED_SENTENCES, seed)
        progress.stage(f"evaluating {model.name} on {language.name}")
        corpus = _cut(model, corpus, progress)
        sums = source_sums(model, corpus, None, progress.tokens, padded, processes)
        if processes.is_rank_zero:
            parts.append(sums.evaluation(model.name, part))
    if not processes.is_rank_zero:
        return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
    return SourceEvaluation(model=model.name, source=source.name, parts=tuple(parts))


def evaluate_on_process(
    model: LanguageModel,
    process: Process,
    window: int,
    windows: int | None,
    seed: int,
    progress: Progress,
    padded: bool = False,
    processes: ProcessGroup | None = None,
) -> SourceEvaluation | NonZeroRank:
    """Measure `model` on windows of `window` symbols, the first of which is given.

    All windows are read where that is feasible, or a sample of so many `windows`, drawn with
    `seed`.  The `processes` share them; rank 0 has the result.
    """
    processes = processes or ProcessGroup()
    corpus = None if windows else WindowCorpus.everything(process, window)
    if corpus is None:
        corpus = WindowCorpus.sample(process, window, windows, seed)
    progress.stage(f"evaluating {model.name} on {process.name}")
    sums = source_sums(model, corpus, None, progress.tokens, padded, processes)
    if not processes.is_rank_zero:
        return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
    part = sums.evaluation(model.name, "training")
    return SourceEvaluation(model=model.name, source=process.name, parts=(part,))


def _cut(model: LanguageModel, corpus: Corpus, progress: Progress) -> Corpus:
    """The corpus, whose sentences end where the model's context ends, as in training; noted."""
    context = getattr(model, "context", None)
    if context is None or int(corpus.sentences.lengths.max()) <= context:
        return corpus
    beyond = float(corpus.weights[:, context:].sum() / corpus.weights.sum())
    progress.note(
        f"{model.name} reads {context} tokens: longer sentences of {corpus.name} are cut there, "
        f"and {100 * beyond:.2g} % of the tokens are not measured; the floor is of the others"
    )
    return FirstTokens.of(corpus, context)


def evaluate_on_source(
    model: LanguageModel,
    corpus: SourceCorpus,
    reference: LanguageModel | None = None,
    progress: Tokens = lambda done, total: None,
    part: LanguagePart = "training",
) -> PartEvaluation:
    """Measure `model` on `corpus`, and its KL from `reference` where one is given.

    `part` is the part of its source that the language of the corpus is.  Otherwise, and raises, as
    `source_sums`.
    """
    return source_sums(model, corpus, reference, progress).evaluation(model.name, part)


@torch.inference_mode()
def source_sums(
    model: LanguageModel,
    corpus: SourceCorpus,
    reference: LanguageModel | None = None,
    progress: Tokens = lambda done, total: None,
    padded: bool = False,
    processes: ProcessGroup | None = None,
) -> SourceSums:
    """The sums of `model` over `corpus`, which `processes` share; on non-zero ranks of nothing.

    `progress` is called with the prefixes done and their number; `padded` allows ids beyond those
    of the language, as of a model whose embeddings were padded: what they get counts as KL.  Raises
    `InvalidValueError` where the model's vocabulary is another one, and where processes do not read
    the same.
    """
    for other in (model, reference):
        if other is None or other.vocabulary_size == corpus.vocabulary_size:
            continue
        if not padded or other.vocabulary_size < corpus.vocabulary_size:
            raise InvalidValueError(
                f"{other.name} has a vocabulary of {other.vocabulary_size}, the language "
                f"{corpus.name} one of {corpus.vocabulary_size}: they do not belong together"
            )
    processes, prefixes, summed = processes or ProcessGroup(), corpus.prefixes, corpus.summed
    check_same_source(processes, model, corpus)
    sums = SourceSums(summed, reference is not None)

    @torch.inference_mode()  # a setting of the thread
    def measured(rows: Int[np.ndarray, "B"]) -> BatchSums:
        batch = corpus.batch(rows)
        statistics = row_statistics(
            _predictions(model, batch),
            batch.prefixes.truth,
            None if reference is None else _predictions(reference, batch),
        )
        return BatchSums.of(batch.prefixes, statistics, summed)

    at_once = inputs_at_once(model, reference)
    for batch in processes.map(measured, list(corpus.batches()), at_once, at_once == 1):
        sums.add(batch)
        progress(sums.prefixes, prefixes)
    return sums


def _predictions(model: LanguageModel, batch: Batch) -> Predictions:
    """The predictions at the positions that count, each row read as it may share a batch."""
    sharing, T = getattr(model, "sharing", None), batch.inputs_BT.shape[1]
    # llama.cpp reads the rows of a batch one after the other itself.
    allowed: Sharing = "padded"
    if sharing is not None and not isinstance(model, LlamaCppModel):
        allowed = sharing(T)
    if allowed == "padded":
        return predict_rows(model, batch.inputs_BT, batch.keep_M)
    row_M, position_M = batch.keep_M // T, batch.keep_M % T
    last_of_row = dict(zip(row_M.tolist(), position_M.tolist(), strict=True))
    if allowed == "equal lengths" and set(last_of_row.values()) == {T - 1}:
        return predict_rows(model, batch.inputs_BT, batch.keep_M)
    return joined(
        [
            predict_rows(model, batch.inputs_BT[row, None, : last + 1], position_M[row_M == row])
            for row, last in last_of_row.items()
        ]
    )
