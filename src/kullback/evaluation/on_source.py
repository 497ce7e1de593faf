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
from kullback.evaluation.predictors import inputs_at_once, predict_rows
from kullback.evaluation.source_corpora import Batch, Corpus, SourceCorpus, WindowCorpus
from kullback.evaluation.source_sums import Prefixes, SourceSums
from kullback.models.interface import LanguageModel, Sharing
from kullback.models.llama_cpp import LlamaCppModel
from kullback.predictions.base import Predictions, joined
from kullback.results.source import LanguagePart, PartEvaluation, SourceEvaluation
from kullback.runtime.progress import Progress, Tokens
from kullback.runtime.threads import cores, workers
from kullback.scoring.source_statistics import RowStatistics, row_statistics
from kullback.sources.catalogue import Source
from kullback.sources.language import Language
from kullback.sources.process import Process

__all__ = ["Corpus", "evaluate_on_process", "evaluate_on_source", "evaluate_parts"]

# Sentences to sample where a language has too many prefixes to enumerate.
SAMPLED_SENTENCES = 20_000


def evaluate_parts(
    model: LanguageModel,
    source: Source,
    sentences: int | None,
    seed: int,
    progress: Progress,
    padded: bool = False,
) -> SourceEvaluation:
    """Measure `model` on the training language of `source`, and on the held-out one if it has one.

    All prefixes are read where that is feasible, or a sample of so many `sentences`, drawn with
    `seed`.  `progress` has a stage for each part, and its prefixes as tokens.
    """
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
        parts.append(evaluate_on_source(model, corpus, None, progress.tokens, part, padded))
    return SourceEvaluation(model=model.name, source=source.name, parts=tuple(parts))


def evaluate_on_process(
    model: LanguageModel,
    process: Process,
    window: int,
    windows: int | None,
    seed: int,
    progress: Progress,
    padded: bool = False,
) -> SourceEvaluation:
    """Measure `model` on windows of `window` symbols, the first of which is given.

    All windows are read where that is feasible, or a sample of so many `windows`, drawn with
    `seed`.
    """
    corpus = None if windows else WindowCorpus.everything(process, window)
    if corpus is None:
        corpus = WindowCorpus.sample(process, window, windows, seed)
    progress.stage(f"evaluating {model.name} on {process.name}")
    part = evaluate_on_source(model, corpus, None, progress.tokens, padded=padded)
    return SourceEvaluation(model=model.name, source=process.name, parts=(part,))


def _cut(model: LanguageModel, corpus: Corpus, progress: Progress) -> Corpus:
    """The corpus, whose sentences end where the model's context ends, as in training; noted."""
    context = getattr(model, "context", None)
    if context is None or int(corpus.sentences.lengths.max()) <= context:
        return corpus
    beyond = float(corpus.weights[:, context:].sum() / corpus.weights.sum())
    progress.note(
        f"{model.name} reads {context} tokens: longer sentences of {corpus.name} are cut there, "
        f"and {100 * beyond:.2g} % of the tokens are not measured; the floor is of all of them"
    )
    sentences = corpus.sentences.language.sentences_of(corpus.sentences.arcs[:, :context])
    return Corpus(sentences, corpus.weights[:, :context], corpus.exact)


@torch.inference_mode()
def evaluate_on_source(
    model: LanguageModel,
    corpus: SourceCorpus,
    reference: LanguageModel | None = None,
    progress: Tokens = lambda done, total: None,
    part: LanguagePart = "training",
    padded: bool = False,
) -> PartEvaluation:
    """Measure `model` on `corpus`, and its KL from `reference` where one is given.

    `progress` is called with the prefixes done and their number; `part` is the part of its source
    that the language of the corpus is; `padded` allows ids beyond those of the language, as of a
    model whose embeddings were padded: what they get counts as KL.  Raises `InvalidValueError`
    where the model's vocabulary is another one.
    """
    for other in (model, reference):
        if other is None or other.vocabulary_size == corpus.vocabulary_size:
            continue
        if not padded or other.vocabulary_size < corpus.vocabulary_size:
            raise InvalidValueError(
                f"{other.name} has a vocabulary of {other.vocabulary_size}, the language "
                f"{corpus.name} one of {corpus.vocabulary_size}: they do not belong together"
            )
    prefixes = corpus.prefixes
    sums = SourceSums(corpus.summed, reference is not None)

    def measured(rows: Int[np.ndarray, "B"]) -> tuple[Prefixes, RowStatistics]:
        batch = corpus.batch(rows)
        statistics = row_statistics(
            _predictions(model, batch),
            batch.prefixes.truth,
            None if reference is None else _predictions(reference, batch),
        )
        return batch.prefixes, statistics

    at_once = inputs_at_once(model, reference)
    with workers(at_once, cores_each=cores() // at_once) as pool:
        for batch in pool.map(measured, corpus.batches()):
            sums.add(*batch)
            progress(sums.prefixes, prefixes)
    return sums.evaluation(model.name, part)


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
