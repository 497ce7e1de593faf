"""One pass of a model over a text that keeps a row a token, in memory and, where asked, on disk."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from kullback.evaluation.passages import SHOWN_TOKENS, TOP_K
from kullback.evaluation.passes import ModelPredictor, TokenizedText, token_rows
from kullback.evaluation.token_records import Records, RecordsMetadata, concatenate_records
from kullback.evaluation.token_records_writer import RecordsWriter
from kullback.models.interface import TextModel
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup
from kullback.scoring.token_statistics import TokenStatistics, concatenate_statistics
from kullback.text.fingerprint import Fingerprint

__all__ = ["RecordedPass", "record_pass", "window_records"]


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """What a pass leaves; only in rank 0."""

    records: Records
    beginning: TokenStatistics | None
    """Of the first `SHOWN_TOKENS` rows or a few more, with the most probable tokens."""
    seconds: float
    tokens_read: int
    """Rows that were computed in this call, not taken from a file."""

    @property
    def statistics(self) -> TokenStatistics:
        """The columns that the measures are computed from."""
        return replace(
            TokenStatistics.empty(len(self.records)),
            nll=self.records.nll,
            entropy=self.records.entropy,
            rank=self.records.rank,
            top1=self.records.top1,
            top1_probability=self.records.top1_probability.astype(np.float64),
            sum_of_squares=self.records.sum_of_squares.astype(np.float64),
        )


def record_pass(
    model: TextModel,
    tokenized: TokenizedText,
    identity: Fingerprint,
    path: Path | None,
    processes: ProcessGroup,
    progress: Progress,
    with_beginning: bool,
) -> RecordedPass | None:
    """Run `model` over the text; None for non-zero ranks.

    `path` names a Parquet file for one row a token; a killed run resumes after the rows on disk.
    Raises `InvalidValueError` as `token_rows` does, `RunError` where the file cannot be written.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        writer = None
        if path is not None and processes.is_rank_zero:
            metadata = RecordsMetadata.of(model.name, identity, tokenized.documents)
            writer = stack.enter_context(RecordsWriter(path, metadata))
        # Windows whose rows are all on disk are not read again.
        done = processes.broadcast(0 if writer is None else writer.done)
        first = int(np.searchsorted(tokenized.starts, done, side="right")) - 1
        parts = [writer.earlier().part(slice(0, int(tokenized.starts[first])))] if writer else []
        beginning: list[TokenStatistics] = []
        rows = token_rows(
            ModelPredictor(model), tokenized, processes, progress.tokens, first,
            top_k=TOP_K, top_rows=SHOWN_TOKENS if with_beginning else 0,
        )  # fmt: skip
        for index, statistics in enumerate(rows, start=first):
            if statistics.top_tokens.shape[1]:
                beginning.append(statistics)
            parts.append(window_records(tokenized, index, statistics))
            if writer is not None:
                writer.append(int(tokenized.starts[index]), parts[-1])
    seconds = time.perf_counter() - began
    if not processes.is_rank_zero:
        return None
    if with_beginning and first > 0:
        progress.stage("reading the beginning of the text again, for the report")
        beginning = _beginning_again(model, tokenized)
    return RecordedPass(
        records=concatenate_records(parts),
        beginning=concatenate_statistics(beginning) if beginning else None,
        seconds=seconds,
        tokens_read=len(tokenized) - int(tokenized.starts[first]),
    )


def window_records(tokenized: TokenizedText, index: int, statistics: TokenStatistics) -> Records:
    """The rows of one window, in the types of the records, whether they are written or not."""
    rows = slice(int(tokenized.starts[index]), int(tokenized.starts[index + 1]))
    places, spans_M2 = tokenized.places, tokenized.byte_spans[rows]
    return Records(
        document=places.document_M[rows],
        byte_start=spans_M2[:, 0],
        byte_length=spans_M2[:, 1] - spans_M2[:, 0],
        token_id=tokenized.windows[index].targets,
        position=places.position_M[rows],
        weight=places.weight_M[rows],
        nll=statistics.nll,
        entropy=statistics.entropy,
        rank=statistics.rank,
        top1=statistics.top1,
        top1_probability=statistics.top1_probability,
        sum_of_squares=statistics.sum_of_squares,
    ).typed()


def _beginning_again(model: TextModel, tokenized: TokenizedText) -> list[TokenStatistics]:
    """The beginning of the text, for a run that resumed after it."""
    count = int(np.searchsorted(tokenized.starts, SHOWN_TOKENS))
    rows = token_rows(ModelPredictor(model), tokenized, top_k=TOP_K, top_rows=SHOWN_TOKENS)
    return list(islice(rows, count))
