"""Base-logits files of llama.cpp beside each other, and beside models."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

import kullback
from kullback.comparison.logits_files import compare_logits_files
from kullback.comparison.logits_tokens import bos_notes
from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from tiny_logits import reproducible_llama, write_logits
from tiny_models import TEXT

CHUNKS, CONTEXT = 8, 16
ROWS = CHUNKS * (CONTEXT - 1 - CONTEXT // 2)


def pair(folder: Path, V: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true log p and log q of two files, base and q, and the targets."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (CHUNKS, CONTEXT))
    p = rng.normal(size=(ROWS, V)) * scale
    q = p + 0.3 * rng.normal(size=p.shape)
    for name, logits in (("base", p), ("q", q)):
        write_logits(folder / name, tokens, logits)
    targets = tokens[:, CONTEXT // 2 + 1 :].reshape(-1)
    return log_softmax(p, axis=1), log_softmax(q, axis=1), targets


def test_the_kl_is_exact_where_nothing_was_clipped(tmp_path: Path) -> None:
    """It is that of the logits to what the note says that rounding leaves."""
    log_p, log_q, targets = pair(tmp_path, 40, 1.0)
    result = compare_logits_files(tmp_path / "base", tmp_path / "q")
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    note = next(note for note in result.notes if "nothing was clipped" in note)
    left = float(note.split()[-2])
    assert left < 1e-4
    assert abs(result.measures["kl"].value - kl) <= left
    nll = -log_p[np.arange(ROWS), targets].mean()
    assert result.measures["reference_cross_entropy"].value == pytest.approx(nll, abs=1e-4)
    assert "KLD" in result.llama_cpp
    assert (result.reference.fingerprint, result.candidates[0].operand.protocol) == ("", {})


def test_a_file_beside_itself_is_identical(tmp_path: Path) -> None:
    """Every KL is 0."""
    pair(tmp_path, 40, 1.0)
    assert compare_logits_files(tmp_path / "base", tmp_path / "base").candidates[0].identical


def test_clipping_leaves_bounds_and_no_bias(tmp_path: Path) -> None:
    """The KL of clipped files is bounded, their cross-entropy that of unclipped targets."""
    log_p, log_q, targets = pair(tmp_path, 400, 5.0)
    result = compare_logits_files(tmp_path / "base", tmp_path / "q")
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    lower, upper = (result.measures[f"kl_{end}_bound"].value for end in ("lower", "upper"))
    assert 0.98 * kl < lower <= kl
    assert upper == np.inf
    assert "kl" not in result.measures
    assert any("no upper bound" in note for note in result.notes)
    # Of the targets that are clipped nothing but the limit is known.
    nll = -log_p[np.arange(ROWS), targets]
    at_limit = np.minimum(nll, 16 - log_p.max(axis=1))
    value = result.measures["reference_cross_entropy"].value
    assert value == pytest.approx(at_limit.mean(), abs=2e-4)
    limit_q = 16 - log_q.max(axis=1)
    clipped = int(((nll > at_limit) | (-log_q[np.arange(ROWS), targets] > limit_q)).sum())
    assert clipped > 0
    assert any(note.startswith(f"{clipped} of {ROWS} target tokens") for note in result.notes)
    printed = next(line for line in result.llama_cpp.splitlines() if "PPL(base)" in line)
    assert float(printed.split(":")[1].split()[0]) == pytest.approx(np.exp(value), rel=1e-4)


@pytest.mark.parametrize("damaged", ["base", "q"])
def test_rows_must_sum_to_one_in_both_files(damaged: str, tmp_path: Path) -> None:
    """A row of either file whose probabilities do not is named."""
    pair(tmp_path, 40, 1.0)
    content = bytearray((tmp_path / damaged).read_bytes())
    # The uint16 of the tokens of the last row, which all become the largest.
    content[-2 * 40 :] = b"\xff" * (2 * 40)
    (tmp_path / damaged).write_bytes(content)
    with pytest.raises(InvalidValueError, match=f"{damaged} is damaged.*row {ROWS - 1} sum to"):
        compare_logits_files(tmp_path / "base", tmp_path / "q")


def test_long_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on how many rows are read at once."""
    pair(tmp_path, 400, 5.0)
    whole = compare_logits_files(tmp_path / "base", tmp_path / "q")
    monkeypatch.setattr("kullback.comparison.logits_files.BLOCK_BYTES", 8 * 400 * 3)
    monkeypatch.setattr("kullback.comparison.logits_files.ROWS", 10)
    parts = compare_logits_files(tmp_path / "base", tmp_path / "q")
    assert parts.llama_cpp == whole.llama_cpp
    assert parts.measures["kl_lower_bound"].value == whole.measures["kl_lower_bound"].value


