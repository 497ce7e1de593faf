"""The conjugation language: its probabilities, entropies, held-out cells and minimal pairs."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from kullback.errors import InvalidValueError
from kullback.sources import conjugation_source as conjugation
from kullback.sources.conjugation_source import (
    PERSONS,
    TENSES,
    Cell,
    ConjugationSource,
    MinimalPair,
)
from kullback.sources.language import Language
from kullback.sources.verbs import embedded_tables


@pytest.fixture(scope="module")
def source() -> ConjugationSource:
    """Return the source with all verbs."""
    return ConjugationSource()


@pytest.fixture(scope="module")
def language(source: ConjugationSource) -> Language:
    """Return its deterministic automaton."""
    return source.training


@pytest.fixture(scope="module")
def pairs(source: ConjugationSource) -> list[MinimalPair]:
    """Return its minimal pairs."""
    return source.minimal_pairs()


def after(language: Language, prefix: str) -> dict[str, float]:
    """Return the words that may follow a prefix, with their probabilities."""
    distribution = language.next_token_distribution(language.encode(prefix))
    return {language.vocabulary[i]: float(distribution[i]) for i in np.flatnonzero(distribution)}


# --- the vocabulary ------------------------------------------------------------------------


def test_untrained_models_start_at_6_4_nats(language: Language):
    """The vocabulary has about 600 words, so log V is 6.4 nats within 0.1."""
    assert 550 <= len(language.vocabulary) <= 650
    assert math.log(len(language.vocabulary)) == pytest.approx(6.4, abs=0.1)


def test_accents_are_kept(language: Language):
    """Words are Unicode: the vocabulary contains accents and the arrow."""
    assert {"comió", "leído", "día", "tú", "→"} <= set(language.vocabulary)
    assert sum(len(word) != len(word.encode()) for word in language.vocabulary) > 100


# --- entropies and probabilities by slot -----------------------------------------------------


def test_grammar_decides(language: Language):
    """The end, the arrow, the Spanish cue and complement follow from the prefix: 0 nats."""
    slots = language.entropy_by_slot()
    for slot in ("end", "arrow", "Spanish cue", "Spanish complement"):
        assert slots[slot].entropy == 0.0


def test_cue_fixes_the_tense(source: ConjugationSource, language: Language):
    """After "yesterday she" only past forms follow, one for each verb."""
    following = after(language, "yesterday she")
    assert set(following) == {source.form("en", verb, "past", "he/she/it") for verb in source.verbs}


def test_verbs_are_zipfian(source: ConjugationSource, language: Language):
    """The n-th verb has weight 1/n."""
    following = after(language, "tomorrow we will")
    weights = 1.0 / np.arange(1, len(source.verbs) + 1)
    np.testing.assert_allclose(
        [following[verb] for verb in source.verbs], weights / weights.sum(), rtol=1e-12
    )


def test_once_is_past_or_future(source: ConjugationSource, language: Language):
    """After "once he", *will* has probability 0.3, and the past forms share 0.7."""
    following = after(language, "once he")
    assert following.pop("will") == pytest.approx(0.3, rel=1e-12)
    assert set(following) == {source.form("en", verb, "past", "he/she/it") for verb in source.verbs}


def test_ambiguous_english_leaves_spanish_open(language: Language):
    """*Often they put* is present (0.6) or past (0.4); the Spanish form shows which."""
    following = after(language, "often they put the bread on the table → a menudo ellos")
    assert following == pytest.approx({"ponen": 0.6, "pusieron": 0.4}, rel=1e-12)


def test_agreement_resolves_the_tense(language: Language):
    """*She puts* is present and *she put* past, so Spanish is certain."""
    english = {"puts": "pone", "put": "puso"}
    for form, form_es in english.items():
        following = after(language, f"often she {form} the bread on the table → a menudo ella")
        assert following == {form_es: 1.0}


def test_you_is_three_persons(language: Language):
    """*You* is nothing (0.4), tú (0.2), usted (0.25) or ustedes (0.15), and the verb agrees."""
    arrow = "tomorrow you will go to the park → mañana"
    expected = {"irás": 0.4, "tú": 0.2, "usted": 0.25, "ustedes": 0.15}
    assert after(language, arrow) == pytest.approx(expected, rel=1e-12)
    for pronoun, form in {"tú": "irás", "usted": "irá", "ustedes": "irán"}.items():
        assert after(language, f"{arrow} {pronoun}") == {form: 1.0}


def test_slots_add_up(language: Language):
    """Tokens × entropy over the slots is the entropy of the sentence; tokens are its tokens."""
    slots = language.entropy_by_slot().values()
    nats = sum(slot.tokens_per_sentence * slot.entropy for slot in slots)
    assert nats == pytest.approx(language.entropy_per_sentence, rel=1e-12)
    tokens = sum(slot.tokens_per_sentence for slot in slots)
    assert tokens == pytest.approx(language.tokens_per_sentence, rel=1e-12)


def test_entropy_is_that_of_the_listed_sentences(language: Language):
    """-sum p log p over all 31,000 sentences is the entropy per sentence."""
    sentences, _ = language.enumerate()
    assert len(sentences) == language.number_of_sentences
    assert len(set(sentences.texts())) == len(sentences)
    surprisal = sentences.surprisals.sum(axis=1)
    assert np.exp(-surprisal).sum() == pytest.approx(1.0, abs=1e-12)
    entropy = (np.exp(-surprisal) * surprisal).sum()
    assert language.entropy_per_sentence == pytest.approx(entropy, rel=1e-12)


def test_sampled_surprisal(language: Language):
    """The mean surprisal of a sample is the entropy within 4 standard errors."""
    surprisal = language.sample(20_000, np.random.default_rng(0)).surprisals.sum(axis=1)
    error = surprisal.std() / math.sqrt(len(surprisal))
    assert abs(surprisal.mean() - language.entropy_per_sentence) < 4 * error < 0.1


# --- held-out cells --------------------------------------------------------------------------

SMALL = ("go", "eat", "cut", "work")


def sentence_probabilities(language: Language) -> dict[str, float]:
    """Return every sentence with its probability."""
    sentences, _ = language.enumerate()
    return dict(
        zip(sentences.texts(), np.exp(-sentences.surprisals.sum(axis=1)).tolist(), strict=True)
    )


def test_a_held_out_cell_occurs_in_the_held_out_language_alone():
    """With (eat, past, he/she/it) held out, only the held-out language contains *she ate*."""
    source = ConjugationSource(SMALL, (Cell("eat", "past", "he/she/it"),))
    assert source.held_out is not None
    ate = re.compile(r"(he|she|it|someone) ate ")
    assert not any(ate.search(text) for text in sentence_probabilities(source.training))
    assert all(ate.search(text) for text in sentence_probabilities(source.held_out))
    assert any(ate.search(text) for text in sentence_probabilities(source.full))


def mixture(source: ConjugationSource) -> tuple[float, dict[str, float], dict[str, float], dict]:
    """Return P(held-out cell), and the sentences of the three languages."""
    assert source.held_out is not None
    full, training, held = (
        sentence_probabilities(part) for part in (source.full, source.training, source.held_out)
    )
    only = next(text for text in held if text not in training)
    return full[only] / held[only], full, training, held


def test_mixture_identity_where_the_sentence_tells_the_cell():
    """H(full) = H(P, 1 - P) + P H(held out) + (1 - P) H(training) when the cell can be read off."""
    source = ConjugationSource(
        SMALL,
        (Cell("eat", "past", "he/she/it"), Cell("go", "future", "we"), Cell("go", "past", "I")),
    )
    p, full, training, held = mixture(source)
    assert not set(training) & set(held)
    assert p == pytest.approx(sum(full[text] for text in held), rel=1e-10)
    assert source.held_out is not None
    expected = (
        -p * math.log(p)
        - (1 - p) * math.log(1 - p)
        + p * source.held_out.entropy_per_sentence
        + (1 - p) * source.training.entropy_per_sentence
    )
    assert source.full.entropy_per_sentence == pytest.approx(expected, rel=1e-12)


def test_mixture_of_a_cell_that_the_sentence_hides():
    """*Often we cut ... cortamos* hides its tense: H(full) is smaller by H(cell | sentence)."""
    source = ConjugationSource(SMALL, (Cell("cut", "past", "we"),))
    p, full, training, held = mixture(source)
    shared = set(training) & set(held)
    assert "often we cut the bread → a menudo cortamos el pan" in shared
    hidden = 0.0
    for text, mass in full.items():
        from_held = p * held.get(text, 0.0)
        from_training = (1 - p) * training.get(text, 0.0)
        assert mass == pytest.approx(from_held + from_training, rel=1e-10)
        for part in (from_held, from_training):
            hidden -= part * math.log(part / mass) if part else 0.0
    assert hidden > 0.001
    assert source.held_out is not None
    if_told = (
        -p * math.log(p)
        - (1 - p) * math.log(1 - p)
        + p * source.held_out.entropy_per_sentence
        + (1 - p) * source.training.entropy_per_sentence
    )
    assert source.full.entropy_per_sentence == pytest.approx(if_told - hidden, rel=1e-10)


def test_random_holdout(source: ConjugationSource):
    """The drawn cells are different cells of the table, the same for the same seed."""
    small = ConjugationSource(SMALL)
    assert len(small.cells) == len(set(small.cells)) == len(SMALL) * 5 * 5
    first, again, other = (small.with_random_holdout(7, seed).holdout for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 7
    assert set(first) <= set(small.cells)
    assert small.with_random_holdout(0, 0).held_out is None


def test_parts_share_one_vocabulary():
    """Full, training and held-out language have the same token ids, *goed* included."""
    source = ConjugationSource(SMALL).with_random_holdout(95, seed=0)
    assert source.held_out is not None
    assert source.full.vocabulary == source.training.vocabulary == source.held_out.vocabulary
    assert "goed" in source.full.vocabulary


def test_vocabulary_is_what_occurs_and_the_overregularised_pasts(language: Language):
    """Only `BOS` and the overregularised pasts never occur."""
    occurring = {language.vocabulary[token] for token in language.arc_tokens}
    never = set(language.vocabulary) - occurring - {"<s>"}
    assert never == {verb.overregularised for verb in embedded_tables().verbs.values()} - {None}


def test_nothing_held_out_is_the_full_language(source: ConjugationSource):
    """Without held-out cells the training language is the full one."""
    assert source.held_out is None
    assert source.full is source.training


# --- minimal pairs ---------------------------------------------------------------------------


def test_minimal_pairs_have_one_right_answer(language: Language, pairs: list[MinimalPair]):
    """After every pair's prefix the right form is possible and the wrong one impossible."""
    possible: dict[tuple[int, ...], np.ndarray] = {}
    for pair in pairs:
        if pair.prefix not in possible:
            possible[pair.prefix] = language.next_token_distribution(pair.prefix)
        assert possible[pair.prefix][pair.right] > 0.0
        assert possible[pair.prefix][pair.wrong] == 0.0


