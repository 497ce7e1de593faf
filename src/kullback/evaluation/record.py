"""`kullback.record`: what a model predicts of a text, on disk, to compare later or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from kullback.errors import InvalidValueError
from kullback.evaluation.batched_rows import BatchLimit, window_predictions
from kullback.evaluation.memory_remedies import memory_remedies
from kullback.evaluation.on_text import TextTask, coverage_notes, evaluate_text, model_fingerprint
from kullback.evaluation.options import Model, PassOptions, model_name, named_paths
from kullback.evaluation.passes import ModelPredictor, TokenizedText
from kullback.evaluation.record_llama_cpp import as_llama_cpp, record_llama_cpp
from kullback.evaluation.text_ahead import TextAhead
from kullback.evaluation.token_records_writer import check_groups
from kullback.models.interface import TextModel
from kullback.models.llama_cpp_options import Backend
from kullback.models.placement import DeviceMap
from kullback.predictions.base import FactoredPredictions
from kullback.predictions.recording import Kind
from kullback.predictions.recording_writer import RecordingWriter
from kullback.results.evaluation import NonZeroRank
from kullback.results.recording import RecordingResult
from kullback.runtime.background import in_background
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.contents import FileKind
from kullback.runtime.interrupted import STOPS
from kullback.runtime.interruption import to_keep
from kullback.runtime.locks import locked_output
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import TOP_K
from kullback.runtime.workers import ProcessGroup, process_group
from kullback.text.documents import Document
from kullback.text.inputs import Text, paths_of
from kullback.text.protocol import Bos, Preset, Protocol
from kullback.text.special_spellings import Spelled

__all__ = ["DEFAULT_K", "record", "record_text"]

DEFAULT_K = 64


def record(
    model: Model,
    text: Text,
    output: str | Path,
    *,
    distributions: Literal["exact", "top-k"] | None = None,
    format: Literal["llama.cpp"] | None = None,
    k: int | None = None,
    protocol: Preset | None = None,
    window: int | None = None,
    stride: int | None = None,
    bos: Bos | None = None,
    joined: bool | None = None,
    special_tokens: Spelled | None = None,
    field: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
    backend: Backend | None = None,
    stream: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> RecordingResult | NonZeroRank:
    """Write what `model` predicts of `text` to `output`.

    Without `distributions`: token records, at most 64 bytes a token, as Parquet.  "exact" keeps
    hidden states and the head, from which every KL can be computed; "top-k" keeps `k` probabilities
    a token (64), from which it is only bounded.  A killed run resumes.  The format "llama.cpp" is
    that of ``llama-perplexity --kl-divergence-base``, with its protocol; it does not resume, and
    cannot `stream`.  An existing file of another kind is replaced only with `force`.  The other
    options, one for each part of the protocol and the arithmetic, are those of `kullback.evaluate`.

    Raises `InvalidValueError` for a text, protocol, model or file name that does not fit,
    `RunError` where the file cannot be written.
    """
    kind: FileKind = "logits" if format else "recording" if distributions else "records"
    read = [*named_paths(model), *paths_of(text)]
    check_outputs(Output("the output (-o)", output, kind), inputs=read, force=force)
    path = Path(output)
    _check(path, distributions, format, k)
    options = PassOptions(
        field=field, protocol=protocol, window=window, stride=stride, bos=bos, joined=joined,
        special_tokens=special_tokens, dtype=dtype, device=device, device_map=device_map,
        trust_remote_code=trust_remote_code or None, backend=backend, stream=stream or None,
    )  # fmt: skip
    _check_options(options, model, format)
    progress = progress or Progress()
    cut = options.to_protocol()
    if format is not None:
        cut = as_llama_cpp(cut, protocol is not None)
    documents = options.documents(text, progress)
    with process_group() as processes, _locked(path, kind, processes):
        options.check_processes(processes)
        # Before a model is loaded that this process would not use.
        if kind != "records" and not processes.is_rank_zero:
            return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
        progress.stage(f"loading {model_name(model)}")
        remedy = memory_remedies([model], vars(options), streams=format is None)
        sized = options.load(model, progress=progress, remedy=remedy)
        if kind == "records":
            task = TextTask(records=path, what="recording")
            result = evaluate_text(sized.model, documents, cut, task, processes, progress)
            if isinstance(result, NonZeroRank):
                return result
            return _result(path, "token records", result.scored_tokens, result.notes)
        limit = BatchLimit()
        if distributions is None:
            tokenized = record_llama_cpp(sized.model, documents, cut, path, progress)
        else:
            tokenized = record_text(
                sized.model, documents, cut, path, distributions,
                DEFAULT_K if k is None else k, progress, sized.size_bytes, limit,
            )  # fmt: skip
        notes = (*sized.model.notes, *coverage_notes(tokenized), *limit.notes)
        return _result(path, distributions or "llama.cpp", len(tokenized), notes)


def _result(path: Path, kind: str, tokens: int, notes: tuple[str, ...]) -> RecordingResult:
    """What the file that was written contains."""
    return RecordingResult(
        file=str(path), kind=kind, tokens=tokens, bytes=path.stat().st_size, notes=notes
    )


def record_text(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    path: Path,
    kind: Kind = "exact",
    k: int = DEFAULT_K,
    progress: Progress | None = None,
    size_bytes: int | None = None,
    limit: BatchLimit | None = None,
) -> TokenizedText:
    """Write what `model` predicts of `documents` to `path`; returns what was read.

    `size_bytes` is what the weights take, where that is known: a comparison ranks by it; `limit` is
    as for `token_rows`.  What a killed or interrupted call has written is kept beside `path`, and
    resumed by the same call.  Raises `InvalidValueError` for a text, protocol or kind that does not
    fit, `RunError` where the file cannot be written.
    """
    progress = progress or Progress()
    weights = in_background(model.weights_fingerprint)
    progress.part("cutting the text into tokens")
    with TextAhead.of(documents, protocol, model, progress) as text:
        text.begin()
        progress.stage(f"recording {model.name} on {model.device.type}")
        metadata = {
            "model": model.name,
            "size_bytes": size_bytes,
            "begins_with": model.tokenizer.bos_id if model.tokenizer.adds_bos else None,
            **model_fingerprint(model, documents, text, weights).parts,
        }
        writer = RecordingWriter(path, kind, metadata, model.vocabulary_size, k)
        with kept_freed_memory(), _kept(writer, text), to_keep(), writer:
            _write(writer, ModelPredictor(model), text, progress, limit)
        return text.whole


def _write(
    writer: RecordingWriter,
    predictor: ModelPredictor,
    text: TextAhead,
    progress: Progress,
    limit: BatchLimit | None,
) -> None:
    """Write the rows that are not there yet."""
    first = int(np.searchsorted(text.whole.starts, writer.rows)) if writer.rows else 0
    is_size_told = False
    # Where all rows are there, but not yet the file, the last window gives the head.
    begin = min(first, len(text.whole.windows) - 1) if first else 0
    for tokenized, first_of_part in text.parts(begin, predictor):
        for index, predictions in window_predictions(predictor, tokenized, first_of_part, limit):
            text.check()
            if index < first:
                writer.take_head(predictions)
                continue
            tells_size = writer.kind == "exact" and not is_size_told
            if tells_size and isinstance(predictions, FactoredPredictions):
                is_size_told = True
                size = _exact_bytes(predictions, tokenized.total)
                progress.stage(f"writing about {shown_bytes(size)} to {writer.path}")
            window = tokenized.windows[index]
            places = tokenized.columns_of(slice(index, index + 1))
            writer.append(predictions, window.targets, places["document_M"], places["position_M"])
            progress.tokens(tokenized.rows_of(index).stop, tokenized.total)


@contextmanager
def _kept(writer: RecordingWriter, text: TextAhead) -> Iterator[None]:
    """Say of an interruption, a device that fails or a full disk what the writer has kept."""
    try:
        yield
    except STOPS as interruption:
        if writer.kept:
            interruption.add_note(f"{_amount(writer, text)} are kept beside {writer.path}")
        raise


def _amount(writer: RecordingWriter, text: TextAhead) -> str:
    """How many tokens are on disk, of how many."""
    # Of a resumed recording nothing may be known of the text yet.
    of_all = f" of {text.size}" if text.is_begun else ""
    return f"{writer.kept:,}{of_all} tokens"


def _locked(path: Path, kind: FileKind, processes: ProcessGroup) -> AbstractContextManager[None]:
    """The lock of a recording, in rank 0; token records have one of their own."""
    return locked_output(path if kind != "records" and processes.is_rank_zero else None)


def _exact_bytes(predictions: FactoredPredictions, tokens: int) -> int:
    """What the hidden states of all tokens and the head take."""
    hidden, weight = predictions.hidden_MD, predictions.head.weight_VD
    return tokens * hidden.shape[1] * hidden.element_size() + weight.numel() * weight.element_size()


def _check_options(options: PassOptions, model: Model, format: str | None) -> None:
    """Raise `InvalidValueError` for options that the model or the format does not go with."""
    options.check_backend(model)
    options.check_device(model)
    options.check_spread(model)
    options.check_stream(model)
    if options.stream and format is not None:
        raise InvalidValueError(
            f"stream (--stream) does not go with format {format} (--format), which reads windows "
            "one by one: record distributions (--distributions exact), or leave out --stream"
        )


def _check(path: Path, distributions: str | None, format: str | None, k: int | None) -> None:
    """Raise `InvalidValueError` for what can be seen to be wrong before anything is loaded."""
    if format not in (None, "llama.cpp"):
        raise InvalidValueError(f"format is {format!r}: it must be llama.cpp, or left out")
    if format is not None and distributions is not None:
        raise InvalidValueError(
            f"format is {format} (--format) and distributions is {distributions} "
            "(--distributions): a logits file of llama.cpp has one form; leave out the latter"
        )
    if distributions not in (None, *get_args(Kind)):
        raise InvalidValueError(
            f"distributions is {distributions!r}: it must be one of {', '.join(get_args(Kind))}"
        )
    if k is not None and distributions != "top-k":
        raise InvalidValueError(
            f"k is {k} (-k), which is for distributions 'top-k' (--distributions top-k)"
        )
    if k is not None:
        TOP_K.check("k (-k)", k)
    is_parquet = path.suffix == ".parquet"
    if format is not None:
        if is_parquet:
            raise InvalidValueError(
                f"the output (-o) is {path}: a logits file of llama.cpp is not a Parquet file; "
                f"give another name, such as {path.with_suffix('.kld')}"
            )
        return
    if distributions is None and not is_parquet:
        raise InvalidValueError(
            f"the output (-o) is {path}: token records are a Parquet file; give a name that ends "
            "in .parquet, or distributions exact or top-k (--distributions)"
        )
    if distributions is None:
        check_groups(path)
    if distributions is not None and is_parquet:
        raise InvalidValueError(
            f"the output (-o) is {path}: distributions are not a Parquet file; give another name, "
            f"such as {path.with_suffix('.rec')}, or leave out --distributions"
        )
