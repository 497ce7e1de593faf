"""Sources by name: the conjugation source, or a grammar file.

A source has a training language and, where cells are held out, a held-out one.  Its `spec` is what
a run folder stores to build the same source again.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from scipy.sparse.linalg import MatrixRankWarning

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources.conjugation_source import Cell, ConjugationSource
from kullback.sources.grammar import Grammar
from kullback.sources.language import Language

__all__ = ["NAMES", "Source", "open_source", "source_from_spec"]

NAMES = {"conjugation": "English sentences with their Spanish translation; about 600 tokens"}
"""The embedded sources, with what each contains."""


@dataclass(frozen=True, eq=False)
class Source:
    """A training language and, where something is held out, a held-out language."""

    name: str
    training: Language
    held_out: Language | None = None
    conjugation: ConjugationSource | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        tokens = len(self.training.vocabulary)
        entropy = self.training.entropy_per_token
        return f"<Source: {self.name}, {tokens:,} tokens, {entropy:.6f} nats/token>"

    def fingerprint(self) -> str:
        """SHA-256 of the training language in hexadecimal: equal for equal languages."""
        digest = hashlib.sha256("\0".join(self.training.vocabulary).encode())
        for array in (
            self.training.offsets,
            self.training.arc_tokens,
            self.training.probabilities,
            self.training.targets,
        ):
            digest.update(array.tobytes())
        return digest.hexdigest()


def open_source(name: str, holdout: int = 0, seed: int = 0) -> Source:
    """The source called `name`, or the grammar in the file `name`.

    `holdout` is the number of conjugation cells held out, drawn with `seed`; a grammar file has
    none.  An unknown name raises `InvalidValueError`, which lists the known ones; a malformed
    grammar file raises `GrammarError`.

    >>> round(open_source("conjugation").training.entropy_per_token, 6)
    0.694102
    """
    if name == "conjugation":
        return _conjugation(ConjugationSource().with_random_holdout(holdout, seed))
    if not name.endswith(".toml"):
        raise InvalidValueError(
            f"the source {name!r} is unknown; the sources are {', '.join(NAMES)}, "
            "or the path of a grammar file ending in .toml"
        )
    if holdout:
        raise InvalidValueError(
            f"holdout is {holdout}: only the source conjugation has cells to hold out"
        )
    path = Path(name)
    language = Grammar.read(path).compile().determinise()
    with warnings.catch_warnings():  # the sentence below says it
        warnings.simplefilter("ignore", MatrixRankWarning)
        length = language.tokens_per_sentence
    if not math.isfinite(length):
        raise GrammarError(
            f"{path}: its sentences have no finite expected length: raise the probabilities that "
            "end them"
        )
    return Source(language.name, language, spec={"grammar": str(path.resolve())})


def source_from_spec(spec: Mapping[str, Any]) -> Source:
    """The source that `spec` (from a run folder) describes."""
    if "grammar" in spec:
        return open_source(spec["grammar"])
    cells = tuple(Cell(*cell) for cell in spec["holdout"])
    return _conjugation(ConjugationSource(tuple(spec["verbs"]), cells))


@lru_cache(maxsize=2)  # building it takes two seconds, and a lab needs it more than once
def _conjugation(source: ConjugationSource) -> Source:
    spec = {
        "name": "conjugation",
        "verbs": list(source.verbs),
        "holdout": [list(cell) for cell in source.holdout],
    }
    return Source("conjugation", source.training, source.held_out, source, spec)
