"""``kullback compare`` where something is on disk, or tokenizers differ."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from html_page import Page

from cli_errors import exit_code, the_error
from kullback.cli import main
from tiny_logits import write_logits
from tiny_models import TEXT

ON_TEXT = "--text text.txt --window 32"


@pytest.fixture(scope="module")
def folder(
    tiny_llama_folder: Path, other_tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two models, what they say of a text in every form, and files that are none of these."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "other.txt").write_text(TEXT[3:], encoding="utf-8")
    rng = np.random.default_rng(0)
    tokens, p = rng.integers(0, 40, (8, 16)), rng.normal(size=(8 * 7, 40))
    models = zip("ab", (tiny_llama_folder, other_tiny_llama_folder), strict=True)
    for seed, (name, model) in enumerate(models):
        shutil.copytree(model, folder / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for kind, file in ((None, "parquet"), ("exact", "rec"), ("top-k", "top")):
                how = [] if kind is None else ["--distributions", kind]
                assert main(["record", name, *ON_TEXT.split(), *how, "-o", f"{name}.{file}"]) == 0
        logits = p + seed * 0.3 * rng.normal(size=p.shape)
        write_logits(folder / f"{name}.kld", tokens, logits)
    for file in ("rec", "parquet"):
        content = (folder / f"a.{file}").read_bytes()
        (folder / f"cut.{file}").write_bytes(content[: len(content) // 2])
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run a command in the folder: its exit code, its output and its errors."""
    monkeypatch.chdir(folder)

    def call(command: str) -> tuple[int, str, str]:
        code = exit_code(command.split())
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


COMPARISONS = {
    "exact and model": f"a.rec b {ON_TEXT}",
    "model and exact": f"a b.rec {ON_TEXT}",
    "two exact": "a.rec b.rec",
    "two exact and the text": "a.rec b.rec --text text.txt",
    "top-k and model": f"a.top b {ON_TEXT}",
    "two top-k": "a.top b.top",
    "two records": "a.parquet b.parquet",
    "records and model": f"a.parquet b {ON_TEXT}",
    "model and records": f"a b.parquet {ON_TEXT}",
    "records and exact": "a.parquet b.rec",
    "top-k and records": "a.top b.parquet --text text.txt",
    "logits files": "a.kld b.kld",
    "by bytes": f"a b --by-bytes {ON_TEXT}",
}


@pytest.mark.parametrize("kind", COMPARISONS)
def test_each_way_prints_json_and_writes_a_page(kind, run, folder, tmp_path):
    """JSON is one document with the measures and both fingerprints; the page shows them."""
    page = tmp_path / "page.html"
    code, out, _ = run(f"compare {COMPARISONS[kind]} --json --report {page}")
    assert code == 0
    result = json.loads(out)
    assert result["schema"] == "kullback.comparison/1"
    assert result["command"].startswith("kullback compare")
    shown = Page(page.read_text(encoding="utf-8")).words
    assert result["title"] in shown
    reference, candidate = result["reference"], result["candidates"][0]["operand"]
    assert result["candidates"][0]["measures"]
    if kind == "logits files":
        assert (reference["fingerprint"], candidate["fingerprint"]) == ("", "")
        assert "KLD" in shown
        return
    assert reference["fingerprint"] in shown
    assert reference["protocol"]["protocol"]["window"] == 32
    assert candidate["fingerprint"] in shown
    assert candidate["fingerprint"] != reference["fingerprint"]
    if kind == "by bytes":  # of the models, which are here
        assert reference["size_bytes"] == candidate["size_bytes"] > 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "exact and model",
            ["KL(reference‖candidate)", "tokens with the largest KL", "is a recording"],
        ),
        ("two exact", ["KL(reference‖candidate)", "candidate: sliding, window 32, stride 16"]),
        ("top-k and model", ["KL, lower bound", "KL, upper bound"]),
        ("model and records", ["ΔCE", "a KL cannot be computed from token records"]),
        ("by bytes", ["ΔCE per byte", "largest differences", "fingerprint"]),
        ("logits files", ["as llama.cpp prints it"]),
    ],
)
def test_each_way_prints_a_table(kind, words, run):
    """The terminal shows the measures, what they depend on, and what they are not."""
    code, out, _ = run(f"compare {COMPARISONS[kind]}")
    assert code == 0
    assert all(word in out for word in words), out


