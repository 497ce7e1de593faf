"""The windows of a text under a protocol.

Axes: as in :mod:`kullback.text.windows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kullback.errors import InvalidValueError
from kullback.text.protocol import Protocol
from kullback.text.tokenizer import TextTokenizer
from kullback.text.windows import Ids, Stream, Tokens, Window, Windows

__all__ = ["bos_of", "plan"]


def plan(
    encodings: Sequence[Tokens],
    protocol: Protocol,
    tokenizer: TextTokenizer,
    context: int | None,
) -> Windows:
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
    windows = Windows.of(
        window
        for document, encoding in enumerate(encodings)
        for window in windows_of(document, encoding.ids, protocol, tokenizer)
    )
    if not windows:
        n_tokens = sum(map(len, encodings))
        raise InvalidValueError(
            f"the text has {n_tokens} token{'s' * (n_tokens != 1)}, none of which the protocol "
            f"{protocol.preset} scores: no token before the first predicts it; give a longer text"
        )
    return windows


def bos_of(protocol: Protocol, tokenizer: TextTokenizer) -> int | None:
    """The BOS that a text begins with under this protocol, or None."""
    wanted = protocol.bos == "always" or (protocol.bos == "auto" and tokenizer.adds_bos)
    return tokenizer.bos_id if wanted else None


def _start(tokenizer: TextTokenizer) -> int | None:
    """The token that marks the beginning of a text: BOS, or else EOS."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def _sliding(
    document: int, ids: Ids, protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window, stride = _resolved(protocol.window), _resolved(protocol.stride)
    bos, n, stream = bos_of(protocol, tokenizer), len(ids), Stream(ids)
    n_leading = int(bos is not None)
    start = _start(tokenizer)
    done = 0
    if bos is None and n:
        if protocol.bos == "auto" and start is not None:
            yield Window(document, stream, leading=start, begin=0, first=0, last=1)
        done = 1
    # A window of W tokens predicts the W that follow each of them.
    last = min(window + 1 - n_leading, n)
    while done < n:
        begin = max(last - 1 - (window - n_leading), 0)
        yield Window(document, stream, leading=bos, begin=begin, first=done, last=last)
        done, last = last, min(last + stride, n)


def _hf_stride(
    document: int, ids: Ids, protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window, stride = _resolved(protocol.window), _resolved(protocol.stride)
    stream = Stream(ids, bos_of(protocol, tokenizer))
    done = 0
    for begin in range(0, len(stream), stride):
        last = min(begin + window, len(stream))
        labels = last - done
        # The model drops the first label of a window: no input precedes it.
        first = max(done, begin + 1)
        # With one label the weight of the guide is 0.
        if last > first and labels > 1:
            weight = (labels - 1) / (last - first)
            yield Window(document, stream, None, begin, first, last, weight)
        done = last
        if last == len(stream):
            break


def _lm_eval(
    document: int, ids: Ids, protocol: Protocol, tokenizer: TextTokenizer
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
    stream = Stream(ids, bos_of(protocol, tokenizer))
    n = len(stream)
    last = min(window, n)
    yield Window(document, stream, leading=prefix, begin=0, first=0, last=last)
    while last < n:
        first, last = last, min(last + window, n)
        yield Window(document, stream, None, last - 1 - window, first, last)


def _llama_cpp(
    document: int, ids: Ids, protocol: Protocol, tokenizer: TextTokenizer
) -> Iterator[Window]:
    window = _resolved(protocol.window)
    bos = bos_of(protocol, tokenizer)
    stream = Stream(ids, bos)
    n = len(stream)
    if n < 2 * window:
        raise InvalidValueError(
            f"the text has {n} tokens: llama.cpp needs at least two chunks of {window}; give a "
            "longer text or a shorter --window"
        )
    for chunk in range(0, n - window + 1, window):
        begin = chunk if bos is None else chunk + 1
        first = chunk + window // 2 + 1
        yield Window(document, stream, bos, begin, first, last=chunk + window)


def _resolved(value: int | None) -> int:
    assert value is not None, "the protocol must be resolved"
    return value
