"""Text made visible."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from kullback.runtime.escaping import (
    as_running_text,
    escaped_json,
    visible,
    visible_lines,
    visible_token,
)

ANY = st.text(st.characters(codec=None, categories=None))


@given(ANY)
def test_anything_fits_xml_and_utf8(text):
    """Whatever a text holds, its visible form is one line that XML and UTF-8 can carry."""
    shown = visible(text)
    element = ElementTree.Element("t")
    element.text = shown
    assert ElementTree.fromstring(ElementTree.tostring(element)).text == (shown or None)
    shown.encode()
    assert "\n" not in shown
    assert "\r" not in shown


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])))
def test_ordinary_text_stays(text):
    """Letters of all scripts, digits, punctuation and blanks are left alone."""
    assert visible(text) == text
    assert as_running_text(text) == text


@given(ANY)
def test_a_token_is_never_invisible(text):
    """No token is shown as nothing."""
    assert visible_token(text).strip(" ")


def test_line_ends_are_seen_and_end_the_line_once():
    """Three line ends, of two kinds, are three arrows and one break."""
    assert as_running_text("a\r\n\n\nb\tc") == "a↵↵↵\nb⇥c"


def test_marks_of_direction_are_seen():
    """What would turn the order of a page's letters around is shown instead; letters are not."""
    assert visible("\u202eabc\u2066\u200f") == "▒abc▒▒"
    assert visible("שלום") == "שלום"


@given(ANY)
def test_lines_stay_lines(text):
    """The lines of a text stay; each has no character that acts."""
    shown = visible_lines(text)
    assert shown.count("\n") == text.count("\n")
    assert visible(shown.replace("\n", "")) == shown.replace("\n", "")


@given(st.recursive(ANY | st.floats(allow_nan=False), st.lists, max_leaves=5))
def test_json_says_the_same(value):
    """A JSON document whose characters cannot act is read as the same values."""
    document = escaped_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(document) == value
    document.encode()
    assert visible(document.replace("\n", "")) == document.replace("\n", "")
