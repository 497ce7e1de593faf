"""`kullback source`: its tables, its JSON, its export and its errors."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from kullback.cli import main
from kullback.sources.catalogue import open_source
from kullback.sources.known_processes import known_process
from tiny_runs import WEATHER


@pytest.fixture
def weather(tmp_path: Path) -> str:
    """Return the path of a grammar file."""
    path = tmp_path / "weather.toml"
    path.write_text(WEATHER, encoding="utf-8")
    return str(path)


def document(capsys: pytest.CaptureFixture[str], *arguments: str):
    """Return the JSON that a command prints."""
    assert main(["source", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_list_names_the_sources(capsys):
    """The list has the embedded sources, in the table as in the JSON."""
    names = {"conjugation", "associations", "golden-mean", "even", "rrxor", "mess3"}
    assert main(["source", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names)
    assert set(document(capsys, "list")) == names


def test_describe_shows_the_entropies_of_windows(capsys):
    """A process has its rate with its error, and the entropies by the symbols that were seen."""
    process = known_process("rrxor")
    described = document(capsys, "describe", "rrxor", "--window", "6")
    assert described["entropy_rate"] == {
        "nats": process.entropy_rate.value,
        "error": process.entropy_rate.error,
    }
    windows = [row["nats"] for row in described["conditional_entropies"]]
    assert windows == [h.value for h in process.conditional_entropies(6)]
    assert described["beliefs"] == 36
    assert main(["source", "describe", "mess3", "--window", "6"]) == 0
    text = capsys.readouterr().out
    assert "0.7934575" in text
    assert "± 3.0e-08" in text


def test_sample_of_a_process(capsys):
    """Each row is a window with the surprisal of all symbols but the first."""
    rows = document(capsys, "sample", "even", "-n", "3", "--window", "5")
    assert [len(row["text"].split()) for row in rows] == [5, 5, 5]
    assert [row["tokens"] for row in rows] == [4, 4, 4]


def test_describe_shows_the_ngrams_of_a_text(tmp_path, capsys):
    """--order and --unit choose the n-gram model."""
    path = tmp_path / "text.txt"
    path.write_text("a b\na c\n", encoding="utf-8")
    described = document(capsys, "describe", str(path), "--order", "2", "--unit", "words")
    assert described["training"]["entropy_per_sentence"] == pytest.approx(math.log(2), abs=1e-14)
    assert main(["source", "describe", "rrxor", "--order", "2"]) == 2
    assert "order is 2" in capsys.readouterr().err
    assert main(["source", "describe", str(path), "--window", "9"]) == 2
    assert "--window" in capsys.readouterr().err


def test_describe_shows_the_exact_entropies(weather, capsys):
    """The table has the entropy per token with 9 decimals, the JSON all its digits."""
    language = open_source(weather).training
    assert main(["source", "describe", weather]) == 0
    assert f"{language.entropy_per_token:.9f} nats/token" in capsys.readouterr().out
    described = document(capsys, "describe", weather)
    assert set(described) == {"name", "training"}
    assert described["name"] == "weather"
    facts = described["training"]
    assert facts["entropy_per_token"] == language.entropy_per_token
    assert facts["vocabulary"] == list(language.vocabulary)
    assert facts["number_of_sentences"] == language.number_of_sentences
    nats = sum(slot["tokens_per_sentence"] * slot["entropy"] for slot in facts["slots"].values())
    assert nats == pytest.approx(facts["entropy_per_sentence"], rel=1e-12)


def test_describe_shows_the_held_out_language(capsys):
    """With held-out cells both languages are described, with the same vocabulary."""
    described = document(capsys, "describe", "conjugation", "--holdout", "24")
    assert described["training"]["vocabulary"] == described["held_out"]["vocabulary"]
    assert described["held_out"]["number_of_sentences"] < 31_173
    assert main(["source", "describe", "conjugation", "--holdout", "24"]) == 0
    output = capsys.readouterr().out
    assert "conjugation (training)" in output
    assert "conjugation (held out)" in output


def test_sample_shows_surprisals(weather, capsys):
    """Each line is a sentence with its surprisal, which is -log of its probability."""
    assert main(["source", "sample", weather, "-n", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(re.fullmatch(r" +\d\.\d{4} nats  (today|ayer).*", line) for line in lines), lines
    language = open_source(weather).training
    rows = document(capsys, "sample", weather, "-n", "4")
    for row in rows:
        ids = [*language.encode(row["text"]), 1]
        assert row["tokens"] == len(ids)
        assert row["surprisal"] == pytest.approx(-language.sentence_log_prob(ids), abs=1e-12)


def test_sample_of_the_held_out_language(capsys):
    """--held-out without held-out cells is an error that names the missing option."""
    held_out = ["sample", "conjugation", "-n", "2", "--held-out"]
    assert main(["source", *held_out]) == 2
    assert "--holdout" in capsys.readouterr().err
    assert len(document(capsys, *held_out, "--holdout", "24")) == 2


def test_export_shows_the_folder_and_the_floor(weather, tmp_path, capsys):
    """The export is in the folder, and the output has its size and its entropy floor."""
    folder = tmp_path / "export"
    assert main(["source", "export", weather, "--tokens", "100", "-o", str(folder)]) == 0
    output = capsys.readouterr().out
    assert str(folder) in output
    assert f"{open_source(weather).training.entropy_per_token:.9f} nats/token" in output
    assert (folder / "README.txt").exists()
    assert main(["source", "export", weather, "--tokens", "100", "-o", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err
    facts = document(
        capsys, "export", weather, "--tokens", "100", "-o", str(tmp_path / "other"), "--seed", "3"
    )
    assert facts["splits"]["train"]["tokens"] >= 100
    assert facts["seed"] == 3


@pytest.mark.parametrize("action", ["list", "describe", "sample", "export"])
def test_help_has_examples_and_describes_every_option(action, capsys):
    """Every option has a help text, and every action an example."""
    with pytest.raises(SystemExit) as stop:
        main(["source", action, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"  kullback source {action}" in text
    options = text[text.index("options:") : text.index("examples:")]
    for option in re.split(r"\n  (?=-)", options)[1:]:
        assert re.search(r"\S(?:\s{2,}|\n\s+)\S", option), option


def test_a_window_of_sentences_is_refused_with_what_the_command_has(capsys):
    """No text can be given to `source`."""
    assert main(["source", "describe", "conjugation", "--window", "5"]) == 2
    error = capsys.readouterr().err
    assert "a window is for a process; leave it out" in error
    assert "--text" not in error
