"""Claims: the exact KL is the sum over all prefixes, and the sampled KL's interval covers it.

A small language and an untrained mini-GPT in float64.  The exact KL is compared with a sum over all
sentences of the language, which shares no code with it; the 95 % intervals of 100 samples must
cover it at least 90 times.

Run it: ``python benchmarks/kl_coverage.py``
"""

from __future__ import annotations

import numpy as np
import torch

from kullback.evaluation.on_source import Corpus, evaluate_on_source
from kullback.models.mini_gpt import GPTModel
from kullback.sources.conjugation_source import ConjugationSource
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig

SEEDS = 100
SENTENCES = 200


def by_hand(gpt: GPT, language) -> float:
    """KL per token: the mean of log p(sentence) - log q(sentence), divided by the mean length."""
    sentences, _ = language.enumerate()
    rows: dict[tuple[int, ...], float] = {}
    for row in range(len(sentences)):
        ids = tuple(int(t) for t in sentences.tokens[row, : sentences.lengths[row]])
        with torch.inference_mode():
            log_q = torch.log_softmax(gpt(torch.tensor([[0, *ids[:-1]]]))[0], dim=1)
        surprisal = float(sentences.surprisals[row].sum())
        rows[ids] = -surprisal - float(log_q[torch.arange(len(ids)), torch.tensor(ids)].sum())
    p = {ids: np.exp(language.sentence_log_prob(list(ids))) for ids in rows}
    tokens = sum(p[ids] * len(ids) for ids in rows)
    return sum(p[ids] * excess for ids, excess in rows.items()) / tokens


def main() -> None:
    language = ConjugationSource(("go",)).training
    config = GPTConfig(len(language.vocabulary), 32, width=16, layers=1, heads=1, mlp_width=16)
    gpt = GPT(config, seed=1).double()
    for weight in gpt.parameters():  # away from uniform, so that the KL is not small
        weight.data.mul_(3.0)
    model = GPTModel(gpt)
    exact = evaluate_on_source(model, Corpus.everything(language)).kl.value
    off = abs(exact - by_hand(gpt, language))
    verdict = "holds" if off <= 1e-9 else "FAILS"
    print(f"exact KL {exact:.12f}, off the sum over sentences by {off:.1e}; goal 1e-9: {verdict}")
    covered = 0
    for seed in range(SEEDS):
        low, high = evaluate_on_source(model, Corpus.sample(language, SENTENCES, seed)).kl.interval
        covered += low <= exact <= high
    verdict = "holds" if covered >= 90 else "FAILS"
    print(f"its 95 % interval covers it in {covered} of {SEEDS} samples; goal 90: {verdict}")


if __name__ == "__main__":
    main()
