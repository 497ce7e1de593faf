"""The source that the doctor exports: documents whose length says what is in them.

The first word of a document is its kind, and each kind has its own mean length and its own words.
Words come from two classes in turn, so a word, the next word and the one after it never have the
same distribution.  So each bug of a trainer has an optimum of its own:

* labels shifted by k: the model predicts the word k places on, which is of the wrong class;
* means over micro-batches: a document counts 1 / (tokens of its micro-batch), so short kinds get
  more than their probability at the first word;
* softmax before the loss: the most probable word of each class, whose probability is 0.6, gets 1;
* labels on padding: after the end comes the end, again and again.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from kullback.sources.automaton import Arc, Automaton
from kullback.sources.catalogue import Source
from kullback.text.special_tokens import EOS

__all__ = ["KINDS", "LONGEST", "LONGEST_ROW", "Kind", "doctor_source"]


class Kind(NamedTuple):
    """A kind of document: its probability, and its mean number of words after the first."""

    name: str
    probability: float
    words: float


KINDS = (
    Kind("note", 0.35, 2.0),
    Kind("letter", 0.3, 5.0),
    Kind("story", 0.2, 12.0),
    Kind("novel", 0.15, 40.0),
)
SHARES = (0.6, 0.3, 0.1)
"""Of the three words of a class."""
LONGEST = 125
"""Words after the first."""
LONGEST_ROW = LONGEST + 3
"""Tokens of the longest document, with its first word, <s> and </s>."""


def doctor_source() -> Source:
    """The source; its slots are the first word, the two classes and the end."""
    arcs: dict[Hashable, list[Arc]] = {
        0: [Arc(kind.name, "kind", kind.probability, (kind.name, 1)) for kind in KINDS]
    }
    for kind in KINDS:
        for t in range(1, LONGEST + 2):
            stop = 0.0 if t == 1 else 1.0 if t == LONGEST + 1 else 1.0 / kind.words
            out = [Arc(EOS, "end", stop, None)] if stop else []
            letter = "ab"[t % 2]
            out += [
                Arc(f"{kind.name}-{letter}{i}", f"word {letter}", (1 - stop) * share,
                    (kind.name, t + 1))
                for i, share in enumerate(SHARES) if stop < 1
            ]  # fmt: skip
            arcs[kind.name, t] = out
    return Source("doctor", Automaton.from_arcs("doctor", 0, arcs).determinise())
