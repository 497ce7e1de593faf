"""Sentences from a model follow its distribution."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from kullback.errors import InvalidValueError
from kullback.sources.language import Language
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.training.sampling import generate
from tiny_runs import trained, weather


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model of the tiny language."""
    run = tmp_path_factory.mktemp("generate") / "run"
    trained(run)
    return run


@pytest.fixture(scope="module")
def gpt(run: Path) -> GPT:
    """Return the trained model."""
    from kullback.training.run_folder import load_model

    return load_model(run)


@pytest.fixture(scope="module")
def language(run: Path) -> Language:
    """Return the language it was trained on."""
    return weather(run.parent).source.training


def next_log_probs(gpt: GPT, prefix: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Return log q(token | prefix), without the beginning token, which is never generated."""
    with torch.no_grad():
        logits = gpt(torch.tensor([[0, *prefix]]))[0, -1].double() / temperature
    logits[0] = -torch.inf
    return torch.log_softmax(logits, dim=0)


def test_temperature_zero_takes_the_most_probable_token(gpt: GPT):
    """At temperature 0 every token is the argmax, whatever the seed."""
    expected: list[int] = []
    while len(expected) < gpt.config.context:
        token = int(next_log_probs(gpt, expected).argmax())
        if token == 1:
            break
        expected.append(token)
    assert len(expected) >= 2
    for seed in range(3):
        sentences = generate(gpt, [], 2, np.random.default_rng(seed), temperature=0)
        assert sentences == [expected, expected]


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_sentences_come_as_often_as_the_model_says(gpt: GPT, temperature: float):
    """Counts of 4,000 sentences fit the model's probabilities (chi-square, p > 0.001)."""
    drawn = generate(gpt, [], 4000, np.random.default_rng(0), temperature)
    counts = Counter(tuple(sentence) for sentence in drawn)
    observed, expected = [], []
    for sentence, count in counts.items():
        log_q = (
            sum(
                next_log_probs(gpt, list(sentence[:t]), temperature)[token].item()
                for t, token in enumerate([*sentence, 1])
            )
            if len(sentence) + 1 < gpt.config.context
            else -math.inf
        )
        if 4000 * math.exp(log_q) >= 5:
            observed.append(count)
            expected.append(4000 * math.exp(log_q))
    assert len(observed) > 8
    observed.append(4000 - sum(observed))
    expected.append(4000 - sum(expected))
    assert chisquare(observed, expected).pvalue > 0.001


def test_a_low_temperature_sharpens(gpt: GPT):
    """Near temperature 0 the sample is the most probable sentence, down to the smallest number."""
    best = generate(gpt, [], 1, np.random.default_rng(0), temperature=0)
    for temperature in (1e-3, 1e-300, 5e-324):
        assert generate(gpt, [], 1, np.random.default_rng(1), temperature) == best


def test_prompts_are_kept_and_continued(gpt: GPT, language: Language):
    """Every sentence begins with the prompt, and continues as the language does after it."""
    prompt = language.encode("today the sun")
    sentences = generate(gpt, prompt, 20, np.random.default_rng(0))
    assert all(sentence[:3] == prompt for sentence in sentences)
    assert sum(sentence[3:4] == language.encode("shines") for sentence in sentences) >= 18


def test_sentences_end_where_the_model_ends_them(gpt: GPT, language: Language):
    """The end token ends a sentence and is not part of it, nor is the beginning token."""
    sentences = generate(gpt, [], 200, np.random.default_rng(0))
    assert not {0, 1} & {token for sentence in sentences for token in sentence}
    possible = {" ".join(language.vocabulary[t] for t in sentence) for sentence in sentences}
    assert {"today it rains", "ayer llovió"} <= possible


def test_sentences_end_with_the_context():
    """A model that never ends is stopped after the token that follows a full context."""
    gpt = GPT(GPTConfig(5, context=9, width=8, layers=1, heads=1, mlp_width=8), seed=0)
    with torch.no_grad():
        gpt.model.norm.weight.zero_()
        gpt.model.norm.weight[0] = 100.0
        gpt.head_weight[:, 0] = torch.tensor([0.0, -9.0, 1.0, 1.0, 1.0])
        gpt.head_weight[0, 0] = 1.0
    sentences = generate(gpt, [2], 3, np.random.default_rng(0), temperature=0)
    assert [len(sentence) for sentence in sentences] == [9, 9, 9]
    (continued,) = generate(gpt, [2] * 8, 1, np.random.default_rng(0), temperature=0)
    assert len(continued) == 9
    (without,) = generate(gpt, [2] * 9, 1, np.random.default_rng(0), 0, (None, None))
    assert len(without) == 10


def test_equal_seeds_give_equal_sentences(gpt: GPT):
    """The generator decides: the same seed the same sentences, another seed others."""
    first, again, other = (generate(gpt, [], 50, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("prompt", "n", "temperature", "message"),
    [
        ([], 0, 1.0, "n is 0: "),
        ([], 10**9, 1.0, "1,000,000,000 sentences of 1 tokens at once would take"),
        ([], 10**10, 1.0, "n is 10000000000: it must be a whole number of at least 1 and"),
        ([], 1, -0.5, "temperature is -0.5: it must be a number of at least 0"),
        ([], 1, math.nan, "temperature is nan: it must be a number of at least 0"),
        ([], 1, math.inf, "temperature is inf: it must be a number of at least 0"),
        ([2] * 40, 1, 1.0, "the prompt has 40 tokens: the model's context is 16, and"),
        ([2, 99], 1, 1.0, "prompt[1] is 99: the model's ids are 0 to "),
    ],
)
def test_impossible_wishes(gpt: GPT, prompt: list[int], n: int, temperature: float, message: str):
    """An impossible wish is an error that names the value."""
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        generate(gpt, prompt, n, np.random.default_rng(0), temperature)
