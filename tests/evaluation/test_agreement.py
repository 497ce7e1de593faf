"""Processes that do not read the same: refused before any row is taken for that of another."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_threads import in_ranks, rank

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation import agreement, predictors, tokenized_text
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.load import load_text_model
from kullback.results.evaluation import Evaluation, NonZeroRank
from kullback.runtime import workers
from kullback.runtime.threads import cores
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics
from kullback.text.documents import Document
from kullback.text.protocol import Protocol
from kullback.text.stored_encodings import StoredEncodings
from tiny_models import TEXT

DOCUMENTS = [Document(f"{i}", TEXT[i : i + 2 + 7 * (i % 9)]) for i in range(40)]


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> HuggingFaceModel:
    """A tiny Llama, in float32."""
    model = load_text_model(str(tiny_llama_folder), torch.float32)
    assert isinstance(model, HuggingFaceModel)
    return model


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 128 tokens, so that the text has several rounds."""
    monkeypatch.setattr(predictors, "CPU_TOKENS", 128)


def read(
    model: HuggingFaceModel, processes: ProcessGroup, documents: list[Document] = DOCUMENTS
) -> TokenStatistics:
    """All rows; none on a non-zero rank."""
    tokenized = TokenizedText.of(documents, Protocol(window=32), model.tokenizer, model.context)
    rows = list(token_rows(ModelPredictor(model), tokenized, processes))
    return concatenate_statistics(rows or [TokenStatistics.empty(0)])


def test_machines_with_other_numbers_of_cores(
    model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds are those of rank 0: each row is that of its own window."""
    alone = read(model, ProcessGroup())
    monkeypatch.setattr(workers, "cores", lambda: 1 + rank())
    monkeypatch.setattr(workers, "WINDOWS_A_THREAD", 1)
    together, nothing = in_ranks(lambda processes: read(model, processes))
    assert isinstance(together, TokenStatistics)
    torch.testing.assert_close(together.nll, alone.nll, atol=1e-5, rtol=0)
    assert isinstance(nothing, TokenStatistics)
    assert not len(nothing)


def test_rank_zero_decides_which_windows_share_a_batch(
    model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one process alone found its memory too small for padding, the rows stay in order."""
    alone = read(model, ProcessGroup())
    monkeypatch.setattr(
        HuggingFaceModel, "sharing", lambda self, longest: ("padded", "alone")[rank()]
    )
    together, _ = in_ranks(lambda processes: read(model, processes))
    assert isinstance(together, TokenStatistics)
    torch.testing.assert_close(together.nll, alone.nll, atol=1e-5, rtol=0)


def refused(*results: object) -> str:
    """The sentence that all ranks say."""
    sentences = [str(result) for result in results if isinstance(result, InvalidValueError)]
    assert len(sentences) == 2, results
    assert sentences[0] == sentences[1]
    assert "torchrun" in sentences[0]
    assert "rank 1 on" in sentences[0]
    return sentences[0]


def test_another_text_is_refused(model: HuggingFaceModel) -> None:
    """In all processes, before anything is computed, even where the lengths are the same."""
    other = [Document("0", "xy"), *DOCUMENTS[1:]]
    texts = [DOCUMENTS, other]
    assert "tokens of the text" in refused(
        *in_ranks(lambda processes: read(model, processes, texts[processes.rank]))
    )
    assert "tokens of the text" in refused(
        *in_ranks(
            lambda processes: evaluate_text(
                model, texts[processes.rank], Protocol(window=32), processes=processes
            )
        )
    )


def test_the_text_is_cut_once_on_a_machine(
    model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process reads the tokens of the first one, which uses all cores, and keeps none."""
    threads: list[int | None] = []
    own = tokenized_text.encode_documents

    def encode(*arguments: Any, **named: Any) -> StoredEncodings:
        threads.append(named.get("threads"))
        return own(*arguments, **named)

    monkeypatch.setattr(tokenized_text, "encode_documents", encode)
    alone = read(model, ProcessGroup())

    def cut(processes: ProcessGroup) -> TokenizedText:
        tokenizer, protocol = model.tokenizer, Protocol(window=32)
        tokenized = TokenizedText.of(
            DOCUMENTS, protocol, tokenizer, model.context, processes=processes
        )
        agreement.check_same_tokens(processes, tokenized)
        return tokenized

    first, second = in_ranks(cut, local=2)
    assert threads == [None, cores()]
    assert isinstance(first, TokenizedText)
    assert isinstance(second, TokenizedText)
    assert second.encodings.digest == first.encodings.digest
    rows = concatenate_statistics(list(token_rows(ModelPredictor(model), second)))
    assert rows.nll.tolist() == alone.nll.tolist()
    for mine, yours in zip(first.encodings, second.encodings, strict=True):
        assert mine.spans(0, len(mine)).tolist() == yours.spans(0, len(yours)).tolist()
    places = second.encodings.shared()[0], first.encodings.shared()[0]
    assert places[0].inode == places[1].inode


def test_a_file_of_another_process_that_cannot_be_opened(
    model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then each process cuts the text itself."""

    def fail(files: object) -> None:
        raise RunError("cannot be opened")

    monkeypatch.setattr(StoredEncodings, "opened", fail)
    both = in_ranks(
        lambda processes: evaluate_text(model, DOCUMENTS, Protocol(window=32), processes=processes),
        local=2,
    )
    assert isinstance(both[0], Evaluation), both
    assert isinstance(both[1], NonZeroRank)


def test_rank_zero_alone_measures_noise_and_temperature(model: HuggingFaceModel) -> None:
    """The other returns after the pass: it loads no second model, and rank 0 has its cores."""
    loaded: list[int] = []

    def exact() -> HuggingFaceModel:
        loaded.append(rank())
        return model

    task = TextTask(exact=exact, temperature=True)
    both = in_ranks(
        lambda processes: evaluate_text(model, DOCUMENTS, Protocol(window=32), task, processes),
        local=2,
    )
    assert loaded == [0]
    assert isinstance(both[0], Evaluation), both
    assert "temperature_saves" in both[0].measures
    assert isinstance(both[1], NonZeroRank)


def test_other_texts_of_one_machine_are_refused(model: HuggingFaceModel) -> None:
    """Although the tokens would be those of the first."""
    texts = [DOCUMENTS, [Document("0", "xy"), *DOCUMENTS[1:]]]
    assert "tokens of the text" in refused(
        *in_ranks(
            lambda processes: evaluate_text(
                model, texts[processes.rank], Protocol(window=32), processes=processes
            ),
            local=2,
        )
    )


def test_other_weights_are_refused(model: HuggingFaceModel) -> None:
    """The model is named; an equal one of its own in each process is not refused."""
    models = [model, replace(model, model=copy.deepcopy(model.model))]
    first, _ = in_ranks(lambda processes: read(models[processes.rank], processes))
    assert isinstance(first, TokenStatistics)
    next(models[1].model.parameters()).data.add_(1)
    assert f"the model {model.name}" in refused(
        *in_ranks(lambda processes: read(models[processes.rank], processes))
    )


def test_another_plan_is_refused(model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should batches differ for any other reason, the processes say so."""
    monkeypatch.setattr(predictors, "token_budget", lambda *predictors: 128)
    monkeypatch.setattr(agreement, "token_budget", lambda *predictors: 128)
    monkeypatch.setattr(
        "kullback.evaluation.batched_rows.token_budget", lambda *predictors: 128 - rank() * 64
    )
    assert "batches" in refused(*in_ranks(lambda processes: read(model, processes)))
