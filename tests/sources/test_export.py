"""The files of an export against each other and against the source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.sources.catalogue import Source, open_source
from kullback.sources.export import export_source


@pytest.fixture(scope="module")
def source() -> Source:
    """Return the conjugation source."""
    return open_source("conjugation")


@pytest.fixture(scope="module")
def exported(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an export of 5,000 tokens."""
    folder = tmp_path_factory.mktemp("export") / "data"
    export_source(source, 5000, folder, seed=0)
    return folder


def test_text_tokens_and_surprisals_agree(source: Source, exported: Path):
    """The tokenizer reads the text as the exported ids, whose surprisals are the source's."""
    ids = np.load(exported / "train.tokens.npy")
    surprisals = np.load(exported / "train.surprisals.npy")
    assert ids.dtype == np.uint16
    assert ids.shape == surprisals.shape
    language = source.training
    bos, eos = (language.vocabulary.index(word) for word in ("<s>", "</s>"))
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    starts = np.flatnonzero(ids == bos)
    lines = (exported / "train.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(starts)
    sentences = np.split(ids, starts[1:])
    for line, sentence, costs in zip(
        lines, sentences, np.split(surprisals, starts[1:]), strict=True
    ):
        assert sentence[-1] == eos
        assert tokenizer.encode(line, add_special_tokens=False).ids == sentence[1:-1].tolist()
        assert costs[0] == 0
        expected = -language.sentence_log_prob(sentence[1:].tolist())
        assert costs.sum() == pytest.approx(expected, abs=1e-12)


def test_the_facts_are_those_of_the_files(source: Source, exported: Path):
    """`source.json` counts the tokens without <s>, and its source can be built again."""
    facts = json.loads((exported / "source.json").read_text("utf-8"))
    ids = np.load(exported / "train.tokens.npy")
    assert facts["tokens"] == ids.size - facts["sentences"] >= 5000
    assert facts["entropy_per_token"] == source.training.entropy_per_token
    mean = np.load(exported / "train.surprisals.npy").sum() / facts["tokens"]
    assert facts["mean_surprisal"] == pytest.approx(mean, rel=1e-12)
    assert facts["source"] == source.spec
    assert f"{facts['entropy_per_token']:.12f}" in (exported / "README.txt").read_text("utf-8")


def test_an_export_is_not_overwritten(source: Source, exported: Path, tmp_path: Path):
    """A folder with an export is refused and left as it was; so is a number of tokens below 1."""
    before = (exported / "train.txt").read_bytes()
    with pytest.raises(InvalidValueError, match=str(exported)):
        export_source(source, 10, exported, seed=1)
    assert (exported / "train.txt").read_bytes() == before
    with pytest.raises(InvalidValueError, match="tokens is 0"):
        export_source(source, 0, tmp_path / "new", seed=1)
    assert not (tmp_path / "new").exists()
