"""Names of models and paths, as short as they can be and still differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len

from kullback.results.comparison import Comparison
from kullback.runtime.escaping import visible

__all__ = ["candidate_names", "reference_name", "short_names", "shorten"]


def candidate_names(result: Comparison) -> dict[str, str]:
    """Short names of the candidates by their names: a scheme for a quantised reference.

    Two candidates of the same name have the same short name.
    """
    return _short_names(result)[1]


def reference_name(result: Comparison) -> str:
    """A short name of the reference, which no candidate has."""
    return _short_names(result)[0]


def _short_names(result: Comparison) -> tuple[str, dict[str, str]]:
    """That of the reference, and those of the candidates by their names."""
    reference = result.reference.name
    names = [candidate.name for candidate in result.candidates]
    schemes = {name: scheme for name in names if (scheme := _scheme_of(name, reference))}
    rest = [name for name in names if name not in schemes]
    first, *others = short_names([reference, *rest])
    shortened = dict(zip(rest, others, strict=True))
    short = {name: visible(schemes.get(name) or shortened[name]) for name in names}
    if len(set(short.values())) == len(short):
        return first, short
    first, *others = short_names([reference, *names])
    return first, dict(zip(names, others, strict=True))


def _scheme_of(name: str, reference: str) -> str:
    """The scheme in ``reference@scheme``; a run is named by its folder alone.

    >>> _scheme_of("runs/book@int8", "book"), _scheme_of("other@int8", "book")
    ('int8', '')
    """
    model, _, scheme = name.rpartition("@")
    reference = reference.rstrip("/")
    return scheme if model == reference or model.endswith(f"/{reference}") else ""


def short_names(names: Sequence[str]) -> list[str]:
    """The names, visible: each by its last folders that no other has, and without the model that
    all of them quantise.

    >>> short_names(["runs/mine@int8", "runs/mine@int4-g32"]), short_names(["runs/mine@int8"])
    (['int8', 'int4-g32'], ['mine@int8'])
    >>> short_names(["/a/b/model", "/a/c/model", "/d/e/other"])
    ['b/model', 'c/model', 'other']
    >>> short_names(["w/", "w/w"]), short_names(["runs/a/", "x/a"])
    (['w', 'w/w'], ['runs/a', 'x/a'])
    """
    plain = [name.rstrip("/") or name for name in names]
    if len(set(plain)) == len(set(names)):
        names = plain
    ends = [_distinct_end(name, set(names)) for name in names]
    begin = 0
    if len(set(ends)) > 1:
        for i, letters in enumerate(zip(*ends, strict=False)):
            if len(set(letters)) > 1:
                break
            if letters[0] in "/@" and all(len(end) > i + 1 for end in ends):
                begin = i + 1
    return [visible(end[begin:]) for end in ends]


def _distinct_end(name: str, names: Collection[str]) -> str:
    """The fewest parts of a path, from its end, that no other of the names ends with."""
    parts = name.rstrip("/").split("/")
    others = [other.rstrip("/").split("/") for other in names if other != name]
    for count in range(1, len(parts)):
        if not any(other[-count:] == parts[-count:] for other in others):
            return "/".join(parts[-count:])
    return name


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` columns: its longest word, a path, loses its middle.

    >>> shorten("loading /home/somebody/models/SmolLM2-135M@int8", 36)
    'loading /home/som…/SmolLM2-135M@int8'
    """
    if cell_len(text) <= width:
        return text
    longest = max(text.split(" "), key=cell_len)
    room = width - cell_len(text) + cell_len(longest) - 1
    if room < 4:
        return f"{_cut(text, width - 1)}…" if width > 0 else ""
    # The end of a path tells more than its beginning.
    end = longest[-_letters(longest[::-1], room if room < 14 else 2 * room // 3) :]
    begin = _cut(longest, room - cell_len(end))
    return text.replace(longest, f"{begin}…{end}", 1)


def _letters(text: str, width: int) -> int:
    """How many leading letters fit into `width` columns."""
    used = 0
    for i, letter in enumerate(text):
        used += cell_len(letter)
        if used > width:
            return i
    return len(text)


def _cut(text: str, width: int) -> str:
    return text[: _letters(text, width)]
