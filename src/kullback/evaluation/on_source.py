"""Evaluation on a source whose entropy is known: cross-entropy = entropy + KL, exactly.

At every prefix the source knows the whole distribution p of the next token, so H(p), the
cross-entropy −Σ p log q and KL(p‖q) = Σ p (log p − log q) are sums over the vocabulary, not
estimates from the one token that was sampled; the three are computed independently.  Either all
prefixes enter with their probabilities (the result is exact), or those of sampled sentences (it has
an interval).

Axes: N sentences, T positions of the longest, B sentences of a batch, M positions that count,
K entries of all true distributions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from kullback.errors import InvalidValueError
from kullback.evaluation.source_sums import Batch, SourceSums
from kullback.models.interface import LanguageModel
from kullback.results.source import LanguagePart, PartEvaluation, SourceEvaluation
from kullback.runtime.progress import Progress, Tokens
from kullback.runtime.threads import cores, workers
from kullback.scoring.source_statistics import TrueDistributions, row_statistics
from kullback.sources.catalogue import Source
from kullback.sources.language import Language, Sentences
from kullback.text.special_tokens import BOS_ID

__all__ = ["Corpus", "evaluate_on_source", "evaluate_parts"]

# Positions that the model reads at once: enough to keep it busy, few enough for the cache.
BATCH_POSITIONS = 1 << 13
# Sentences to sample where a language has too many prefixes to enumerate.
SAMPLED_SENTENCES = 20_000


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences of a language, and the weight of each position."""

    sentences: Sentences
    weights: Float[np.ndarray, "N T"]
    exact: bool
    """Whether the weights are those of all prefixes, so that sums over them are exact."""

    @classmethod
    def everything(cls, language: Language) -> Corpus:
        """All prefixes; `InvalidValueError` where there are more than some millions."""
        return cls(*language.enumerate(), exact=True)

    @classmethod
    def sample(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """`sentences` independent sentences, each position counting once."""
        sample = language.sample(sentences, np.random.default_rng(seed))
        return cls(sample, sample.mask.astype(np.float64), exact=False)

    @classmethod
    def best(cls, language: Language, sentences: int, seed: int) -> Corpus:
        """All prefixes where that is feasible, otherwise a sample."""
        try:
            return cls.everything(language)
        except InvalidValueError:
            return cls.sample(language, sentences, seed)


def evaluate_parts(
    model: LanguageModel,
    source: Source,
    sentences: int | None,
    seed: int,
    progress: Progress,
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
        parts.append(evaluate_on_source(model, corpus, progress=progress.tokens, part=part))
    return SourceEvaluation(model=model.name, source=source.name, parts=tuple(parts))


@torch.inference_mode()
def evaluate_on_source(
    model: LanguageModel,
    corpus: Corpus,
    reference: LanguageModel | None = None,
    progress: Tokens = lambda done, total: None,
    part: LanguagePart = "training",
) -> PartEvaluation:
    """Measure `model` on `corpus`, and its KL from `reference` where one is given.

    `progress` is called with the prefixes done and their number; `part` is the part of its source
    that the language of the corpus is.  Raises `InvalidValueError` where the model's vocabulary is
    not the language's.
    """
    sentences, language = corpus.sentences, corpus.sentences.language
    for other in (model, reference):
        if other is not None and other.vocabulary_size != len(language.vocabulary):
            raise InvalidValueError(
                f"{other.name} has a vocabulary of {other.vocabulary_size}, the language "
                f"{language.name} one of {len(language.vocabulary)}: they do not belong together"
            )
    prefixes = int(np.count_nonzero(corpus.weights > 0))
    sums = SourceSums(language, len(sentences), reference is not None)
    with workers(cores()) as pool:
        for batch in pool.map(
            lambda rows: _measure(model, corpus, reference, rows), _batches(sentences)
        ):
            sums.add(batch)
            progress(sums.prefixes, prefixes)
    return sums.evaluation(model.name, part, corpus.exact)


def _measure(
    model: LanguageModel,
    corpus: Corpus,
    reference: LanguageModel | None,
    rows: Int[np.ndarray, "B"],
) -> Batch:
    language = corpus.sentences.language
    inputs, keep, state_M = _inputs(corpus, rows)
    row_K, arc_K = language.arcs_of(state_M)
    truth = TrueDistributions(row_K, language.arc_tokens[arc_K], language.probabilities[arc_K])
    statistics = row_statistics(
        model.predict(inputs).select(keep),
        truth,
        None if reference is None else reference.predict(inputs).select(keep),
    )
    sentence_M = rows[keep.numpy() // inputs.shape[1]]
    weight_M = corpus.weights[rows][:, : inputs.shape[1]].reshape(-1)[keep.numpy()]
    return Batch(statistics, truth, arc_K, state_M, weight_M, sentence_M)


def _batches(sentences: Sentences) -> Iterator[Int[np.ndarray, "B"]]:
    """Row indices, sentences of like length together."""
    order = np.argsort(sentences.lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(sentences.lengths[order[min(start + 512, len(order)) - 1]])
        count = max(1, BATCH_POSITIONS // longest)
        yield order[start : start + count]
        start += count


def _inputs(
    corpus: Corpus, rows: Int[np.ndarray, "B"]
) -> tuple[torch.Tensor, torch.Tensor, Int[np.ndarray, "M"]]:
    """The model's inputs, which positions count, and the true state at each of these."""
    longest = int(corpus.sentences.lengths[rows].max())
    tokens = corpus.sentences.tokens[rows, : longest - 1].astype(np.int64)
    inputs = np.concatenate([np.full((len(rows), 1), BOS_ID), tokens], axis=1)
    keep = np.flatnonzero(corpus.weights[rows, :longest].reshape(-1) > 0)
    language = corpus.sentences.language
    states = language.arc_states[corpus.sentences.arcs[rows, :longest].reshape(-1)[keep]]
    return torch.from_numpy(inputs), torch.from_numpy(keep), states