# --- models ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of what the tiny model predicts, in chunks of 24 tokens, beside its text."""
    folder = tmp_path_factory.mktemp("logits")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    kullback.record(
        tiny_llama_folder, folder / "text.txt", folder / "base.kld", format="llama.cpp", window=24
    )
    return folder


def test_a_model_beside_its_own_file_differs_by_rounding(
    written: Path, tiny_llama_folder: Path
) -> None:
    """ΔCE and KL of the model that wrote a file are what rounding leaves, with the text or not."""
    result = kullback.compare(written / "base.kld", tiny_llama_folder)
    assert abs(result.measures["delta_cross_entropy"].value) < 5e-5
    assert result.measures["kl"].value < 1e-7
    assert result.measures["top1_agreement"].value == 1.0
    again = kullback.compare(written / "base.kld", tiny_llama_folder, written / "text.txt")
    assert again.measures == result.measures
    assert again.documents == 1
    read = kullback.compare(
        written / "base.kld", tiny_llama_folder, written / "text.txt", special_tokens="tokens"
    )
    assert read.measures == result.measures


def test_a_file_has_the_numbers_of_the_protocol(written: Path, tiny_llama_folder: Path) -> None:
    """Cross-entropies are those that the protocol llama.cpp gives to file and candidate."""
    text, candidate = written / "text.txt", f"{tiny_llama_folder}@int4-g32"
    result = kullback.compare(written / "base.kld", candidate)
    evaluated = [
        kullback.evaluate(model, text, protocol="llama.cpp", window=24).measures["cross_entropy"]
        for model in (tiny_llama_folder, candidate)
    ]
    for name, expected in zip(("reference", "candidate"), evaluated, strict=True):
        value = result.measures[f"{name}_cross_entropy"].value
        assert value == pytest.approx(expected.value, abs=5e-5), name
    direct = kullback.compare(tiny_llama_folder, candidate, text, protocol="llama.cpp", window=24)
    assert result.measures["kl"].value == pytest.approx(direct.measures["kl"].value, abs=1e-5)


def test_the_file_begins_each_text_as_llama_cpp_does(written: Path, tiny_llama: object) -> None:
    """Its tokens are the text's own, cut into chunks; BOS comes first where one is added."""
    base = LlamaCppLogits.open(written / "base.kld")
    tokenizer = tiny_llama.tokenizer  # type: ignore[attr-defined]  # a HuggingFaceModel
    ids = tokenizer.encode(TEXT.removesuffix("\n")).ids
    if tokenizer.adds_bos:
        ids = np.concatenate([[tokenizer.bos_id], ids])
    assert base.context == 24
    np.testing.assert_array_equal(base.tokens_CT.reshape(-1), ids[: base.tokens_CT.size])


def test_another_beginning_of_the_chunks_is_noted(written: Path) -> None:
    """A KL that is due to BOS has a note, whichever of the two reads it."""
    base = LlamaCppLogits.open(written / "base.kld")
    first = int(base.tokens_CT[0, 0])

    def notes(bos_id: int | None, adds_bos: bool) -> list[str]:
        tokenizer = SimpleNamespace(
            bos_id=bos_id, adds_bos=adds_bos, special_strings=(), token_text=lambda _: "<s>"
        )
        model: Any = SimpleNamespace(name="m", tokenizer=tokenizer)
        return bos_notes(base, model, "auto")

    assert notes(first, True) == notes(None, False) == notes(first + 1, False) == []
    assert ["--bos never" in note for note in notes(first + 1, True)] == [True]
    assert ["--bos always" in note for note in notes(first, False)] == [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 24}, "--window"),
        ({"protocol": "sliding"}, "--protocol"),
        ({"schemes": "int8"}, "--schemes"),
        ({"text": "other.txt"}, "another text"),
    ],
)
def test_what_the_file_fixes_is_refused(
    options: dict[str, str], words: str, written: Path, tiny_llama_folder: Path
) -> None:
    """Options that would cut the tokens otherwise, and another text, are named."""
    (written / "other.txt").write_text(TEXT.swapcase(), encoding="utf-8")
    if "text" in options:
        options = {"text": str(written / options["text"])}
    with pytest.raises(InvalidValueError, match=words):
        kullback.compare(written / "base.kld", tiny_llama_folder, **options)  # type: ignore[arg-type]  # by name


