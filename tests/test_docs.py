"""Links and paths in the documentation lead somewhere, and its lines are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Of this repository, as text names them.
PATH = re.compile(r"\b(?:tests|benchmarks|examples|docs|src)/[\w/.-]*\w")
LONGEST_LINE = 112
# The log has a line for each measurement, and the derivation formulas.
LONG = ("log.md", "derivation.md", "derivation.es.md")


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub makes them.

    >>> headings("# One GPU, or two?")
    {'one-gpu-or-two'}
    """
    lines = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether the file of a link exists, and has the heading that the link names."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in headings(target.read_text("utf-8")))


def missing(page: Path) -> list[str]:
    """The links and paths of a page that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    return [
        *(path for path in PATH.findall(text) if not (ROOT / path).exists()),
        *(link for link in links if not leads_somewhere(page, link)),
    ]


def prose(text: str) -> list[str]:
    """The lines that are neither code nor a row of a table nor a comment."""
    lines = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    return [line for line in lines if not line.startswith(("|", "<!--"))]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md"], ids=lambda p: p.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    """To files, and to headings in them; the log names files of its days."""
    assert missing(page) == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in LONG], ids=lambda p: p.name)
def test_lines_are_short(page: Path) -> None:
    """Text is wrapped, as people read it in an editor, too."""
    lines = prose(page.read_text(encoding="utf-8"))
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    """A link to a missing file or heading, and a path that is not there."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n[a](#a-heading) [b](#another) [c](c.md) [d](https://e.org/f.md)\n"
        "`tests/test_docs.py` and `tests/missing.py`\n",
        encoding="utf-8",
    )
    assert missing(page) == ["tests/missing.py", "#another", "c.md"]