def test_the_order_of_the_operands_is_that_of_the_command(run):
    """ΔCE changes its sign when a file and a model change places."""
    changes = []
    for names in ("a.parquet b", "b a.parquet"):
        result = json.loads(run(f"compare {names} {ON_TEXT} --json")[1])
        changes.append(result["candidates"][0]["measures"]["delta_cross_entropy"]["value"])
    assert changes[0] == pytest.approx(-changes[1], rel=1e-9)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (f"a.rec b {ON_TEXT}", "b against a"),
        (f"a b.rec {ON_TEXT}", "b against a"),
        (f"a.top b {ON_TEXT}", "b against a"),
        ("a.rec b.rec", "b against a"),
        (f"a.rec a {ON_TEXT}", "a against a (recorded)"),
        (f"a.rec FOLDER/a@int8 {ON_TEXT}", "a@int8 against a"),
        (f"FOLDER/a.rec FOLDER/b {ON_TEXT}", "b against a"),
    ],
)
def test_a_recording_is_called_as_its_model(names, title, run, folder):
    """So are the models beside it, without their folders; a note says that it is a recording."""
    code, out, _ = run(f"compare {names.replace('FOLDER', str(folder))} --json")
    assert code == 0
    result = json.loads(out)
    assert result["title"] == title
    assert any("is a recording of" in note for note in result["notes"])


