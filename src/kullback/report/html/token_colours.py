"""How does a sentence look when each word shows what the model paid for it?

A word's colour is a step of a scale of surprisals, in nats, the same on the page and in the figure;
a line below marks the words before which the model was far from the truth.  On the page a card says
what model and truth expected; in the figure, which is one SVG file, the word's tooltip does.
"""

from __future__ import annotations

import math
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from kullback.report.escaping import visible
from kullback.report.numerals import nats, probability
from kullback.report.svg import LIGHT
from kullback.results.lab import SentenceReport, TokenReport

__all__ = [
    "STEP_NAMES",
    "SURPRISAL_STEPS",
    "WASTEFUL",
    "sentences_svg",
    "surprisal_level",
]

#: The steps of the surprisal scale: a token whose probability is at least this is of that level.
SURPRISAL_STEPS = (0.95, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64)
STEP_NAMES = ("≥ 95 %", "≥ ½", "≥ ¼", "≥ ⅛", "≥ 1⁄16", "≥ 1⁄64", "less")
#: From this KL on, in nats, a word has the line that says that the model was off.
WASTEFUL = 0.05

_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _MARGIN = 760.0, 16.0
_TEXT, _SMALL = 14.0, 11.0  # font sizes
_CHIP, _LINE, _BETWEEN = 24.0, 32.0, 12.0  # heights: a word, a line, more between sentences
_PAD, _GAP = 6.0, 4.0  # inside a word, between words
_FIRST_DARK = 4  # the first level whose text is light


def surprisal_level(surprisal: float) -> int:
    """The step of the colour scale for a surprisal in nats: 0 is nearly certain, 6 a shock.

    >>> [surprisal_level(x) for x in (0.0, 0.6, 1.0, 9.0, float("inf"))]
    [0, 1, 2, 6, 6]
    """
    return sum(surprisal > -math.log(step) for step in SURPRISAL_STEPS)


class _Word(NamedTuple):
    """What is drawn in one place: a text, its colour (None: no box), and what hovering says."""

    text: str
    level: int | None = None
    wasteful: bool = False
    tooltip: str = ""


def sentences_svg(sentences: Sequence[SentenceReport]) -> str:
    """The sentences as one SVG element that stands alone, without XML preamble.

    Equal sentences give equal text.

    >>> sentences_svg([]).startswith("<svg")
    True
    """
    lines = [_legend(), *(_words(sentence) for sentence in sentences)]
    body = ElementTree.Element("g", {"font-family": "system-ui, sans-serif"})
    y = _MARGIN
    with warnings.catch_warnings():
        # A word may be in a script that matplotlib's font lacks: the reader's browser has another.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for i, line in enumerate(lines):
            y = _draw(body, list(line), y, _TEXT if i else _SMALL) + _BETWEEN
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": _SVG,
            "viewBox": f"0 0 {_WIDTH:g} {y:g}",
            "width": f"{_WIDTH:g}",
            "height": f"{y:g}",
            "role": "img",
            "aria-label": "Sentences, each word coloured by its surprisal under the model.",
        },
    )
    ElementTree.SubElement(
        root, "rect", {"width": "100%", "height": "100%", "fill": LIGHT["paper"]}
    )
    root.append(body)
    return ElementTree.tostring(root, encoding="unicode")


def _legend() -> Iterator[_Word]:
    yield _Word("the model gave it")
    for level, name in enumerate(STEP_NAMES):
        yield _Word(name, level)
    yield _Word(f"KL here ≥ {WASTEFUL:g} nats", wasteful=True)


def _words(sentence: SentenceReport) -> Iterator[_Word]:
    if sentence["language"] == "held out":
        yield _Word("held out:")
    for token in sentence["tokens"]:
        yield _Word(
            visible(token["text"]),
            surprisal_level(token["surprisal"]),
            token["kl"] >= WASTEFUL,
            _tooltip(token),
        )


def _tooltip(token: TokenReport) -> str:
    """What the card on the page says, in four lines."""

    def expected(top: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{visible(word)} {probability(p)}" for word, p in top)

    return (
        f"{visible(token['text'])} ({visible(token['slot'])})\n"
        f"surprisal {nats(token['surprisal'])}, true surprisal {nats(token['true_surprisal'])}, "
        f"KL here {nats(token['kl'])} nats\n"
        f"the model expects: {expected(token['model_top'])}\n"
        f"the truth is: {expected(token['true_top'])}"
    )


def _draw(body: ElementTree.Element, words: Sequence[_Word], y: float, size: float) -> float:
    """Set `words` from height `y` on, in as many lines as they need; the height below them."""
    font = FontProperties(family="DejaVu Sans", size=size)  # comes with matplotlib
    x = _MARGIN
    for word in words:
        inner, _, _ = text_to_path.get_text_width_height_descent(word.text, font, False)
        width = inner + 2 * _PAD
        if x > _MARGIN and x + width > _WIDTH - _MARGIN:
            x, y = _MARGIN, y + _LINE
        _draw_word(body, word, x, y, float(inner), size)
        x += width + _GAP
    return y + _CHIP


def _draw_word(
    body: ElementTree.Element, word: _Word, x: float, y: float, inner: float, size: float
) -> None:
    place = ElementTree.SubElement(body, "g")
    if word.tooltip:
        ElementTree.SubElement(place, "title").text = word.tooltip
    box = {"x": f"{x:.2f}", "y": f"{y:.2f}", "width": f"{inner + 2 * _PAD:.2f}"}
    colour = LIGHT["muted"]
    if word.level is not None:
        fill = LIGHT[f"s{word.level}"]
        ElementTree.SubElement(
            place, "rect", {**box, "height": f"{_CHIP:g}", "rx": "4", "fill": fill}
        )
        colour = LIGHT["on-low" if word.level < _FIRST_DARK else "on-high"]
    if word.wasteful:
        below = {**box, "y": f"{y + _CHIP:.2f}", "height": "3", "fill": LIGHT["kl"]}
        ElementTree.SubElement(place, "rect", below)
    if not inner:
        return
    text = ElementTree.SubElement(
        place,
        "text",
        {
            "x": f"{x + _PAD:.2f}",
            "y": f"{y + _CHIP / 2 + 0.35 * size:.2f}",
            "font-size": f"{size:g}",
            "fill": colour,
            # Whatever font the reader has, the word fills its box.
            "textLength": f"{inner:.2f}",
            "lengthAdjust": "spacingAndGlyphs",
        },
    )
    text.text = word.text
