"""Protocols: everything about the reading of a text on which a perplexity depends.

One model and one text have many perplexities: they depend on where documents end, on the tokens
before the text, on how much context a token has, and on which tokens count.  A :class:`Protocol`
fixes them.

``sliding``, the default
    Documents are read separately; every token, so every byte, is scored once; the window slides by
    half its length, so that after the first window each token has at least half a window of
    context.  (A smaller stride gives more context and costs more: time is proportional to
    window / stride.)  Where the tokenizer's own configuration prepends BOS, every window begins
    with it, as every input in training did: models that learnt to attend to it predict much worse
    without.  Where it does not, the text is read without, and only the first token of a document,
    which nothing precedes, is predicted from a start token alone: BOS, or else EOS, as in
    lm-evaluation-harness.  Where there is neither, that token is not scored, and `coverage` reports
    it.

``hf-stride``
    The loop of the Transformers guide "Perplexity of fixed-length models": documents joined by
    blank lines, windows as long as the context, stride 512.  The guide weights the mean of a
    window's labels by *labels − 1*, to account for the label that is lost to the shift; but only
    the first window loses one, so in all others each token counts (labels − 1) / labels.  The
    weight reproduces that.  The first token is never scored.

``lm-eval``
    `loglikelihood_rolling` of lm-evaluation-harness 0.4: documents are read separately, in windows
    whose scored parts do not overlap, the first beginning with the prefix token (BOS, or else EOS),
    the others with one token of context (the last one with as many as fit).  Where the tokenizer
    prepends BOS, the harness puts its prefix before it, and scores BOS as a token of the text; so
    does this preset, and that BOS has no bytes.  Words are counted as in its wikitext task.

``llama.cpp``
    ``llama-perplexity``: documents joined, chunks of 512 that do not overlap, the first token of
    each replaced by BOS (where the tokenizer adds BOS), the second half scored except its first
    token, the last incomplete chunk dropped.  As there, a final newline is not read and a text must
    fill two chunks.

Where the text spells a special token ("<|endoftext|>"), ``sliding`` and ``llama.cpp`` read its
characters, as `llama-perplexity` does, ``hf-stride`` and ``lm-eval`` the token, as the guide and
the harness do; `special_tokens` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import LENGTHS, Range
from kullback.runtime.temporary import TemporaryBytes
from kullback.runtime.wording import suggestion
from kullback.text.documents import IN_MEMORY, Document
from kullback.text.special_spellings import Spelled

__all__ = ["WINDOWS", "Bos", "Preset", "Protocol", "count_words", "prepare"]

Bos = Literal["auto", "always", "never"]
Preset = Literal["sliding", "hf-stride", "lm-eval", "llama.cpp"]

# The window of the quantisation literature (GPTQ, Frantar et al. 2022), where the context allows:
# longer windows cost more per token and change little.
DEFAULT_WINDOW = 2048
HF_STRIDE = 512
LLAMA_CPP_WINDOW = 512
LLAMA_CPP_LEAST = 4
# lm-evaluation-harness' `_DEFAULT_MAX_LENGTH`, for models without a context in their configuration.
LM_EVAL_WINDOW = 2048
#: The window: to predict a token, one is read before it.
WINDOWS = Range(2, LENGTHS.high)
BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Protocol:
    """How documents become windows; None is the default of the preset (and the model).

    >>> protocol = Protocol(window=1024).resolve(context=8192)
    >>> protocol.stride, protocol.joined, protocol.special_tokens
    (512, False, 'text')
    """

    preset: Preset = "sliding"
    window: int | None = None
    """The largest number of tokens that the model reads at once, with BOS."""
    stride: int | None = None
    """How many more tokens each window scores; None in the last two presets."""
    bos: Bos = "auto"
    """Whether BOS is prepended: as the tokenizer's configuration says, always, or never."""
    joined: bool | None = None
    """Whether the documents are read as one text, with a blank line between them."""
    special_tokens: Spelled | None = None
    """Whether the spelling of a special token in a text is read as its characters or the token."""

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("protocol", self.preset, Preset), ("bos", self.bos, Bos),
            ("special_tokens", self.special_tokens, Spelled),
        ):  # fmt: skip
            allowed = get_args(kind)
            if value not in allowed and not (name == "special_tokens" and value is None):
                raise InvalidValueError(
                    f"{name} is {value!r}: it must be one of {', '.join(allowed)}"
                    f"{suggestion(str(value), allowed)}"
                )
        for name, limits in (("window", WINDOWS), ("stride", LENGTHS)):
            value = getattr(self, name)
            if value is not None:
                limits.check(name, value, " tokens")
        if self.preset == "llama.cpp" and self.window is not None and self.window < LLAMA_CPP_LEAST:
            raise InvalidValueError(
                f"window is {self.window}: with llama.cpp, which scores the second half but one, "
                f"it must be at least {LLAMA_CPP_LEAST} tokens, to predict one"
            )
        if self.stride is None:
            return
        if self.preset in ("lm-eval", "llama.cpp"):
            raise InvalidValueError(
                f"stride is {self.stride}: the preset {self.preset} has none, its windows do not "
                "overlap; leave it out, or use the preset sliding or hf-stride"
            )
        if self.window is not None and self.stride > self.window:
            raise InvalidValueError(
                f"stride is {self.stride}: it must be at most the window, {self.window}"
            )

    def resolve(self, context: int | None) -> Protocol:
        """The protocol without None, for a model that reads at most `context` tokens.

        Raises `InvalidValueError` where the window is longer than the context, or where the preset
        takes the context as the window and there is none.
        """
        window = self.window
        if window is None:
            window = self._default_window(context)
        elif context is not None and window > context:
            raise InvalidValueError(
                f"window is {window}: the model reads at most {context} tokens; choose a window of "
                f"{context} or less"
            )
        stride = self.stride
        if stride is None and self.preset == "sliding":
            stride = max(window // 2, 1)
        elif stride is None and self.preset == "hf-stride":
            stride = min(HF_STRIDE, window)
        joined = self.joined
        if joined is None:
            joined = self.preset in ("hf-stride", "llama.cpp")
        special_tokens = self.special_tokens
        if special_tokens is None:
            special_tokens = "tokens" if self.preset in ("hf-stride", "lm-eval") else "text"
        # Checked again: the stride may be longer than the model's context.
        return replace(
            self, window=window, stride=stride, joined=joined, special_tokens=special_tokens
        )

    def _default_window(self, context: int | None) -> int:
        if self.preset == "hf-stride":
            if context is None:
                raise InvalidValueError(
                    "window is not given: hf-stride takes the model's context, and this model's "
                    "configuration has none; add --window"
                )
            return context
        if self.preset == "lm-eval":
            return context or LM_EVAL_WINDOW
        window = LLAMA_CPP_WINDOW if self.preset == "llama.cpp" else DEFAULT_WINDOW
        return window if context is None else min(window, context)


def prepare(documents: Sequence[Document], protocol: Protocol) -> list[Document]:
    """The documents as the protocol reads them: joined into one where `joined` is set.

    >>> [d.text for d in prepare([Document("a", "x"), Document("b", "y")], Protocol("hf-stride"))]
    ['x\\n\\ny']
    """
    joined = protocol.joined
    if joined is None:
        joined = protocol.resolve(context=DEFAULT_WINDOW).joined
    prepared = list(documents)
    if joined and len(prepared) > 1:
        name = f"{documents[0].name} … {documents[-1].name}"
        prepared = [_joined(name, documents)]
    if protocol.preset == "llama.cpp":
        prepared = [_without_last_newline(document) for document in prepared]
    return prepared


def _joined(name: str, documents: Sequence[Document]) -> Document:
    stored = TemporaryBytes(IN_MEMORY)
    for i, document in enumerate(documents):
        if i:
            stored.append(BLANK_LINE.encode())
        for piece in document.pieces():
            stored.append(piece.encode())
    return Document.of_bytes(name, stored)


def _without_last_newline(document: Document) -> Document:
    end = document.n_bytes
    return document.part(0, end - 1 if document.content(max(0, end - 1)) == b"\n" else end)


def count_words(document: Document, protocol: Protocol) -> int:
    """The words that a word perplexity divides by.

    The harness splits at whitespace and counts the parts, so that whitespace at either end adds an
    empty word.

    >>> note = Document("note", "two words\\n")
    >>> count_words(note, Protocol()), count_words(note, Protocol("lm-eval"))
    (2, 3)
    """
    if protocol.preset == "lm-eval":
        ends = (document.content(0, 4), document.content(max(0, document.n_bytes - 4)))
        first, last = (end.decode(errors="ignore") for end in ends)
        spaces = [first[:1].isspace(), last[-1:].isspace()]
        return document.n_words + sum(spaces) if document.n_words else 1 + any(spaces)
    return document.n_words
