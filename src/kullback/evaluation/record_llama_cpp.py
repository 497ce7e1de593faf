"""What a model predicts of a text, as a base-logits file of llama.cpp.

Axes: C chunks, T tokens of a chunk, B rows of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from kullback.errors import InvalidValueError
from kullback.evaluation.passes import Batch, ModelPredictor, TokenizedText
from kullback.models.interface import TextModel
from kullback.predictions.checks import check_rows
from kullback.predictions.llama_cpp_logits import file_bytes
from kullback.predictions.llama_cpp_writer import write_llama_cpp_logits
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.memory import kept_freed_memory
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.protocol import Protocol

__all__ = ["as_llama_cpp", "record_llama_cpp"]

# Of float32 a block of logits.
BLOCK_BYTES = 16 << 20


def as_llama_cpp(protocol: Protocol, given: bool) -> Protocol:
    """The protocol of a logits file; `given` is whether its preset was asked for.

    Raises `InvalidValueError` for another preset, and for a stride.
    """
    if given and protocol.preset != "llama.cpp":
        raise InvalidValueError(
            f"protocol is {protocol.preset!r}: a logits file of llama.cpp has the chunks of the "
            "protocol llama.cpp; leave it out (--protocol)"
        )
    return replace(protocol, preset="llama.cpp")


def record_llama_cpp(
    model: TextModel,
    documents: Sequence[Document],
    protocol: Protocol,
    path: Path,
    progress: Progress,
) -> TokenizedText:
    """Write what `model` predicts of `documents` to `path`; returns what was read.

    Raises `InvalidValueError` for a text that does not fill two chunks, `RunError` where the file
    cannot be written.
    """
    tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context, progress)
    windows, V = tokenized.windows, model.vocabulary_size
    T = tokenized.protocol.window
    assert T is not None, "the protocol is resolved"
    # As llama.cpp has them: with the token that BOS replaces while the chunk is read.
    tokens_CT = np.stack([window.stream[window.last - T : window.last] for window in windows])
    size = file_bytes(len(tokens_CT), T, V)
    progress.stage(f"recording {model.name} on {model.device.type}: {shown_bytes(size)}")
    predictor = ModelPredictor(model)

    def blocks() -> Iterator[Float[np.ndarray, "B V"]]:
        rows_a_block = max(1, BLOCK_BYTES // (4 * V))
        for index, window in enumerate(windows):
            rows = tokenized.rows_of(index)
            predictions = predictor.predictions(Batch((window,), (rows,)))
            for start in range(0, len(predictions), rows_a_block):
                stop = min(start + rows_a_block, len(predictions))
                logits_BV = predictions.logits(slice(start, stop)).cpu().float()
                check_rows(logits_BV.amax(dim=1), rows.start + start)
                yield logits_BV.numpy()
            progress.tokens(rows.stop, len(tokenized))

    with kept_freed_memory():
        write_llama_cpp_logits(path, tokens_CT, V, blocks())
    return tokenized
