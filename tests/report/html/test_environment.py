"""The Jinja environment of the reports."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from text_samples import HOSTILE

from kullback.report.html import environment


def rendered(template: str, **values: object) -> str:
    """What a template of one line makes of the values."""
    return environment._environment().from_string(template).render(**values)


def test_a_string_is_made_visible_and_escaped_whatever_filter_it_passes():
    """Markup and control characters of a corpus are text, alone and after every filter of text."""
    for filtered in ("x", "x | visible", "x | token", "x | running", "x ~ x", "x | upper"):
        page = rendered("{{ " + filtered + " }}", x=HOSTILE)
        assert "<" not in page
        assert "\x1b" not in page
        page.encode()


def test_running_text_keeps_its_line_ends():
    """The line end of a token is shown, and ends the line once."""
    assert rendered("{{ x | running }}", x="a\n\n<b>") == "a↵↵\n&lt;b&gt;"


def test_an_undefined_name_is_an_error():
    """A template that asks for what it was not given fails."""
    with pytest.raises(UndefinedError, match="missing"):
        rendered("{{ missing }}")


def test_a_unit_does_not_break_away_from_its_number():
    """Numbers have spaces that do not break."""
    page = rendered("{{ 0.5 | percent }} {{ 2e6 | bytes }} {{ 1e-9 | nats }}")
    assert page == "50.0\u00a0% 2.00\u00a0MB 1.0\u00a0×\u00a010⁻⁹"