def test_minimal_pairs_are_forms_of_the_cell(
    source: ConjugationSource, language: Language, pairs: list[MinimalPair]
):
    """The right form is the cell's own, and the wrong one another form of the same verb."""
    tables = embedded_tables()
    for pair in pairs:
        words = [language.vocabulary[i] for i in pair.prefix]
        right, wrong = language.vocabulary[pair.right], language.vocabulary[pair.wrong]
        verb, tense, person = pair.cell
        facts = tables.verbs[verb]
        assert pair.regular == facts.regular
        if pair.language == "english":
            form = "infinitive" if tense == "future" else tense
            assert right == source.form("en", verb, form, person)
            assert "→" not in words
        else:
            assert "→" in words
            assert right in {x for forms in facts.forms["es"].values() for x in forms}
        language_code = "en" if pair.language == "english" else "es"
        forms = {form for row in facts.forms[language_code].values() for form in row}
        assert wrong in forms | {facts.overregularised}
        assert wrong != right


def test_minimal_pairs_cover_the_table(source: ConjugationSource, pairs: list[MinimalPair]):
    """Every cell has pairs in both languages, and every pair occurs once."""
    for name in ("english", "spanish"):
        assert {pair.cell for pair in pairs if pair.language == name} == set(source.cells)
    assert len(set(pairs)) == len(pairs)


