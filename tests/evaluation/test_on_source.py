"""Evaluation of a model on a language that is known exactly."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_threads import in_ranks

from kullback.errors import InvalidValueError
from kullback.evaluation import source_corpora
from kullback.evaluation.on_source import Corpus, evaluate_on_source, evaluate_parts
from kullback.evaluation.source_sums import BatchSums
from kullback.models.interface import Sharing
from kullback.models.mini_gpt import GPTModel
from kullback.predictions.base import DensePredictions, Predictions
from kullback.results.evaluation import NonZeroRank
from kullback.results.source import SourceEvaluation
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.sources.catalogue import open_source
from kullback.sources.language import Language
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from kullback.uncertainty.intervals import mean_with_interval
from other_device import OtherModel, use_other_device
from tiny_runs import exact_kl, weather


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    """Eleven sentences about the weather."""
    return weather(tmp_path_factory.mktemp("weather")).source.training


def random_model(language: Language) -> GPTModel:
    """An untrained mini-GPT, in float64, away from uniform."""
    gpt = GPT(GPTConfig(len(language.vocabulary), 16, 16, 1, 2, 16), seed=1).double()
    for weight in gpt.parameters():
        weight.data.mul_(4.0)
    return GPTModel(gpt)


@pytest.fixture(scope="module")
def model(language: Language) -> GPTModel:
    """Such a model of the weather."""
    return random_model(language)


# *Cut* is present and past: "we cut today" is said in two ways, and the prefix "we cut" too.
AMBIGUOUS = """
name = "ambiguous"
[rules]
sentence = [{ p = 0.6, then = "we <present>" }, { p = 0.4, then = "we <past>" }]
present = [{ p = 0.5, then = "cut <now>" }, { p = 0.5, then = "go <now>" }]
past = [{ p = 0.7, then = "cut <before>" }, { p = 0.3, then = "went <before>" }]
now = [{ p = 0.5, then = "today" }, { p = 0.3, then = "daily" }, { p = 0.2, then = "" }]
before = [{ p = 0.25, then = "today" }, { p = 0.75, then = "once" }]
"""


def sentences_of_ambiguous() -> dict[tuple[str, ...], float]:
    """Its sentences, written out from the rules: equal strings are added up."""
    probabilities: Counter[tuple[str, ...]] = Counter()
    for p_tense, forms, cues in (
        (0.6, {"cut": 0.5, "go": 0.5}, {"today": 0.5, "daily": 0.3, "": 0.2}),
        (0.4, {"cut": 0.7, "went": 0.3}, {"today": 0.25, "once": 0.75}),
    ):
        for form, p_form in forms.items():
            for cue, p_cue in cues.items():
                words = tuple(word for word in ("we", form, cue, "</s>") if word)
                probabilities[words] += p_tense * p_form * p_cue
    return dict(probabilities)


@dataclass
class Oracle:
    """A model that says what the language says at each prefix, changed by `change`."""

    language: Language
    change: float = 0.0
    name: str = "the language itself"

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.language.vocabulary)

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """The true conditionals."""
        rows = []
        for sentence in inputs_NT.tolist():
            for t in range(len(sentence)):
                try:
                    p = self.language.next_token_distribution(tuple(sentence[1 : t + 1]))
                except ValueError:  # padding after the end is not counted
                    p = np.full(self.vocabulary_size, 1 / self.vocabulary_size)
                with np.errstate(divide="ignore"):
                    rows.append(np.log(p) + self.change * np.arange(len(p)))
        return DensePredictions(torch.from_numpy(np.array(rows)))


def test_exact_kl_is_the_sum_over_all_prefixes(language, model):
    """The measured KL equals a sum over all prefixes, written out, to 1e-9."""
    result = evaluate_on_source(model, Corpus.everything(language))
    assert result.exact
    assert result.prefixes == language.number_of_prefixes
    assert result.kl.value == pytest.approx(exact_kl(model.gpt, language), abs=1e-9)
    assert result.entropy.value == pytest.approx(language.entropy_per_token, abs=1e-12)


def test_kl_and_entropy_are_those_of_listed_sentences(tmp_path: Path):
    """Against sentences listed from the rules, without the source's own sums: equal to 1e-9."""
    path = tmp_path / "ambiguous.toml"
    path.write_text(AMBIGUOUS, encoding="utf-8")
    language = open_source(str(path)).training
    model = random_model(language)
    masses: Counter[tuple[str, ...]] = Counter()
    for words, p in sentences_of_ambiguous().items():
        for t in range(len(words) + 1):
            masses[words[:t]] += p
    number = {word: i for i, word in enumerate(language.vocabulary)}
    entropies, divergences, tokens = [], [], []
    for longer, mass in masses.items():
        if not longer:
            continue
        prefix, word = longer[:-1], longer[-1]
        ids = torch.tensor([[0, *(number[token] for token in prefix)]])
        with torch.no_grad():
            logits = model.gpt(ids)[0, -1].tolist()
        log_q = logits[number[word]] - math.log(math.fsum(map(math.exp, logits)))
        log_p = math.log(mass / masses[prefix])
        entropies.append(-mass * log_p)
        divergences.append(mass * (log_p - log_q))
        tokens.append(mass)
    result = evaluate_on_source(model, Corpus.everything(language))
    total = math.fsum(tokens)
    assert result.kl.value == pytest.approx(math.fsum(divergences) / total, abs=1e-9)
    assert result.entropy.value == pytest.approx(math.fsum(entropies) / total, abs=1e-12)
    assert result.kl.value > 0.1


