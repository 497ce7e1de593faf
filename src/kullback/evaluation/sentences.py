"""Sampled sentences of a source: at each token, the model's and the true distribution."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from kullback.evaluation.predictors import predict_rows
from kullback.models.interface import LanguageModel
from kullback.results.lab import SentenceReport, TokenReport
from kullback.results.source import LanguagePart
from kullback.sources.language import Language
from kullback.text.special_tokens import BOS_ID
from kullback.theory.information import kl_divergence

__all__ = ["sentence_reports"]

TOP_TOKENS = 5


@torch.inference_mode()
def sentence_reports(
    model: LanguageModel, language: Language, part: LanguagePart, n: int, seed: int
) -> tuple[SentenceReport, ...]:
    """`n` sentences that `seed` draws from `language`, which is that `part` of its source."""
    sample = language.sample(n, np.random.default_rng([seed, 2]))
    reports: list[SentenceReport] = []
    for row, length in enumerate(sample.lengths):
        tokens, states = sample.tokens[row, :length], sample.states[row, :length]
        inputs = torch.from_numpy(np.concatenate([[BOS_ID], tokens[:-1]]))[None]
        logits = predict_rows(model, inputs, torch.arange(int(length))).logits(slice(None)).cpu()
        log_q = torch.log_softmax(logits.double(), dim=1).numpy()
        p = language.distributions(states)
        with np.errstate(divide="ignore"):
            kl = kl_divergence(np.log(p), log_q, given="log_probs")
        reports.append(
            SentenceReport(
                language=part,
                tokens=tuple(
                    TokenReport(
                        text=language.vocabulary[token],
                        slot=language.slots[sample.slots[row, t]],
                        surprisal=float(-log_q[t, token]),
                        true_surprisal=float(sample.surprisals[row, t]),
                        kl=float(kl[t]),
                        model_top=_top(language, np.exp(log_q[t])),
                        true_top=_top(language, p[t]),
                    )
                    for t, token in enumerate(tokens)
                ),
            )
        )
    return tuple(reports)


def _top(language: Language, p_V: Float[np.ndarray, "V"]) -> tuple[tuple[str, float], ...]:
    """The most probable tokens, without impossible ones."""
    order = np.argsort(-p_V, kind="stable")[:TOP_TOKENS]
    return tuple((language.vocabulary[i], float(p_V[i])) for i in order if p_V[i])
