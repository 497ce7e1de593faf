"""Parts of sentences: articles, numbers of things, and names that were perhaps meant."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["count_of", "suggestion", "with_article"]

# difflib's ratio without leading dashes: "lba" and "lab" have 0.67, "tolerance" and "source" 0.53.
SIMILAR = 0.65


def with_article(noun: str) -> str:
    """The noun after "a" or "an".

    >>> with_article("int"), with_article("Comparison")
    ('an int', 'a Comparison')
    """
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def count_of(number: int, thing: str) -> str:
    """A number of things.

    >>> count_of(1, "document"), count_of(1200, "document")
    ('1 document', '1,200 documents')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """ ": did you mean ...?" where a known name is similar, else nothing.

    >>> suggestion("--protcol", ["--protocol", "--text"]), suggestion("x", ["--text"])
    (': did you mean --protocol?', '')
    """
    import difflib  # only where something is wrong

    names = {word.lstrip("-").lower(): word for word in known}
    close = difflib.get_close_matches(name.lstrip("-").lower(), names, n=1, cutoff=SIMILAR)
    return f": did you mean {names[close[0]]}?" if close else ""