def test_cross_entropy_is_entropy_plus_kl(language, model):
    """CE − (H + KL) is rounding, overall and in each slot, and the slots add up to the total."""
    result = evaluate_on_source(model, Corpus.everything(language))
    assert abs(result.identity_residual) < 1e-12
    per_sentence = language.tokens_per_sentence
    for name in ("cross_entropy", "entropy", "kl"):
        parts = sum(slot.tokens_per_sentence * getattr(slot, name) for slot in result.by_slot)
        assert parts == pytest.approx(getattr(result, name).value * per_sentence, rel=1e-9)
    tokens = sum(slot.tokens_per_sentence for slot in result.by_slot)
    assert tokens == pytest.approx(per_sentence, rel=1e-12)


def test_a_sample_has_its_own_tokens_per_sentence(language, model):
    """The slots of a few sentences add up to their tokens: each has one end, not 0.98 of one."""
    corpus = Corpus.sample(language, 7, seed=3)
    result = evaluate_on_source(model, corpus)
    assert corpus.prefixes / 7 != pytest.approx(language.tokens_per_sentence, rel=1e-3)
    tokens = sum(slot.tokens_per_sentence for slot in result.by_slot)
    assert tokens == pytest.approx(corpus.prefixes / 7, rel=1e-12)


def test_the_sampled_interval_covers_the_exact_kl(language, model):
    """The 95 % interval of a sample holds the exact KL in at least 90 of 100 seeds."""
    exact = evaluate_on_source(model, Corpus.everything(language)).kl.value
    covered = 0
    for seed in range(100):
        result = evaluate_on_source(model, Corpus.sample(language, 60, seed)).kl
        low, high = result.interval
        covered += low <= exact <= high
    assert 90 <= covered <= 99


def test_a_sample_is_no_batch_of_the_training(tmp_path: Path):
    """Of the same seed and size, it has not the sentences that a run or an export begins with."""
    batches = weather(tmp_path, sentences=64)
    language = batches.source.training
    sampled = Corpus.sample(language, 64, batches.seed).sentences.arcs.tolist()
    exported = language.sample(64, np.random.default_rng(batches.seed)).arcs.tolist()
    trained = [language.sample(64, np.random.default_rng([0, step])).arcs for step in range(5)]
    assert sampled != exported
    assert all(sampled != arcs.tolist() for arcs in trained)


def test_the_truth_has_no_kl(language):
    """The language itself as a model is at KL 0 to rounding; its accuracy is the best possible."""
    result = evaluate_on_source(Oracle(language), Corpus.everything(language))
    assert abs(result.kl.value) < 1e-14
    assert result.cross_entropy.value == pytest.approx(language.entropy_per_token, rel=1e-12)
    assert result.top1_accuracy == pytest.approx(result.best_top1_accuracy, rel=1e-12)
    assert result.ece < 1e-12
    assert result.perplexity == pytest.approx(math.exp(language.entropy_per_token))


def test_a_model_against_itself_is_exactly_zero(language, model):
    """As its own reference a model has KL 0 and agreement 1, exactly, and so has each slot."""
    result = evaluate_on_source(model, Corpus.everything(language), reference=model)
    assert result.kl_from_reference is not None
    assert result.kl_from_reference.value == 0.0
    assert result.top1_agreement == pytest.approx(1.0, abs=1e-15)
    assert all(slot.kl_from_reference == 0.0 for slot in result.by_slot)


def test_kl_from_a_reference(language, model):
    """The KL from the truth as the reference is the KL from the truth."""
    result = evaluate_on_source(model, Corpus.everything(language), reference=Oracle(language))
    assert result.kl_from_reference is not None
    assert result.kl_from_reference.value == pytest.approx(result.kl.value, rel=1e-9)


