"""A page as a browser reads it: what the tests of HTML reports share."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page as a browser would, and complains where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An opening tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself, as in SVG."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """A closing tag."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag in {"td", "th", "span", "li"}:
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        """Text."""
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """All that a reader sees, blanks run together."""
        return re.sub(" (?=[,.])", "", " ".join("".join(self.text).split()))

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, in the order of the page."""
        return [
            value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name
        ]