@pytest.mark.parametrize("names", ["a.rec b", "a b.rec", "a.parquet b", "a.top b"])
def test_the_protocol_of_a_recording_is_adopted(names, run):
    """Without options of its own a comparison cuts the text as the recording did."""
    code, out, _ = run(f"compare {names} --text text.txt --json")
    assert code == 0
    protocol = json.loads(out)["reference"]["protocol"]["protocol"]
    assert (protocol["window"], protocol["stride"]) == (32, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a.rec b --text text.txt --window 64", ["a.rec", "--window 32", "--stride 16"]),
        ("a.parquet b --text text.txt --bos never", ["a.parquet", "--bos auto"]),
        ("a.rec b --text other.txt --window 32", ["the texts are not the same", "a.rec"]),
        ("a.parquet b --text other.txt --window 32", ["the texts are not the same", "a.parquet"]),
        ("a.rec b.rec --text other.txt", ["a.rec was recorded on another text"]),
        ("a.parquet b.parquet --text other.txt", ["a.parquet was recorded on another text"]),
        ("a.rec b", ["text", "--text FILE"]),
        ("a.top b", ["text", "--text FILE"]),
        ("a.parquet b", ["text", "--text FILE"]),
        ("a b --by-bytes", ["text", "--text FILE"]),
        ("a.rec b.rec --window 32", ["--window", "both operands are files"]),
        ("a.rec b.rec --no-joined", ["--joined", "both operands are files"]),
        ("a.rec b.rec --field x", ["--field", "both operands are files"]),
        ("a.parquet b.parquet --dtype float64 --bos never", ["--bos, --dtype", "leave these out"]),
        ("a.rec b.rec --protocol sliding", ["--protocol", "both operands are files"]),
        ("a.rec b.rec --device cpu", ["--device", "both operands are files"]),
        (f"a.top b {ON_TEXT} --tolerance 0.1", ["--tolerance", "need the models themselves"]),
        ("a.kld b.kld --text text.txt", ["--text", "both operands are files"]),
        ("a.kld b.rec", ["another such file", "b.rec is neither"]),
        (f"a.rec b {ON_TEXT} --noise-floor", ["noise floor", "a.rec is a recording"]),
        (f"a.rec b@int8 {ON_TEXT} --sensitivity", ["sensitivity", "a.rec is a recording"]),
        (f"a.rec --schemes int8 {ON_TEXT}", ["--schemes", "a.rec is a recording", "MODEL@SCHEME"]),
        ("a.rec a.rec --schemes int8", ["need the models themselves"]),
        (f"a.top b {ON_TEXT} --noise-floor", ["need the models themselves"]),
        (f"a.top b a {ON_TEXT}", ["one candidate"]),
        ("a.rec b.rec b.rec", ["one candidate"]),
        ("a.parquet", ["there is no candidate"]),
        (f"a b b {ON_TEXT}", ["candidate b is named twice"]),
        (f"a b@int8 ./b@int8 {ON_TEXT}", ["candidate b@int8 is named twice"]),
        (f"a a@int8 --schemes int8 {ON_TEXT}", ["candidate a@int8 is named twice"]),
        (f"a b@int8 a/../b@int8 {ON_TEXT}", ["candidate a/../b@int8 is named twice"]),
        (f"a b --tolerance nan {ON_TEXT}", ["--tolerance", "nan", "at least 0"]),
        (f"a b --tolerance=-1 {ON_TEXT}", ["--tolerance", "-1", "at least 0"]),
        (f"a b --tolerance inf {ON_TEXT}", ["--tolerance", "inf", "at least 0"]),
        ("a b --text text.txt --field body", ["--field", "'body'", ".jsonl"]),
        ("a b c@int9 --text none.txt", ["'int9' is unknown"]),
        (f"a b a@int4-g7 {ON_TEXT}", ["int4-g7", "does not fit", "columns"]),
        (f"a.rec b --by-bytes {ON_TEXT}", ["two models that read the text now"]),
        (f"cut.rec b {ON_TEXT}", ["cut.rec", "truncated"]),
        (f"cut.parquet b {ON_TEXT}", ["cut.parquet", "damaged"]),
        ("none.parquet a.parquet", ["no file none.parquet"]),
        ("a.kld b.kld --budget 1MB", ["--budget"]),
        (f"a b {ON_TEXT} --budget lots", ["--budget", "'lots'", "1.5GiB"]),
        (f"a b {ON_TEXT} --budget 1MB --tolerance 0.1", ["--budget", "--tolerance", "give one"]),
        ("none.kld a.kld", ["no file none.kld"]),
        ("a.kld text.txt", ["text.txt"]),
        (f"a.rec b {ON_TEXT} --report text.txt", ["--report is text.txt", "overwritten"]),
        (f"a.rec b {ON_TEXT} --report a.rec", ["--report is a.rec", "overwritten"]),
        (f"text.txt b {ON_TEXT}", ["text.txt is not a recording"]),
        ("a.parquet b.parquet --report .", ["--report is .", "name of a file"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments, words, run, folder):
    """No option is left out in silence: exit code 2, one line with the reason, nothing written."""
    before = sorted(folder.rglob("*"))
    code, out, error = run(f"compare {arguments}")
    assert (code, out) == (2, "")
    sentence = the_error(error)
    assert all(word in sentence for word in words), error
    assert sorted(folder.rglob("*")) == before


def test_a_pipe_is_no_operand(run, folder):
    """Whatever its name promises; nothing waits for a writer."""
    for name in ("pipe", "pipe.kld", "pipe.rec", "pipe.parquet"):
        os.mkfifo(folder / name)
        code, out, error = run(f"compare {name} {name}")
        assert (code, out) == (2, "")
        assert f"{name} is a named pipe" in the_error(error)


@pytest.mark.parametrize("option", ["--field text", "--special-tokens tokens"])
def test_options_of_a_text_need_one_beside_a_logits_file(option, run):
    """Its tokens are those of the file."""
    code, _, err = run(f"compare a.kld b {option}")
    assert code == 2
    assert the_error(err).startswith(f"kullback: {option.split()[0]}: no text is read")


def test_schemes_are_names_between_commas(run, folder, monkeypatch, capsys):
    """Spaces are none of a name; an empty name is refused."""
    code, _, err = run(f"compare a --schemes int8, {ON_TEXT}")
    assert code == 2
    assert "the scheme '' is unknown" in the_error(err)
    monkeypatch.chdir(folder)
    names = ["compare", "a", "--schemes", "int8, bf16", *ON_TEXT.split(), "--json"]
    assert exit_code(names) == 0
    ranked = json.loads(capsys.readouterr().out)["candidates"]
    assert [row["operand"]["name"] for row in ranked] == ["a@int8", "a@bf16"]


def test_recordings_of_models_of_one_name_are_told_apart(folder, tmp_path, monkeypatch, capsys):
    """By their files; logits files of one name by their folders."""
    monkeypatch.chdir(tmp_path)
    for side in "ab":
        shutil.copytree(folder / side, tmp_path / side / "model")
        shutil.copy(folder / f"{side}.kld", tmp_path / side / "base.kld")
        name, text = f"{side}/model", str(folder / "text.txt")
        assert (
            main(["record", name, "--text", text, "--distributions", "exact", "-o", side + ".rec"])
            == 0
        )
    capsys.readouterr()
    for files, names in (
        (["a.rec", "b.rec"], ["model (a.rec)", "model (b.rec)"]),
        (["a/base.kld", "b/base.kld"], ["a/base.kld", "b/base.kld"]),
    ):
        assert main(["compare", *files, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        operands = result["reference"], result["candidates"][0]["operand"]
        assert [operand["name"] for operand in operands] == names
