"""Claim: the 95 % interval covers the truth in 93-97 % of seeds; independent tokens' does not.

Each line is a kind of text whose true mean is known; each text is one seed.  Covered by

* `tokens`      the interval that treats tokens as independent, 1.96 s / √n;
* `ours`        `mean_with_interval`, which uses documents, one text, or both;
* `bootstrap`   percentile-t over documents, or circular blocks of automatic length in one text;
* `cochran`     documents only: Σ (y − r x)² G/(G−1), Student t with G − 1 degrees of freedom.

`no interv.` is the share of texts without an interval by `mean_with_interval`, which do not count.
The standard error of a coverage near 95 % is 0.7 points with 1,000 seeds.  The kinds below the line
have too few independent pieces for any of the methods, and show their limits.

    python benchmarks/interval_coverage.py [--seeds 1000] [--only TEXT]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
from scipy.special import stdtrit

from bootstrap import bootstrap_over_blocks, bootstrap_over_documents
from kullback.results.measurement import Measurement
from kullback.sources.automaton import Arc, Automaton
from kullback.sources.catalogue import open_source
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS
from kullback.uncertainty.intervals import mean_with_interval, simultaneous_means

Array = np.ndarray
# Values, documents, denominators.
Text = tuple[Array, Array | None, Array | None]


@dataclass(frozen=True)
class Kind:
    name: str
    truth: float
    texts: Callable[[np.random.Generator, int], Iterator[Text]]
    hopeless: bool = False


def autoregressive(rho: float, size: int, documents: int = 1) -> Kind:
    def texts(rng: np.random.Generator, seeds: int) -> Iterator[Text]:
        noise = rng.standard_normal((seeds, documents, size + 1000))
        series = lfilter([1], [1, -rho], noise, axis=-1)[..., 1000:]
        ids = np.repeat(np.arange(documents), size)
        for row in series:
            yield row.reshape(-1), ids, None

    name = f"AR(1) {rho}, {documents} × {size}" if documents > 1 else f"AR(1) {rho}, {size} tokens"
    return Kind(name, 0.0, texts, hopeless=size * (1 - rho) / (1 + rho) < 20)


def regimes(run: float, shift: float, size: int, hopeless: bool = False) -> Kind:
    """Exponential surprisals whose mean is 1 ± shift, changing with probability 1/run."""

    def texts(rng: np.random.Generator, seeds: int) -> Iterator[Text]:
        for _ in range(seeds):
            change = rng.random(size) < 1 / run
            sign = 2 * ((np.cumsum(change) + rng.integers(2)) % 2) - 1
            yield (1 + shift * sign) * rng.standard_exponential(size), None, None

    return Kind(f"regimes of {run:.0f}, 1 ± {shift}, {size} tokens", 1.0, texts, hopeless)


def moods() -> Language:
    """Paragraphs in one of two moods: a choice of two words, or of sixteen."""
    stop = 1 / 40
    arcs: dict[str, list[Arc]] = {"start": []}
    for mood, words in (("calm", 2), ("wild", 16)):
        names = [f"{mood}{i}" * (1 + i % 3) for i in range(words)]
        arcs["start"] += [Arc(name, mood, 0.5 / words, mood) for name in names]
        arcs[mood] = [Arc(name, mood, (1 - stop) / words, mood) for name in names]
        arcs[mood].append(Arc(EOS, "end", stop, None))
    return Automaton.from_arcs("moods", "start", arcs).determinise()


def wrong_model(language: Language, seed: int) -> Array:
    """log q of each arc under a model without context, of skewed token frequencies."""
    q = np.random.default_rng(seed).dirichlet(np.full(len(language.vocabulary), 2.0))
    return np.log(q)[language.arc_tokens]


def arc_frequencies(language: Language) -> Array:
    """The expected number of times that a sentence takes each arc."""
    return language.expected_visits[language.arc_states] * language.probabilities


def of_language(
    name: str,
    language: Language,
    value: Array,
    sentences: int,
    documents: str,
    denominator: Array | None = None,
) -> Kind:
    """`value` (an entry for each arc) over texts of so many sentences: the true mean is a ratio."""
    frequency = arc_frequencies(language)
    weight = np.ones(len(frequency)) if denominator is None else denominator

    def texts(rng: np.random.Generator, seeds: int) -> Iterator[Text]:
        for _ in range(seeds):
            sample = language.sample(sentences, rng)
            arcs = sample.arcs[sample.mask]
            ids = None
            if documents == "sentences":
                ids = np.repeat(np.arange(sentences), sample.lengths)
            elif documents == "chapters":  # of 1, 2, 4, 8, 1, … sentences
                sizes = np.tile([1, 2, 4, 8], sentences)
                chapter = np.repeat(np.arange(len(sizes)), sizes)[:sentences]
                ids = np.repeat(chapter, sample.lengths)
            elif documents == "thirds":
                ids = np.repeat(np.arange(sentences) * 3 // sentences, sample.lengths)
            yield value[arcs], ids, None if denominator is None else weight[arcs]

    return Kind(name, float(frequency @ value) / float(frequency @ weight), texts)


def documents(count: int, sizes: str, effect: str, hopeless: bool = False) -> Kind:
    """Documents whose means differ by an offset, normal or skewed, beside the tokens' noise."""

    def texts(rng: np.random.Generator, seeds: int) -> Iterator[Text]:
        for _ in range(seeds):
            if sizes == "equal":
                size = np.full(count, 150)
            else:
                size = np.ceil(rng.lognormal(4.5, 1.0, count)).astype(int)
            offset = {
                "no": np.zeros(count),
                "normal": 0.3 * rng.standard_normal(count),
                "skewed": 0.3 * (rng.standard_exponential(count) - 1),
            }[effect]
            ids = np.repeat(np.arange(count), size)
            yield offset[ids] + rng.standard_exponential(len(ids)) - 1, ids, None

    return Kind(f"{count} documents, {sizes} sizes, {effect} offsets", 0.0, texts, hopeless)


