"""Figures as SVG for HTML reports: reproducible bytes, and the colours of the report's theme.

Matplotlib writes SVG with a date, an XML preamble, ids that repeat from figure to figure, and fixed
colours.  Here a figure is written with a fixed salt and no metadata; ids that nothing refers to are
dropped and the others are prefixed by the figure's name, so that several figures fit into one HTML
document and equal input gives equal bytes.  `inline` replaces each colour of the `LIGHT` palette by
the CSS variable of its name, so that a figure follows the report into dark mode.  Text stays text:
it can be searched, selected and read aloud.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "house_style", "inline", "to_svg"]

#: Colours by meaning.  Blue and vermilion differ for every common form of colour blindness.
LIGHT = {
    "paper": "#fbfaf7",
    "ink": "#22262b",
    "muted": "#626970",
    "rule": "#dcdad2",
    "entropy": "#3a6b9c",
    "kl": "#b5452d",
    "other": "#75629a",
    # The scale of surprisals, from nearly certain to improbable, and the text on it.
    "s0": "#eaf3f0",
    "s1": "#cfe6df",
    "s2": "#aad3c8",
    "s3": "#7dbbac",
    "s4": "#2f7d6e",
    "s5": "#22655a",
    "s6": "#144a41",
    "s7": "#062f29",
    "on-low": "#14201d",
    "on-high": "#ffffff",
}
DARK = {
    "paper": "#15171a",
    "ink": "#e7e5e0",
    "muted": "#9fa6ae",
    "rule": "#373b41",
    "entropy": "#7fb0de",
    "kl": "#f08a6c",
    "other": "#b9a6db",
    "s0": "#1b2927",
    "s1": "#1f3835",
    "s2": "#254d47",
    "s3": "#2c675e",
    "s4": "#4fa696",
    "s5": "#7cc5b5",
    "s6": "#a8ddd1",
    "s7": "#d8f5ee",
    "on-low": "#e3efec",
    "on-high": "#0b1715",
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_FONT = re.compile(r"'DejaVu Sans'[^;]*")


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's settings, with the report's look on top.

    >>> with house_style():
    ...     matplotlib.rcParams["svg.fonttype"]
    'none'
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "text.parse_math": False,  # a corpus may contain dollar signs
                "font.family": "sans-serif",
                "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
                "font.size": 9.0,
                "axes.titlesize": 9.0,
                "axes.labelsize": 9.0,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": LIGHT["rule"],
                "axes.facecolor": "none",
                "axes.labelcolor": LIGHT["muted"],
                "axes.titlecolor": LIGHT["ink"],
                "axes.titlelocation": "left",
                "axes.axisbelow": True,
                "text.color": LIGHT["ink"],
                "xtick.color": LIGHT["rule"],
                "ytick.color": LIGHT["rule"],
                "xtick.labelcolor": LIGHT["muted"],
                "ytick.labelcolor": LIGHT["muted"],
                "xtick.labelsize": 8.0,
                "ytick.labelsize": 8.0,
                "grid.color": LIGHT["rule"],
                "grid.linewidth": 0.6,
                "figure.facecolor": "none",
                "figure.constrained_layout.use": True,
                "legend.frameon": False,
                "legend.fontsize": 8.0,
            }
        )
        yield


def to_svg(figure: Figure, name: str, description: str) -> str:
    """`figure` as a self-contained SVG element, without XML preamble.

    `name` is the prefix of its ids; `description` is for screen readers.  Equal figures give equal
    text.

    >>> to_svg(Figure(figsize=(1, 1)), "empty", "nothing").startswith("<svg")
    True
    """
    buffer = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        matplotlib.rcParams["svg.hashsalt"] = f"kullback {name}"  # house_style() puts it back
        # A name may be in a script that matplotlib's font lacks and the browser's font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    _drop(root, {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"})
    root.attrib.update({"stroke-linejoin": "round", "role": "img", "aria-label": description})
    _scope_ids(root, name)
    for element in root.iter():
        if "style" in element.attrib:
            style = _FONT.sub("system-ui, sans-serif", element.attrib["style"])
            element.set("style", style)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode").strip()


def inline(svg: str) -> str:
    """An SVG element of `to_svg` for an HTML report: its style sheet sets size and colours.

    >>> inline('<svg width="9pt" height="9pt"><path style="fill: #22262b" /></svg>')
    '<svg><path style="fill: var(--ink)" /></svg>'
    """
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    for name, colour in LIGHT.items():
        rest = rest.replace(colour, f"var(--{name})")
    return f"{opening}>{rest}"


def _drop(parent: ElementTree.Element, tags: set[str]) -> None:
    for child in list(parent):
        if child.tag in tags:
            parent.remove(child)
        else:
            _drop(child, tags)


def _scope_ids(root: ElementTree.Element, name: str) -> None:
    """Prefix the ids that something refers to with `name`, and drop all others."""
    reference = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")
    used = {
        target
        for element in root.iter()
        for value in element.attrib.values()
        for target in reference.findall(value)
    }
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib["id"]
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif "#" in value and key in {"clip-path", "style", f"{{{_XLINK}}}href"}:
                element.set(
                    key,
                    reference.sub(lambda m: f"{name}-{m[0]}" if m[0] in used else m[0], value),
                )
