"""Windows: which tokens a model reads together, and which of its predictions are scored.

`plan` turns encoded documents and a protocol into windows.  A window is an interval of a *stream*
(the tokens of a document, after BOS where a preset counts that as one of them), perhaps with a
leading token, and the part of it that is scored.  The prediction after reading token k is of token
k + 1, so a window reads up to the token before its last target and no further.

Axes: T tokens that the model reads, M of its predictions that are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import Encoding, TextTokenizer

__all__ = ["Coverage", "Window", "coverage", "plan"]


@dataclass(frozen=True, eq=False)
class Window:
    """The tokens that a model reads at once, and which of them are scored."""

    document: int
    """The index of the document."""
    stream: Int[np.ndarray, "stream"]
    """All tokens of the document, shared by its windows, after `n_leading` others."""
    n_leading: int
    """How many tokens of the stream are not the document's: 1 where it begins with BOS."""
    leading: int | None
    """A token that is read before those of the stream, or None."""
    begin: int
    """The first token of the stream that is read."""
    first: int
    """The first token of the stream that is scored."""
    last: int
    """One after the last."""
    weight: float = 1.0
    """The weight of each of its tokens in a mean."""

    def __len__(self) -> int:
        """M."""
        return self.last - self.first

    @property
    def inputs(self) -> Int[np.ndarray, "T"]:
        """The tokens that the model reads."""
        read = self.stream[self.begin : self.last - 1]
        return read if self.leading is None else np.concatenate([[self.leading], read])

    @property
    def n_inputs(self) -> int:
        """T."""
        return self.last - 1 - self.begin + (self.leading is not None)

    @property
    def rows(self) -> slice:
        """The M of the T predictions that are scored: the last ones."""
        return slice(self.n_inputs - len(self), self.n_inputs)

    @property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The target tokens."""
        return self.stream[self.first : self.last]

    @property
    def tokens(self) -> Int[np.ndarray, "M"]:
        """The indices of the targets in the document; -1 is a BOS that a preset scores."""
        return np.arange(self.first, self.last) - self.n_leading

    @property
    def positions(self) -> Int[np.ndarray, "M"]:
        """How many tokens the model has read before each target, with the leading one."""
        return np.arange(self.rows.start, self.rows.stop) + 1

    def byte_spans(self, encoding: Encoding) -> Int[np.ndarray, "M 2"]:
        """The bytes of the targets in the document; a BOS has none."""
        tokens_M = self.tokens
        spans_M2: Int[np.ndarray, "M 2"] = encoding.byte_spans[np.maximum(tokens_M, 0)]
        spans_M2[tokens_M < 0] = 0
        return spans_M2


@dataclass(frozen=True)
class Coverage:
    """How many tokens and bytes of the documents are scored."""

    tokens: int
    scored_tokens: int
    bytes: int
    scored_bytes: int

    @property
    def complete(self) -> bool:
        """Whether every byte is scored."""
        return self.scored_bytes == self.bytes


def plan(
    encodings: Sequence[Encoding],
    protocol: Protocol,
    tokenizer: TextTokenizer,
    context: int | None,
) -> list[Window]:
    """The windows of all documents, in their order and in the order of the text.

    `encodings` are those of the documents that `protocol.prepare` gives; `context` is the longest
    input of the model.  Raises `InvalidValueError` where the window does not fit the model, where
    BOS is required and there is none, and where the text is too short for any token to be scored.
    """
    protocol = protocol.resolve(context)
    if protocol.bos == "always" and tokenizer.bos_id is None:
        raise InvalidValueError(
            "bos is 'always': the tokenizer has no BOS token; use --bos auto or never"
        )
    planners = {
        "sliding": _sliding,
        "hf-stride": _hf_stride,
        "lm-eval": _lm_eval,
        "llama.cpp": _llama_cpp,
    }
    windows_of = planners[protocol.preset]
    windows = [
        window
        for document, encoding in enumerate(encodings)
        for window in windows_of(document, encoding.ids, protocol, tokenizer)
    ]
    if not windows:
        n_tokens = sum(map(len, encodings))
        raise InvalidValueError(
            f"the text has {n_tokens} token{'s' * (n_tokens != 1)}, none of which the protocol "
            f"{protocol.preset} scores: no token before the first predicts it; give a longer text"
        )
    return windows


def coverage(encodings: Sequence[Encoding], windows: Sequence[Window]) -> Coverage:
    """How many of the tokens and bytes the windows score."""
    scored_tokens = scored_bytes = 0
    for window in windows:
        scored_tokens += int((window.tokens >= 0).sum())
        spans_M2 = window.byte_spans(encodings[window.document])
        scored_bytes += int((spans_M2[:, 1] - spans_M2[:, 0]).sum())
    return Coverage(
        tokens=sum(map(len, encodings)),
        scored_tokens=scored_tokens,
        bytes=sum(int(encoding.byte_spans[-1, 1]) for encoding in encodings if len(encoding)),
        scored_bytes=scored_bytes,
    )


def _bos(protocol: Protocol, tokenizer: TextTokenizer) -> int | None:
    """The BOS that a text begins with under this protocol, or None."""
    wanted = protocol.bos == "always" or (protocol.bos == "auto" and tokenizer.adds_bos)
    return tokenizer.bos_id if wanted else None


def _start(tokenizer: TextTokenizer) -> int | None:
    """The token that marks the beginning of a text: BOS, or else EOS."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def _with_bos(ids: Int[np.ndarray, "n"], bos: int | None) -> Int[np.ndarray, "stream"]:
    return ids if bos is None else np.concatenate([[bos], ids])