def test_a_minimal_pair_has_no_second_right_answer(monkeypatch: pytest.MonkeyPatch):
    """Where *often* is the only cue, *she put* and *she puts* are right, and no pair has both."""
    tables = embedded_tables()
    often = next(cue for cue in tables.cues if cue.en == "often")
    only_often = replace(tables, cues=(replace(often, probability=1.0),))
    monkeypatch.setattr(conjugation, "embedded_tables", lambda: only_often)
    source = ConjugationSource(("put",))
    she = source.full.encode("often she")
    asked = {
        (source.full.vocabulary[pair.right], source.full.vocabulary[pair.wrong])
        for pair in source.minimal_pairs()
        if list(pair.prefix) == she
    }
    assert asked == {("puts", "putted"), ("put", "putted")}


def test_the_best_known_minimal_pairs_are_among_them(language: Language, pairs: list[MinimalPair]):
    """*He works* over *he work*, *went* over *goed*, and *comió* over *comí* are among them."""
    shown = {
        (
            language.vocabulary[p.prefix[-1]],
            language.vocabulary[p.right],
            language.vocabulary[p.wrong],
        )
        for p in pairs
    }
    assert ("he", "works", "work") in shown
    assert ("she", "went", "goed") in shown
    assert ("ella", "comió", "comí") in shown


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("go", "fly"),), r"verbs\[1\] is 'fly'.* go, see, work"),
        ((("go", "go"),), r"verbs is \('go', 'go'\)"),
        (
            (("go",), (Cell("eat", "past", "I"),)),
            r"holdout\[0\].*verb 'eat'.* go$",
        ),
        (
            (("go",), (Cell("go", "past", "I"), Cell("go", "pluperfect", "I"))),
            r"holdout\[1\].*tense 'pluperfect'.* infinitive, present",
        ),
        ((("go",), (Cell("go", "past", "she"),)), "person 'she'.* I, you"),
    ],
)
def test_unknown_verbs_and_cells(arguments: tuple, message: str):
    """An unknown verb, tense or person raises an error that lists the known ones."""
    with pytest.raises(InvalidValueError, match=message):
        ConjugationSource(*arguments)


def test_holdout_of_everything():
    """Holding out every cell raises an error: no training language is left."""
    cells = tuple(Cell("go", tense, person) for tense, person in product(TENSES, PERSONS))
    with pytest.raises(InvalidValueError, match=r"holdout .*25 cells"):
        _ = ConjugationSource(("go",), cells).training
    with pytest.raises(InvalidValueError, match=r"holdout is 25 cells"):
        ConjugationSource(("go",)).with_random_holdout(25, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fr", "go", "past", "I"), "language is 'fr'.* en, es"),
        (("en", "fly", "past", "I"), "verb is 'fly'.* go, see"),
        (("en", "go", "future", "I"), "form is 'future'.* infinitive, present"),
        (("es", "go", "past", "she"), "person is 'she'.* I, you, he/she/it"),
    ],
)
def test_unknown_forms(source: ConjugationSource, arguments: tuple[str, ...], message: str):
    """An unknown language, verb, form or person raises an error that lists the known ones."""
    with pytest.raises(InvalidValueError, match=message):
        source.form(*arguments)
