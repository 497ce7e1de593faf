"""How is a text read?  Everything about that on which a perplexity depends.

One model and one text have many perplexities: it matters where documents end, what stands in
front, how much a token can look back on, and which tokens count.  A :class:`Protocol` says it.

``sliding``, the default
    Each document by itself; every token, so every byte, scored once; a window slides by half its
    length, so that past the first window each token has at least half a window of context.  (A
    smaller stride gives more context and costs more: time is proportional to window / stride.)
    Where the tokenizer's own configuration puts BOS in front, every window begins with it, as every
    input in training did: models that learnt to rest their attention on it are at a loss without.
    Where it does not, the text is read without, and only the first token of a document, which
    nothing precedes, is predicted from a start token alone: BOS, or else EOS, as
    lm-evaluation-harness chooses.  Where there is neither, that token is not scored, and
    `coverage` says so.

``hf-stride``
    The loop of the Transformers guide "Perplexity of fixed-length models": documents joined by
    blank lines, windows as long as the context, stride 512.  The guide weighs the mean of a
    window's labels by *labels − 1*, meant for the label that is lost to the shift; in every
    window but the first none is lost, so each of its tokens counts (labels − 1) / labels.  The
    weight reproduces that.  The first token is never scored.

``lm-eval``
    `loglikelihood_rolling` of lm-evaluation-harness 0.4: each document by itself, windows that do
    not overlap in what they score, the first beginning with the prefix token (BOS, or else EOS),
    the others with one token of context (the last one with as many as fit).  Where the tokenizer
    puts BOS in front, the harness puts its prefix before that, and scores BOS as a token of the
    text: so does this, with no byte for it.  Words are counted as its wikitext task does.

``llama.cpp``
    ``llama-perplexity``: documents joined, chunks of 512 that do not overlap, BOS in the place of
    the first token of each (where the tokenizer adds BOS), the second half scored except its first
    token, the last incomplete chunk dropped.  As there, a final newline is not read and a text must
    fill two chunks.

In all of them special tokens written in the text are read as text (see `kullback.text.tokenizer`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from kullback.errors import InvalidValueError
from kullback.text.documents import Document

__all__ = ["Bos", "Preset", "Protocol", "count_words", "prepare"]

Bos = Literal["auto", "always", "never"]
Preset = Literal["sliding", "hf-stride", "lm-eval", "llama.cpp"]

# The window of the quantisation literature (GPTQ, Frantar et al. 2022), where the context allows:
# more tokens cost more each and help little.
DEFAULT_WINDOW = 2048
HF_STRIDE = 512
LLAMA_CPP_WINDOW = 512
# lm-evaluation-harness' `_DEFAULT_MAX_LENGTH`, for models that name no context.
LM_EVAL_WINDOW = 2048
BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Protocol:
    """How documents become windows; None stands for what the preset (and the model) says.

    >>> Protocol(window=1024).resolve(context=8192)
    Protocol(preset='sliding', window=1024, stride=512, bos='auto', joined=False)
    """

    preset: Preset = "sliding"
    window: int | None = None
    """The most tokens that the model reads at once, BOS included."""
    stride: int | None = None
    """How many tokens a window scores that the one before did not; not for the last two presets."""
    bos: Bos = "auto"
    """Whether BOS stands in front: as the tokenizer's configuration says, always, or never."""
    joined: bool | None = None
    """Whether the documents are read as one, with a blank line between them."""

    def __post_init__(self) -> None:
        for name, kind in (("preset", Preset), ("bos", Bos)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise InvalidValueError(
                    f"{name} is {value!r}: it must be one of {', '.join(known)}"
                )
        least = 2 if self.preset != "llama.cpp" else 4
        if self.window is not None and self.window < least:
            raise InvalidValueError(
                f"window is {self.window}: it must be at least {least} tokens, to predict one"
            )
        if self.stride is None:
            return
        if self.preset in ("lm-eval", "llama.cpp"):
            raise InvalidValueError(
                f"stride is {self.stride}: the preset {self.preset} has none, its windows do not "
                "overlap; leave it out, or use the preset sliding or hf-stride"
            )
        if self.stride < 1 or (self.window is not None and self.stride > self.window):
            most = "" if self.window is None else f" and at most the window, {self.window}"
            raise InvalidValueError(f"stride is {self.stride}: it must be at least 1{most}")

    def resolve(self, context: int | None) -> Protocol:
        """The protocol with nothing left open, for a model that reads `context` tokens at most.

        Raises `InvalidValueError` where the window is longer than the context, or where the preset
        takes the context as the window and there is none.
        """
        window = self.window
        if window is None:
            window = self._own_window(context)
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
        # Checked again: the stride may be longer than the model's context.
        return replace(self, window=window, stride=stride, joined=joined)

    def _own_window(self, context: int | None) -> int:
        if self.preset == "hf-stride":
            if context is None:
                raise InvalidValueError(
                    "window is not given: hf-stride takes the model's longest input, and this "
                    "model names none; say --window"
                )
            return context
        if self.preset == "lm-eval":
            return context or LM_EVAL_WINDOW
        own = LLAMA_CPP_WINDOW if self.preset == "llama.cpp" else DEFAULT_WINDOW
        return own if context is None else min(own, context)


def prepare(documents: Sequence[Document], protocol: Protocol) -> list[Document]:
    """The documents as the protocol reads them: joined into one where it does so.

    >>> [d.text for d in prepare([Document("a", "x"), Document("b", "y")], Protocol("hf-stride"))]
    ['x\\n\\ny']
    """
    joined = protocol.joined
    if joined is None:
        joined = protocol.resolve(context=DEFAULT_WINDOW).joined
    prepared = list(documents)
    if joined and len(prepared) > 1:
        name = f"{documents[0].name} … {documents[-1].name}"
        prepared = [Document(name, BLANK_LINE.join(document.text for document in documents))]
    if protocol.preset == "llama.cpp":
        prepared = [Document(each.name, each.text.removesuffix("\n")) for each in prepared]
    return prepared


def count_words(document: Document, protocol: Protocol) -> int:
    """The words that a word perplexity divides by.

    The harness splits at blanks and counts what is between, so that a blank at either end makes one
    more word, of no characters.

    >>> note = Document("note", "two words\\n")
    >>> count_words(note, Protocol()), count_words(note, Protocol("lm-eval"))
    (2, 3)
    """
    if protocol.preset == "lm-eval":
        return len(re.split(r"\s+", document.text))
    return document.n_words