def test_another_tokenizer_or_vocabulary_is_refused(
    written: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """A file over another vocabulary, and one whose ids mean other text, are not compared."""
    base = LlamaCppLogits.open(written / "base.kld")
    V = base.vocabulary_size
    zeros = np.zeros((len(base), V + 3))
    write_logits(tmp_path / "wide.kld", base.tokens_CT, zeros)
    with pytest.raises(InvalidValueError, match=f"vocabulary of {V + 3}, .* of {V}"):
        kullback.compare(tmp_path / "wide.kld", tiny_llama_folder)


def test_a_file_is_the_reference(written: Path, tiny_llama_folder: Path) -> None:
    """As a candidate beside a model it is refused, with the order to give."""
    with pytest.raises(InvalidValueError, match="name it first"):
        kullback.compare(tiny_llama_folder, written / "base.kld", written / "text.txt")


# --- a file that llama.cpp wrote, and what it printed of it -----------------------------------

BASE = Path(__file__).with_name("llama_cpp_base.kld")


def test_what_llama_cpp_prints_of_its_own_file(tmp_path: Path) -> None:
    """The numbers of ``llama-perplexity --kl-divergence`` for another model, digit by digit."""
    result = kullback.compare(BASE, reproducible_llama(tmp_path / "b", noise=0.05))
    printed = dict(line.split(": ") for line in result.llama_cpp.splitlines() if ": " in line)
    expected = {
        "Mean PPL(Q)": (59337.7159, 23756.9725, 0.01),
        "Mean ln(PPL(Q)/PPL(base))": (0.36390, 0.15336, 1e-5),
        "Mean KLD": (0.55208, 0.07807, 1e-5),
        "RMS Δp": (0.889, 0.269, 1e-3),
        "Same top p": (62.366, 5.051, 1e-3),
    }
    for name, (value, error, digit) in expected.items():
        line = next(text for key, text in printed.items() if key.strip() == name)
        shown = line.replace("%", "").split("±")
        assert float(shown[0]) == pytest.approx(value, abs=digit), name
        assert float(shown[1].split()[0]) == pytest.approx(error, abs=digit), name
    assert result.measures["top1_agreement"].value == pytest.approx(0.62366, abs=1e-5)
    change = result.measures["delta_cross_entropy"].value
    assert change == pytest.approx(0.36390, abs=1e-5)
    lower, upper = (result.measures[f"kl_{end}_bound"].value for end in ("lower", "upper"))
    assert lower < 0.55208 < upper < lower + 1e-3


def test_our_file_is_that_of_llama_cpp(tmp_path: Path) -> None:
    """What we write of the same weights has its tokens, and its codes to the order of a sum."""
    folder = reproducible_llama(tmp_path / "a", noise=0.0)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    kullback.record(
        folder, tmp_path / "text.txt", tmp_path / "a.kld", format="llama.cpp", window=64
    )
    ours, theirs = LlamaCppLogits.open(tmp_path / "a.kld"), LlamaCppLogits.open(BASE)
    np.testing.assert_array_equal(ours.tokens_CT[:3], theirs.tokens_CT)
    rows = slice(0, len(theirs))
    first, second = ours.rounded(rows), theirs.rounded(rows)
    assert first.clipped_BV is not None
    assert second.clipped_BV is not None
    assert (first.clipped_BV != second.clipped_BV).double().mean() < 1e-3
    known = ~(first.clipped_BV | second.clipped_BV)
    difference = (first.log_p_BV - second.log_p_BV).abs()[known]
    assert float(difference.max()) < 2 * 16 / 65535 + 1e-4
    assert float(difference.mean()) < 1e-4
    # The surprisals of all that is not clipped give the perplexity that it printed: 46944.6134.
    target = theirs.targets[:, None]
    nll = -first.log_p_BV.numpy()[np.arange(len(theirs)), target[:, 0]]
    assert np.exp(nll.mean()) < 46944.6134
    evaluated = kullback.evaluate(
        folder, tmp_path / "text.txt", protocol="llama.cpp", window=64
    ).tokens.to_dict()["nll"][: len(theirs)]
    assert math.exp(sum(evaluated) / len(evaluated)) == pytest.approx(46944.6134, rel=1e-5)
