"""Evaluating a model on a text, end to end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import kept_rows, predictors, recorded_pass, token_records_writer
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.passes import ModelPredictor, TokenizedText
from kullback.evaluation.token_records import read_records
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.models.interface import TextModel
from kullback.models.load import load_text_model
from kullback.results.evaluation import Evaluation
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from tiny_models import TEXT

DOCUMENTS = [Document(f"part {i}", TEXT[i : i + 200]) for i in range(4)]


def evaluate(
    model: TextModel,
    documents: list[Document] = DOCUMENTS,
    progress: Progress | None = None,
    **task: object,
) -> Evaluation:
    """The result of `model` on the documents, in windows of 32."""
    result = evaluate_text(
        model, documents, Protocol(window=32), TextTask(**task), progress=progress
    )
    assert isinstance(result, Evaluation)
    return result


class Tokens(Progress):
    """Hands the tokens that are done to a function."""

    def __init__(self, note: Callable[[int, int], None]) -> None:
        self.tokens = note  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def found(
    tiny_llama: TextModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path]:
    """The results, and the records that they were computed from."""
    path = tmp_path_factory.mktemp("records") / "tokens.parquet"
    return evaluate(tiny_llama, records=path, passages=True), path


def test_measures_are_those_of_the_records(found):
    """Each measure can be computed again from the records, by its definition."""
    results, path = found
    _, rows = read_records(path)
    total, value = rows.nll.sum(), lambda name: results.measures[name].value
    # Without BOS and EOS the first byte of each document is not scored.
    scored = sum(each.n_bytes - 1 for each in DOCUMENTS)
    assert len(rows) == results.scored_tokens == scored
    assert value("cross_entropy") == pytest.approx(total / len(rows), rel=1e-12)
    assert value("perplexity") == pytest.approx(math.exp(total / len(rows)), rel=1e-12)
    bits = total / math.log(2) / rows.byte_length.sum()
    assert value("bits_per_byte") == pytest.approx(bits, rel=1e-12)
    assert value("byte_perplexity") == pytest.approx(2**bits, rel=1e-12)
    # Of the words the part that is scored.
    words = sum(each.n_words * (each.n_bytes - 1) / each.n_bytes for each in DOCUMENTS)
    assert value("word_perplexity") == pytest.approx(math.exp(total / words), rel=1e-12)
    assert value("entropy") == pytest.approx(rows.entropy.mean(), rel=1e-12)
    for k in (1, 5, 10):
        assert value(f"top{k}_accuracy") == pytest.approx((rows.rank <= k).mean(), rel=1e-12)
    brier = rows.sum_of_squares - 2 * np.exp(-rows.nll) + 1
    assert value("brier") == pytest.approx(brier.mean(), rel=1e-7)
    expected = rows.sum_of_squares.astype(np.float64)
    for name, forecast, outcome in (
        ("ece", rows.top1_probability.astype(np.float64), rows.rank == 1),
        ("target_ece", expected, np.exp(-rows.nll)),
    ):
        inner = np.quantile(forecast, np.arange(1, 15) / 15, method="inverted_cdf")
        bins = np.searchsorted(np.unique(inner), forecast, side="left")
        gaps = np.bincount(bins, outcome - forecast) / len(rows)
        assert value(name) == pytest.approx(np.abs(gaps).sum(), rel=1e-6)
    assert value("rms_calibration_error") >= 0
    shares = [bin.weight for bin in results.target_reliability]
    assert sum(shares) == pytest.approx(1.0)


def test_every_number_has_an_interval_and_the_whole_is_json(found):
    """Intervals hold their value, and JSON gives the result back."""
    results, _ = found
    for name, measurement in results.measures.items():
        low, high = measurement.interval
        assert low <= measurement.value <= high, name
    assert Evaluation.from_json(results.to_json()) == results
    assert sum(results.nll_histogram.share) == pytest.approx(1.0)
    assert sum(results.nll_by_position.count) == results.scored_tokens


def test_passages_spell_the_text(found):
    """The tokens that are shown, put together, are the beginning of each document but its first."""
    results, _ = found
    first = results.passages[0]
    assert first.document == "part 0"
    assert first.byte_start == 1
    assert "quick brown fox" in "".join(token.text for token in first.tokens)
    assert all(len(token.top) == 5 for token in first.tokens)


def test_the_table_of_tokens_is_that_of_the_records(found):
    """`tokens` has the rows that the file has, and the text that they spell."""
    results, path = found
    frame, (_, rows) = results.tokens.to_pandas(), read_records(path)
    np.testing.assert_array_equal(frame["nll"], rows.nll)
    part = frame[frame["document"] == "part 0"]
    letters = DOCUMENTS[0].text[1:]
    # A byte that is only a part of a character is shown as one mark.
    spelt = "".join(c if c.isascii() else "▒" * len(c.encode()) for c in letters)
    assert "".join(part["text"]) == spelt
    with pytest.raises(InvalidValueError, match="records="):
        _ = Evaluation.from_json(results.to_json()).tokens


def test_an_interrupted_run_goes_on_to_the_same_numbers(found, tiny_llama, tmp_path, monkeypatch):
    """A run that stopped in between, run again, gives the same measures and the same file."""
    results, whole = found
    path = tmp_path / "tokens.parquet"

    def small(*arguments: object) -> RecordsWriter:
        return RecordsWriter(*arguments, rows_per_group=100)  # type: ignore[arg-type]

    monkeypatch.setattr(recorded_pass, "RecordsWriter", small)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_llama, records=path, progress=Tokens(stop))
    assert not path.exists()
    begun: list[int] = []
    progress = Tokens(lambda done, total: begun.append(done))
    again = evaluate(tiny_llama, records=path, passages=True, progress=progress)
    assert begun[0] > 100
    assert again.measures == results.measures
    assert again.passages == results.passages
    whole_once = tmp_path / "once.parquet"
    evaluate(tiny_llama, records=whole_once)
    assert path.read_bytes() == whole_once.read_bytes()
    np.testing.assert_array_equal(read_records(path)[1].nll, read_records(whole)[1].nll)


def test_a_killed_run_without_records_goes_on_to_the_same_numbers(
    found, tiny_llama, tmp_path, monkeypatch
):
    """The rows in the state folder are those of any moment; a finished run leaves none."""
    monkeypatch.setattr(predictors, "CPU_TOKENS", 32)  # batches of a window
    state, killed = tmp_path / "state", tmp_path / "killed"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setattr(kept_rows, "SECONDS_WORTH_KEEPING", 0.0)
    monkeypatch.setattr(recorded_pass, "SECONDS_AT_ONCE", 0.0)
    monkeypatch.setattr(token_records_writer, "SECONDS_PER_SAVE", 0.0)
    monkeypatch.setattr(kept_rows, "in_background", lambda compute: compute())

    def look(done: int, total: int) -> None:
        if done > total // 2 and not killed.exists():
            shutil.copytree(state, killed)

    once = evaluate(tiny_llama, progress=Tokens(look))
    assert not [file for file in state.rglob("*") if file.is_file()]
    shutil.copytree(killed, state, dirs_exist_ok=True)
    begun: list[int] = []
    again = evaluate(tiny_llama, progress=Tokens(lambda done, total: begun.append(done)))
    assert begun[0] > 100
    assert again.measures == once.measures
    assert again.scored_tokens == found[0].scored_tokens
    assert not [file for file in state.rglob("*") if file.is_file()]


def test_a_full_state_folder_does_not_end_a_run(found, tiny_llama, tmp_path, monkeypatch):
    """What cannot be kept for another run is no reason to end this one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_rows, "SECONDS_WORTH_KEEPING", 0.0)
    monkeypatch.setattr(recorded_pass, "SECONDS_AT_ONCE", 0.0)
    monkeypatch.setattr(token_records_writer, "SECONDS_PER_SAVE", 0.0)
    monkeypatch.setattr(kept_rows, "in_background", lambda compute: compute())
    write = Mock(side_effect=RunError("no space"))
    monkeypatch.setattr(token_records_writer, "write_atomically", write)
    assert evaluate(tiny_llama).measures == found[0].measures
    assert write.called
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_the_fingerprint_tells_what_the_numbers_depend_on(found, tiny_llama):
    """Another window or text gives another fingerprint; other names of the documents do not."""
    results, _ = found
    once = results.fingerprint

    def other(documents: list[Document], protocol: Protocol) -> str:
        result = evaluate_text(tiny_llama, documents, protocol)
        assert isinstance(result, Evaluation)
        return result.fingerprint

    renamed = [Document("x" + each.name, each.text) for each in DOCUMENTS]
    assert other(renamed, Protocol(window=32)) == once
    assert other(DOCUMENTS, Protocol(window=31)) != once
    assert other(DOCUMENTS[:-1], Protocol(window=32)) != once


