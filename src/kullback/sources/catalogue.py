"""Sources by name: an embedded one, a grammar or process file, or the n-gram model of a text.

A `Source` is made of sentences: it has a training language and, where cells are held out, a
held-out one.  Its `spec` is what a run folder stores to build the same source again.  A `Process`
is stationary: it has no sentences, only windows.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from scipy.sparse.linalg import MatrixRankWarning

from kullback.errors import GrammarError, InvalidValueError
from kullback.sources._checks import read_toml
from kullback.sources.associations import associations_language
from kullback.sources.conjugation_source import Cell, ConjugationSource
from kullback.sources.grammar import Grammar
from kullback.sources.known_processes import KNOWN, known_process
from kullback.sources.language import Language
from kullback.sources.ngram_text import Unit, ngram_language
from kullback.sources.process import Process
from kullback.sources.process_file import is_process, parse_process

__all__ = ["NAMES", "AnySource", "Source", "open_any_source", "open_source", "source_from_spec"]

NAMES = {
    "conjugation": "English sentences with their Spanish translation; about 600 tokens",
    "associations": "Zipf-distributed tokens and their answers; learned by a power of the data",
    **{name: what for name, (what, _) in KNOWN.items()},
}
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


AnySource: TypeAlias = Source | Process


def open_any_source(
    name: str,
    holdout: int = 0,
    seed: int = 0,
    order: int | None = None,
    unit: Unit | None = None,
) -> AnySource:
    """The source called `name`, or that of a file: a grammar, a process (.toml) or a text (.txt).

    `holdout` is the number of conjugation cells held out, drawn with `seed`.  `order` (default: 3)
    and `unit` (default: characters) are those of the n-gram model of a text.  Raises
    `InvalidValueError` for an unknown name and for an option of another source, `GrammarError` for
    a malformed file.
    """
    _check_options(name, holdout, order, unit)
    if name == "conjugation":
        return _conjugation(ConjugationSource().with_random_holdout(holdout, seed))
    if name == "associations":
        return Source(name, associations_language(), spec={"name": name})
    if name in KNOWN:
        return known_process(name)
    path = Path(name)
    if name.endswith(".txt"):
        order, unit = 3 if order is None else order, unit or "characters"
        language = ngram_language(path, order, unit)
        return Source(
            language.name,
            language,
            spec={"text": str(path.resolve()), "order": order, "unit": unit},
        )
    data = read_toml(path, "grammar")
    if is_process(data):
        return parse_process(path, data)
    return _grammar(path)


def open_source(name: str, holdout: int = 0, seed: int = 0) -> Source:
    """The source of sentences called `name`, or that of a grammar file or a text.

    As `open_any_source`; a stationary process, which has no sentences, raises `InvalidValueError`.

    >>> round(open_source("conjugation").training.entropy_per_token, 6)
    0.694102
    """
    source = open_any_source(name, holdout, seed)
    if isinstance(source, Process):
        raise InvalidValueError(
            f"{name} is a stationary process without sentences: export it (kullback source export "
            f"{name}), train any model on the export, and evaluate that (kullback evaluate FOLDER)"
        )
    return source


def _check_options(name: str, holdout: int, order: int | None, unit: Unit | None) -> None:
    if name not in NAMES and not name.endswith((".toml", ".txt")):
        raise InvalidValueError(
            f"the source {name!r} is unknown; the sources are {', '.join(NAMES)}, "
            "the path of a grammar or process file ending in .toml, or that of a text ending in "
            ".txt, whose n-gram model is the source"
        )
    if holdout and name != "conjugation":
        raise InvalidValueError(
            f"holdout is {holdout}: only the source conjugation has cells to hold out"
        )
    if (order is not None or unit is not None) and not name.endswith(".txt"):
        option = f"order is {order}" if order is not None else f"unit is {unit}"
        raise InvalidValueError(
            f"{option}, which is for the n-gram model of a text: {name} is none; leave it out"
        )


def _grammar(path: Path) -> Source:
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
    """The source that `spec` (from a run folder) describes.

    Raises `InvalidValueError` where it describes none, as that of a source made by hand.
    """
    if "grammar" in spec:
        return open_source(spec["grammar"])
    if "text" in spec:
        language = ngram_language(Path(spec["text"]), spec["order"], spec["unit"])
        return Source(language.name, language, spec=dict(spec))
    if spec.get("name") == "associations":
        return open_source("associations")
    if not spec:
        raise InvalidValueError(
            "the source was made by hand or read from an export, and nothing says how to make it "
            "again: name a source (--source NAME, or the folder of an export)"
        )
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