def kinds() -> list[Kind]:
    mood, verbs = moods(), open_source("conjugation").training
    first, second = wrong_model(mood, 1), wrong_model(mood, 2)
    verb_model = wrong_model(verbs, 1)
    token_bytes = np.array([len(token.encode()) for token in mood.vocabulary], float)
    size = token_bytes[mood.arc_tokens]
    return [
        autoregressive(0.0, 2000),
        autoregressive(0.5, 2000),
        autoregressive(0.8, 2000),
        autoregressive(0.95, 4000),
        autoregressive(0.99, 20000),
        autoregressive(0.8, 1500, documents=3),
        regimes(20, 0.8, 2000),
        regimes(100, 0.5, 10000),
        regimes(300, 0.3, 60000),
        of_language("moods, true model, one text", mood, -mood.log_probs, 150, "one"),
        of_language("moods, true model, paragraphs", mood, -mood.log_probs, 100, "sentences"),
        of_language("moods, wrong model, one text", mood, -first, 150, "one"),
        of_language("moods, wrong model, 3 long documents", mood, -first, 300, "thirds"),
        of_language("moods, wrong model, chapters of 1-8", mood, -first, 150, "chapters"),
        of_language("moods, two models, paired difference", mood, second - first, 150, "one"),
        of_language(
            "moods, KL by paired difference", mood, mood.log_probs - first, 100, "sentences"
        ),
        of_language("moods, nats a byte, one text", mood, -first, 150, "one", size),
        of_language("moods, nats a byte, paragraphs", mood, -first, 100, "sentences", size),
        of_language("verbs, true model, sentences", verbs, -verbs.log_probs, 100, "sentences"),
        of_language("verbs, wrong model, sentences", verbs, -verb_model, 100, "sentences"),
        of_language("verbs, wrong model, one text", verbs, -verb_model, 200, "one"),
        documents(10, "equal", "normal"),
        documents(40, "equal", "skewed"),
        documents(40, "lognormal", "no"),
        documents(40, "lognormal", "normal"),
        documents(200, "lognormal", "skewed"),
        documents(3, "equal", "normal"),
        documents(4, "lognormal", "normal", hopeless=True),
        documents(10, "lognormal", "skewed", hopeless=True),
        autoregressive(0.95, 500),
        regimes(200, 0.5, 2000, hopeless=True),
    ]


