"""Sources: languages whose entropy is known exactly.

`conjugation` and `associations` are the embedded sources of sentences; `open_source` opens one by
its name, grammar file or text, and `open_process` a stationary process.

* By name: ``catalogue``, ``facts``, ``finding`` (by a model's tokenizer), ``help``.
* Sentences: ``grammar``, ``language``, ``automaton``, ``sentences``; ``_grammar_checks``,
  ``_determinisation``, ``_enumeration``, ``_sampling``, ``_checks``, ``_toml_table``.
* The embedded sources: ``conjugation_source``, ``verbs``, ``_conjugation_rules``,
  ``_minimal_pairs``; ``associations``.
* The n-gram model of a text: ``ngram_text``.
* Stationary processes: ``process``, ``process_file``, ``known_processes``, ``mixed_states``,
  ``_stream``.
* On disk: ``export``, ``_export_writers``, ``_rows``, ``floor``, ``stored``, ``validation_rows``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kullback.sources.catalogue import Source
    from kullback.sources.process import Process

__all__ = ["conjugation", "open_process", "open_source"]


def conjugation(holdout: int = 0, seed: int = 0) -> Source:
    """English sentences with their Spanish translation; `holdout` cells are held out.

    The held-out cells of the conjugation table, drawn with `seed`, never occur in the training
    language.  Raises `InvalidValueError` unless 0 <= `holdout` < the number of cells.

    >>> round(conjugation().training.entropy_per_token, 6)  # nats
    0.694102
    """
    return open_source("conjugation", holdout, seed)


def open_source(name: str | Path, holdout: int = 0, seed: int = 0) -> Source:
    """The source called `name`, or the grammar in that file.

    Raises as `kullback.sources.catalogue.open_source` does.
    """
    from kullback.sources import catalogue

    return catalogue.open_source(str(name), holdout, seed)


def open_process(name: str | Path) -> Process:
    """The stationary process called `name`, or that of a file with ``[chain]`` or ``[states]``.

    Raises `InvalidValueError` for an unknown name and for a source of sentences, `GrammarError` for
    a malformed file.

    >>> [round(h.value, 6) for h in open_process("golden-mean").conditional_entropies(3)]  # nats
    [0.636514, 0.462098, 0.462098]
    """
    from kullback.errors import InvalidValueError
    from kullback.sources import catalogue, process

    source = catalogue.open_any_source(str(name))
    if not isinstance(source, process.Process):
        raise InvalidValueError(f"{name} is made of sentences: open it with open_source")
    return source