def test_accuracies_by_brute_force(language, model):
    """Top-1 and top-5 accuracy and the ECE equal sums over all prefixes."""
    corpus = Corpus.everything(language)
    result = evaluate_on_source(model, corpus)
    total = top1 = top5 = 0.0
    confidences, accuracies, weights = [], [], []
    sentences = corpus.sentences
    for row in range(len(sentences)):
        ids = sentences.tokens[row, : sentences.lengths[row]].tolist()
        with torch.no_grad():
            q = torch.softmax(model.gpt(torch.tensor([[0, *ids[:-1]]]))[0], 1).numpy()
        for t in range(len(ids)):
            weight = corpus.weights[row, t]
            p = language.next_token_distribution(tuple(ids[:t]))
            order = np.argsort(-q[t], kind="stable")
            total, top1 = total + weight, top1 + weight * p[order[0]]
            top5 += weight * p[order[:5]].sum()
            confidences.append(q[t].max())
            accuracies.append(p[order[0]])
            weights.append(weight)
    assert result.top1_accuracy == pytest.approx(top1 / total, rel=1e-9)
    assert result.top5_accuracy == pytest.approx(top5 / total, rel=1e-9)
    bins = np.ceil(np.array(confidences) * 15).astype(int)
    gap = np.array(weights) * (np.array(confidences) - np.array(accuracies)) / total
    assert result.ece == pytest.approx(sum(abs(gap[bins == b].sum()) for b in set(bins)), rel=1e-9)


def test_excluding_what_the_language_says_is_infinite(language):
    """A model that excludes a word which the language says has infinite KL, without a warning."""

    class Excluding(Oracle):
        def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
            logits = super().predict(inputs_NT).logits_MV
            logits[:, 1] = -math.inf  # the end of the sentence
            logits[:, 2] = torch.where(torch.isinf(logits).all(1), 0.0, logits[:, 2])
            return DensePredictions(logits)

    result = evaluate_on_source(Excluding(language), Corpus.everything(language))
    assert result.kl.value == result.cross_entropy.value == math.inf


def test_a_hopeless_model_has_an_infinite_perplexity(language):
    """A cross-entropy whose exponential is beyond float64 is a number, its perplexity is inf."""
    result = evaluate_on_source(Oracle(language, change=1e4), Corpus.everything(language))
    assert 710 < result.cross_entropy.value < math.inf
    assert result.perplexity == math.inf


def test_a_damaged_model_is_named(language):
    """NaN weights are an error, not a number."""
    gpt = GPT(GPTConfig(len(language.vocabulary), 16, 16, 1, 2, 16))
    gpt.head_weight.data[3] = math.nan
    with pytest.raises(InvalidValueError, match=r"NaN|not a number"):
        evaluate_on_source(GPTModel(gpt), Corpus.everything(language))


def test_another_vocabulary_is_refused(language):
    """A model of another vocabulary size is an error that names both sizes."""
    gpt = GPT(GPTConfig(99, 16, 16, 1, 2, 16))
    with pytest.raises(InvalidValueError, match=r"99.*do not belong together"):
        evaluate_on_source(GPTModel(gpt), Corpus.everything(language))


def test_best_samples_where_there_are_too_many_prefixes(language, tmp_path: Path):
    """An infinite language is sampled, and says that it is not exact."""
    grammar = tmp_path / "endless.toml"
    grammar.write_text(
        'name = "endless"\nstart = "s"\n[rules]\n'
        's = [{ p = 0.5, then = "a <s>" }, { p = 0.5, then = "b" }]\n'
    )
    endless = open_source(str(grammar)).training
    assert not Corpus.best(endless, 50, 0).exact
    assert Corpus.best(language, 50, 0).exact


def test_a_source_is_evaluated_part_by_part(tmp_path: Path):
    """Each part that the source has is evaluated, exactly or on a sample, and carries its name."""
    source = weather(tmp_path).source
    model = random_model(source.training)
    both = replace(source, held_out=source.training)
    results = evaluate_parts(model, both, None, 0, Progress())
    assert [part.language for part in results.parts] == ["training", "held out"]
    assert (results.model, results.source) == (model.name, source.name)
    assert results.parts[0] == evaluate_on_source(model, Corpus.everything(source.training))
    (sampled,) = evaluate_parts(model, source, 50, 1, Progress()).parts
    assert not sampled.exact
    assert sampled.cross_entropy.has_interval


def test_json_carries_an_evaluation_completely(language, model):
    """What is read back from JSON writes the same JSON."""
    part = evaluate_on_source(model, Corpus.sample(language, 50, 0), reference=model)
    results = SourceEvaluation(model="m", source="s", parts=(part,))
    assert SourceEvaluation.from_json(results.to_json()).to_dict() == results.to_dict()