def covers(measured: Measurement, truth: float) -> bool:
    low, high = measured.interval
    return low <= truth <= high


def bootstrapped(text: Text) -> Measurement | None:
    values, ids, denominator = text
    if ids is None or ids[-1] == 0:
        return None if denominator is not None else bootstrap_over_blocks(values, "", resamples=500)
    weights = np.ones(len(values)) if denominator is None else denominator
    return bootstrap_over_documents(
        np.bincount(ids, values), np.bincount(ids, weights), "", len(values), resamples=500
    )


def cochran(text: Text, truth: float) -> bool | None:
    values, ids, denominator = text
    if ids is None or ids[-1] < 1:
        return None
    y = np.bincount(ids, values)
    x = np.bincount(ids, np.ones(len(values)) if denominator is None else denominator)
    mean = y.sum() / x.sum()
    residual = y - mean * x
    error = math.sqrt(len(y) / (len(y) - 1) * (residual @ residual)) / x.sum()
    return bool(abs(mean - truth) <= stdtrit(len(y) - 1, 0.975) * error)


def percent(hits: list[bool]) -> str:
    return f"{100 * np.mean(hits):10.1f}" if hits else f"{'–':>10s}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-bootstrap", action="store_true")
    options = parser.parse_args()
    print(f"coverage of the 95 % interval in percent, {options.seeds} seeds a line")
    columns = ("tokens", "ours", "bootstrap", "cochran", "no interv.", "design eff")
    print(f"{'':44s}" + "".join(f"{column:>11s}" for column in columns))
    drawn = False
    for kind in sorted(kinds(), key=lambda kind: kind.hopeless):
        if options.only not in kind.name:
            continue
        if kind.hopeless and not drawn:
            print("-" * 110)
            drawn = True
        hits: dict[str, list[bool]] = {name: [] for name in ("tokens", "ours", "boot", "cochran")}
        effects = []
        refused = 0
        for text in kind.texts(np.random.default_rng(20240607), options.seeds):
            values, ids, denominator = text
            measured = mean_with_interval(values, ids, "", denominator)
            low, high = measured.independent_interval
            hits["tokens"].append(low <= kind.truth <= high)
            if math.isinf(measured.standard_error):
                refused += 1
            else:
                hits["ours"].append(covers(measured, kind.truth))
                effects.append(measured.design_effect)
            resampled = None if options.no_bootstrap else bootstrapped(text)
            if resampled is not None:
                hits["boot"].append(covers(resampled, kind.truth))
            simple = cochran(text, kind.truth)
            if simple is not None:
                hits["cochran"].append(simple)
        cells = " ".join(percent(hits[name]) for name in ("tokens", "ours", "boot", "cochran"))
        effect = float(np.median(effects)) if effects else math.nan
        share = 100 * refused / options.seeds
        print(f"{kind.name:44s} {cells} {share:10.1f} {effect:10.1f}", flush=True)
    family(options.seeds)


def family(seeds: int) -> None:
    """Six wrong models against another: all six true differences inside their intervals at once."""
    mood = moods()
    frequency = arc_frequencies(mood)
    reference = wrong_model(mood, 0)
    values = np.stack([wrong_model(mood, seed) - reference for seed in range(1, 7)])
    truth = values @ frequency / frequency.sum()
    rng = np.random.default_rng(20240607)
    together = alone = 0
    for _ in range(min(seeds, 300)):
        sample = mood.sample(80, rng)
        ids = np.repeat(np.arange(80), sample.lengths)
        means = simultaneous_means(values[:, sample.arcs[sample.mask]], ids, "")
        single = [
            mean_with_interval(values[k, sample.arcs[sample.mask]], ids, "") for k in range(6)
        ]
        together += all(covers(m, t) for m, t in zip(means, truth, strict=True))
        alone += all(covers(m, t) for m, t in zip(single, truth, strict=True))
    done = min(seeds, 300)
    print(
        f"six differences at once, {done} seeds: family-wise {100 * together / done:.1f} %, "
        f"six single intervals {100 * alone / done:.1f} %"
    )


if __name__ == "__main__":
    main()