def test_bfloat16_is_near_float32(found, tiny_llama, tiny_llama_folder):
    """In bfloat16 the cross-entropy differs by less than 0.05 nats, and not by nothing."""
    narrow = load_text_model(str(tiny_llama_folder), torch.bfloat16)
    rounded = evaluate(narrow, exact=lambda: tiny_llama)
    exact = found[0].measures["cross_entropy"].value
    assert 0 < abs(rounded.measures["cross_entropy"].value - exact) < 0.05
    assert any("bfloat16 instead of float32 changes" in note for note in rounded.notes)


@pytest.mark.parametrize("text", ["", "x"])
def test_nothing_to_score_is_an_error(tiny_llama, text):
    """An empty text, or one of a single token, is an error that says so."""
    with pytest.raises(InvalidValueError, match=r"the text has [01] token"):
        evaluate_text(tiny_llama, [Document("short", text)], Protocol())


def test_the_best_temperature_is_the_one_of_a_fine_grid(tiny_llama):
    """The temperature found has the smallest nll of a fine grid, computed from the logits."""
    documents, protocol = DOCUMENTS[:2], Protocol(window=32)
    results = evaluate(tiny_llama, documents, temperature=True)
    (note,) = (note for note in results.notes if note.startswith("temperature"))
    best_of_ours = float(note.split()[1].rstrip(","))
    tokenized = TokenizedText.of(documents, protocol, tiny_llama.tokenizer, tiny_llama.context)
    logits, targets = [], []
    for window in tokenized.windows:
        inputs = torch.from_numpy(window.inputs)[None]
        with torch.no_grad():
            logits.append(tiny_llama.model(inputs).logits[0, window.rows].double())
        targets.append(torch.from_numpy(window.targets))
    whole, target = torch.cat(logits), torch.cat(targets)
    grid = np.exp(np.arange(np.log(0.25), np.log(4.0), 0.002))
    nll = [float(torch.nn.functional.cross_entropy(whole / t, target)) for t in grid]
    best = grid[int(np.argmin(nll))]
    assert best_of_ours == pytest.approx(best, rel=0.004)
    saved = float(torch.nn.functional.cross_entropy(whole, target)) - min(nll)
    assert results.measures["temperature_saves"].value == pytest.approx(saved, rel=1e-3)


def test_the_beginning_is_read_again_without_the_rest(found, tiny_llama, monkeypatch):
    """Of records that are finished a report needs the windows of the tokens that it shows."""
    results, path = found
    rows, predict = [], ModelPredictor.predictions

    def predictions(predictor, batch):
        rows.extend(map(len, batch.windows))
        return predict(predictor, batch)

    monkeypatch.setattr(recorded_pass, "SHOWN_TOKENS", 40)
    monkeypatch.setattr(ModelPredictor, "predictions", predictions)
    again = evaluate(tiny_llama, records=path, passages=True)
    assert 40 <= sum(rows) < 40 + 32
    texts = [[token.text for token in result.passages[0].tokens] for result in (again, results)]
    assert texts[0][:40] == texts[1][:40]
    assert again.measures == results.measures
