"""Sources by name, by file and from the spec of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources.catalogue import NAMES, open_source, source_from_spec

COIN = 'name = "coin"\n[rules]\ntoss = ["heads", "tails"]\n'


@pytest.fixture
def coin(tmp_path: Path) -> Path:
    """Return the path of a grammar file."""
    path = tmp_path / "coin.toml"
    path.write_text(COIN, encoding="utf-8")
    return path


def test_a_spec_builds_the_same_source(coin: Path):
    """From the JSON of its spec, sources come back equal, also with held-out cells."""
    for source in (
        open_source("conjugation", holdout=5, seed=1),
        open_source("associations"),
        open_source(str(coin)),
    ):
        again = source_from_spec(json.loads(json.dumps(source.spec)))
        assert again.name == source.name
        assert again.fingerprint() == source.fingerprint()
        assert (again.held_out is None) == (source.held_out is None)


def test_fingerprints_tell_languages_apart(coin: Path):
    """Other held-out cells, and other probabilities, give another fingerprint."""
    fingerprints = [open_source("conjugation", holdout=5, seed=s).fingerprint() for s in (1, 2)]
    fingerprints.append(open_source(str(coin)).fingerprint())
    coin.write_text(COIN.replace('"tails"', '"tails", "edge"'), encoding="utf-8")
    fingerprints.append(open_source(str(coin)).fingerprint())
    assert len(set(fingerprints)) == 4


def test_unknown_names_are_refused(coin: Path):
    """An unknown name lists the known ones; a missing file and a held-out cell are named."""
    with pytest.raises(InvalidValueError, match=f"'conjugatoin'.*{', '.join(NAMES)}"):
        open_source("conjugatoin")
    with pytest.raises(GrammarError, match=r"nowhere\.toml"):
        open_source("nowhere.toml")
    with pytest.raises(InvalidValueError, match="holdout is 3"):
        open_source(str(coin), holdout=3)
