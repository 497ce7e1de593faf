"""The tables in data/verbs.toml against two conjugators, and the errors for malformed files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import lemminflect
import pytest

from kullback.errors import GrammarError
from kullback.sources import verbs
from kullback.sources.verbs import PERSONS, embedded_tables, read_tables


def test_verbs_regular_and_irregular():
    """There are at least 12 regular and 8 irregular verbs, and only the latter overregularise."""
    known = embedded_tables().verbs.values()
    assert sum(verb.regular for verb in known) >= 12
    assert sum(not verb.regular for verb in known) >= 8
    assert all((verb.overregularised is None) == verb.regular for verb in known)


@pytest.mark.parametrize("verb", embedded_tables().verbs)
def test_english_forms(verb: str):
    """Every English form is what lemminflect inflects the verb to."""
    inflected = {
        tag: lemminflect.getInflection(verb, tag) for tag in ("VB", "VBP", "VBZ", "VBD", "VBN")
    }
    forms = embedded_tables().verbs[verb].forms["en"]
    for i, person in enumerate(PERSONS):
        present = "VBZ" if person == "he/she/it" else "VBP"
        assert forms["present"][i] in inflected[present]
        assert forms["past"][i] in inflected["VBD"]
        assert forms["participle"][i] in inflected["VBN"]
        assert forms["infinitive"][i] in inflected["VB"]


@pytest.mark.parametrize("verb", embedded_tables().verbs)
def test_regularity(verb: str):
    """A verb is regular when lemminflect's rules give its past; otherwise they give *goed*."""
    facts = embedded_tables().verbs[verb]
    by_rule = lemminflect.getAllInflectionsOOV(verb, "VERB")["VBD"][0]
    assert facts.regular == (by_rule == facts.forms["en"]["past"][0])
    if facts.overregularised is not None:
        assert facts.overregularised == by_rule


# Runs in another process: verbecc configures logging globally and opens a log file in its folder.
CONJUGATE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = refuse
import verbecc
from verbecc.src.defs.types.data import verbs
verbs.config.ENABLE_ML_PREDICTION = False  # else it trains a model and writes it into its package
conjugator = verbecc.CompleteConjugator("es")
moods = {verb: json.loads(conjugator.conjugate(verb).to_json())["moods"] for verb in sys.argv[2:]}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(moods, file)
"""


@pytest.fixture(scope="module")
def spanish(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Return verbecc's moods of the Spanish verbs, by infinitive."""
    folder = tmp_path_factory.mktemp("verbecc")
    spoken = {verb.forms["es"]["infinitive"][0] for verb in embedded_tables().verbs.values()}
    subprocess.run(
        [sys.executable, "-B", "-c", CONJUGATE, "out.json", *spoken, "querer"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


PRONOUNS = dict(zip(PERSONS, ("yo", "tú", "él", "nosotros", "ellos"), strict=True))
INDICATIVE = {
    "present": "presente",
    "past": "pretérito-perfecto-simple",
    "future": "futuro",
    "perfect": "pretérito-perfecto-compuesto",
}


def conjugated(moods: dict, tense: str, person: str) -> str:
    """Return the form that verbecc gives, without its pronoun."""
    pronoun = PRONOUNS[person]
    (entry,) = (e for e in moods["indicativo"][INDICATIVE[tense]] if e["pr"] == pronoun)
    return entry["c"][0].removeprefix(f"{pronoun} ")


@pytest.mark.parametrize("verb", embedded_tables().verbs)
def test_spanish_forms(spanish: dict[str, dict], verb: str):
    """Every Spanish form, accents included, is verbecc's, and so is the perfect with *haber*."""
    forms = embedded_tables().verbs[verb].forms["es"]
    auxiliary = embedded_tables().frames["perfect"].es.auxiliary
    moods = spanish[forms["infinitive"][0]]
    for i, person in enumerate(PERSONS):
        for tense in ("present", "past", "future"):
            assert forms[tense][i] == conjugated(moods, tense, person)
        perfect = f"{auxiliary[i]} {forms['participle'][i]}"
        assert perfect == conjugated(moods, "perfect", person)


def test_spanish_helping_verbs(spanish: dict[str, dict]):
    """The auxiliaries of *going to* and *want to* are the presents of *ir* and *querer*."""
    frames = embedded_tables().frames
    for i, person in enumerate(PERSONS):
        assert (
            frames["going"].es.auxiliary[i] == conjugated(spanish["ir"], "present", person) + " a"
        )
        assert frames["want"].es.auxiliary[i] == conjugated(spanish["querer"], "present", person)


# --- malformed files ---------------------------------------------------------------------------

VERBS = (Path(verbs.__file__).parent / "data" / "verbs.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("original", "replacement", "message"),
    [
        ("[verbs.go]", "[verbs.go", "TOML"),
        ('en.past = "went"', "", r"verbs\.go\.en has no 'past'"),
        ('en.past = "went"', "en.past = 3", r"verbs\.go\.en\.past is 3"),
        (
            '"go", "goes", "go", "go"]',
            '"go"]',
            r"verbs\.go\.en\.present is \['go', 'go'\].*5.*I, you",
        ),
        ("regular = false", 'regular = "no"', r"verbs\.go\.regular is 'no'"),
        ("frames = { past = 1.0 }", "frames = { pst = 1.0 }", r"cues\[0\]\.frames has 'pst'"),
        (
            "frames = { past = 1.0 }",
            "frames = { past = 0.9 }",
            r"cues\[0\]\.frames.* sum to 0\.9",
        ),
        (
            "probability = 0.10",
            "probability = -0.1",
            r"cues\[0\]\.probability is -0\.1.*\(0, 1\]",
        ),
        ("probability = 0.10", "probability = 0.2", r"cues: .* sum to 1\.1"),
        (
            'person = "I"',
            'person = "me"',
            r"subjects\[0\]\.person is 'me'.*I, you, he/she/it, we, they",
        ),
        ("[0.5, 0.3, 0.2]", "[0.5, 0.5]", r"verbs\.go\.complements .*3.* 2"),
        ("[0.5, 0.3, 0.2]", "[0.9, 0.3, -0.2]", r"complement_probabilities is .*\(0, 1\]"),
        ('tense = "present"', 'tense = "now"', r"frames\.present\.tense is 'now'"),
    ],
)
def test_malformed_data(tmp_path: Path, original: str, replacement: str, message: str):
    """A malformed entry raises a `GrammarError` that names its place and its value."""
    path = tmp_path / "verbs.toml"
    assert original in VERBS
    path.write_text(VERBS.replace(original, replacement, 1), encoding="utf-8")
    with pytest.raises(GrammarError, match=message):
        read_tables(path)


def test_missing_data(tmp_path: Path):
    """A file that does not exist raises a `GrammarError`."""
    with pytest.raises(GrammarError, match=r"verbs\.toml .*No such file"):
        read_tables(tmp_path / "verbs.toml")
