"""Names of models and paths, as short as they can be and still differ."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from kullback.results.comparison import Comparison
from kullback.runtime.escaping import visible

__all__ = ["candidate_names", "short_names", "shorten"]


def candidate_names(result: Comparison) -> dict[str, str]:
    """Short names of the candidates by their names: a scheme for a quantised reference.

    Two candidates of the same name have the same short name.
    """
    reference = result.reference.name
    names = [candidate.name for candidate in result.candidates]
    schemes = {name: scheme for name in names if (scheme := _scheme_of(name, reference))}
    rest = [name for name in names if name not in schemes]
    shortened = dict(zip(rest, short_names([reference, *rest])[1:], strict=True))
    short = {name: visible(schemes.get(name) or shortened[name]) for name in names}
    return (
        short if len(set(short.values())) == len(short) else {name: visible(name) for name in names}
    )


def _scheme_of(name: str, reference: str) -> str:
    """The scheme in ``reference@scheme``; a run is named by its folder alone.

    >>> _scheme_of("runs/book@int8", "book"), _scheme_of("other@int8", "book")
    ('int8', '')
    """
    model, _, scheme = name.rpartition("@")
    return scheme if model == reference or model.endswith(f"/{reference}") else ""


def short_names(names: Sequence[str]) -> list[str]:
    """The names, visible, without the folders and the model that all of them begin with.

    >>> short_names(["runs/mine@int8", "runs/mine@int4-g32"]), short_names(["runs/mine@int8"])
    (['int8', 'int4-g32'], ['runs/mine@int8'])
    """
    begin = 0
    if len(set(names)) > 1:
        for i, letters in enumerate(zip(*names, strict=False)):
            if len(set(letters)) > 1:
                break
            if letters[0] in "/@":
                begin = i + 1
    return [visible(name[begin:]) for name in names]


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