def _sliding(
    document: int, ids: Int[np.ndarray, "n"], protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window, stride = _resolved(protocol.window), _resolved(protocol.stride)
    bos, n = _bos(protocol, tokenizer), len(ids)
    n_leading = int(bos is not None)
    start = _start(tokenizer)
    done = 0
    if bos is None and n:
        if protocol.bos == "auto" and start is not None:
            yield Window(document, ids, 0, leading=start, begin=0, first=0, last=1)
        done = 1
    # A window of W tokens predicts the W that follow each of them.
    last = min(window + 1 - n_leading, n)
    while done < n:
        begin = max(last - 1 - (window - n_leading), 0)
        yield Window(document, ids, 0, leading=bos, begin=begin, first=done, last=last)
        done, last = last, min(last + stride, n)


def _hf_stride(
    document: int, ids: Int[np.ndarray, "n"], protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window, stride = _resolved(protocol.window), _resolved(protocol.stride)
    bos = _bos(protocol, tokenizer)
    stream = _with_bos(ids, bos)
    n_leading = len(stream) - len(ids)
    done = 0
    for begin in range(0, len(stream), stride):
        last = min(begin + window, len(stream))
        labels = last - done
        # The model drops the first label of a window: no input precedes it.
        first = max(done, begin + 1)
        # With one label the weight of the guide is 0.
        if last > first and labels > 1:
            weight = (labels - 1) / (last - first)
            yield Window(document, stream, n_leading, None, begin, first, last, weight)
        done = last
        if last == len(stream):
            break


def _lm_eval(
    document: int, ids: Int[np.ndarray, "n"], protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window = _resolved(protocol.window)
    prefix = _start(tokenizer)
    if prefix is None:
        raise InvalidValueError(
            "the preset lm-eval begins a text with BOS or EOS, and the tokenizer has neither: use "
            "the preset sliding"
        )
    if not len(ids):
        return
    stream = _with_bos(ids, _bos(protocol, tokenizer))
    n_leading, n = len(stream) - len(ids), len(stream)
    last = min(window, n)
    yield Window(document, stream, n_leading, leading=prefix, begin=0, first=0, last=last)
    while last < n:
        first, last = last, min(last + window, n)
        yield Window(document, stream, n_leading, None, last - 1 - window, first, last)


def _llama_cpp(
    document: int, ids: Int[np.ndarray, "n"], protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window = _resolved(protocol.window)
    bos = _bos(protocol, tokenizer)
    stream = _with_bos(ids, bos)
    n_leading, n = len(stream) - len(ids), len(stream)
    if n < 2 * window:
        raise InvalidValueError(
            f"the text has {n} tokens: llama.cpp needs at least two chunks of {window}; give a "
            "longer text or a shorter --window"
        )
    for chunk in range(0, n - window + 1, window):
        begin = chunk if bos is None else chunk + 1
        first = chunk + window // 2 + 1
        yield Window(document, stream, n_leading, bos, begin, first, last=chunk + window)


def _resolved(value: int | None) -> int:
    assert value is not None, "the protocol must be resolved"
    return value