def test_progress_ends_with_all_prefixes(language, model):
    """The prefixes done rise to their number."""
    calls: list[tuple[int, int]] = []
    corpus = Corpus.everything(language)
    evaluate_on_source(model, corpus, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (language.number_of_prefixes, language.number_of_prefixes)


def test_a_model_on_an_accelerator_gets_its_inputs_there(language, model, monkeypatch):
    """A model and a reference on another device give the numbers that they give on the CPU."""
    use_other_device(monkeypatch)
    corpus = Corpus.everything(language)
    there = evaluate_on_source(OtherModel(model), corpus, reference=OtherModel(model))
    assert there == evaluate_on_source(model, corpus, reference=model)


@dataclass
class Lengthwise(Oracle):
    """A model whose predictions depend on the length of what it reads, so that it reads alone."""

    allowed: Sharing = "alone"
    read: tuple[tuple[int, ...], ...] = ()

    def sharing(self, longest: int) -> Sharing:
        """As `allowed` says."""
        return self.allowed

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """Probabilities that the length changes."""
        self.read += (tuple(inputs_NT.shape),)
        return super().predict(inputs_NT)


@pytest.mark.parametrize("allowed", ["alone", "equal lengths"])
def test_rows_share_a_batch_as_the_model_says(language, allowed):
    """Sentences of several lengths are read one by one, without padding, and no prefix is lost."""
    apart = Lengthwise(language, 0.1, allowed=allowed)
    corpus = Corpus.everything(language)
    part = evaluate_on_source(apart, corpus)
    assert sorted(length for _, length in apart.read) == sorted(corpus.sentences.lengths.tolist())
    assert {rows for rows, _ in apart.read} == {1}
    together = evaluate_on_source(Oracle(language, 0.1), corpus)
    assert part.kl.value == pytest.approx(together.kl.value, rel=1e-12)
    assert part.prefixes == together.prefixes


def test_two_ranks_share_the_prefixes(
    tmp_path: Path, model: GPTModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 has the very numbers of one process, of which each rank has read a part."""
    monkeypatch.setattr(source_corpora, "BATCH_POSITIONS", 16)
    source = weather(tmp_path).source
    alone = evaluate_parts(model, source, None, 0, Progress())
    read = [Counting(model), Counting(model)]

    def evaluated(processes: ProcessGroup) -> SourceEvaluation | NonZeroRank:
        mine = read[processes.rank]
        return evaluate_parts(mine, source, None, 0, Progress(), processes=processes)

    together, other = in_ranks(evaluated, local=2)
    assert together == alone
    assert isinstance(other, NonZeroRank)
    assert all(mine.rows > 0 for mine in read)
    assert sum(mine.rows for mine in read) == len(Corpus.everything(source.training).sentences)


def test_ranks_with_other_samples_are_refused(tmp_path: Path, model: GPTModel) -> None:
    """As with two versions of numpy: both ranks say what differs."""
    source = weather(tmp_path).source
    results = in_ranks(
        lambda processes: evaluate_parts(
            model, source, 20, processes.rank, Progress(), processes=processes
        )
    )
    for result in results:
        assert isinstance(result, InvalidValueError)
        assert "differ in the prefixes of weather" in str(result)


@dataclass
class Counting:
    """A model that counts the rows that it reads."""

    model: GPTModel
    rows: int = 0

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def vocabulary_size(self) -> int:
        """The model's."""
        return self.model.vocabulary_size

    def predict(self, inputs_NT: torch.Tensor) -> Predictions:
        """The model's."""
        self.rows += len(inputs_NT)
        return self.model.predict(inputs_NT)


def test_a_sample_has_design_effects(language, model, monkeypatch):
    """Prefixes of a sentence are correlated; the error without that is that of a plain mean."""
    seen = []
    own = BatchSums.of

    def of(prefixes, statistics, summed):
        truth = prefixes.truth
        terms = -truth.probability_K * statistics.log_q_K
        seen.append((np.bincount(truth.row_K, terms), prefixes.weight_M))
        return own(prefixes, statistics, summed)

    monkeypatch.setattr(BatchSums, "of", of)
    part = evaluate_on_source(model, Corpus.sample(language, 60, 1))
    values, weights = map(np.concatenate, zip(*seen, strict=True))
    plain = mean_with_interval(values * weights, None, "", weights)
    assert part.cross_entropy.value == pytest.approx(plain.value)
    assert part.cross_entropy.independent_error == pytest.approx(plain.independent_error)
    for term in (part.cross_entropy, part.entropy, part.kl):
        assert 0 < term.design_effect < math.inf
    assert evaluate_on_source(model, Corpus.everything(language)).kl.is_exact
