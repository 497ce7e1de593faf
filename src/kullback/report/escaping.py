"""How does a token look, when blanks, line ends and half characters must be seen?

A corpus may hold anything: control characters, marks that turn the reading direction, halves of
surrogate pairs.  What has no glyph of its own is shown by a picture of it, so that a page
stays valid, a terminal obeys nothing that a text says, and a reader sees what the model saw.
"""

from __future__ import annotations

import re

__all__ = ["as_running_text", "visible", "visible_token"]

# What HTML, XML, a terminal or the order of the letters would choke on.  Line ends and tabs are
# treated before.  U+202A-202E and U+2066-2069 embed and override the reading direction.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
    "|[\ud800-\udfff\ufdd0-\ufdef]|[\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""`text` on one line: control characters by their pictures, what has none as ▒.

    >>> visible("a\x1b[31mb\n\u202ec")
    'a␛[31mb↵▒c'
    """
    text = text.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥")
    return _UNPRINTABLE.sub(_picture, text)


def visible_token(text: str) -> str:
    """A token by itself: blanks at its ends are seen, and so is nothing at all.

    >>> visible_token(" the"), visible_token("a b "), visible_token("")
    ('␣the', 'a b␣', '∅')
    """
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text) or "∅"
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return visible("␣" * before + inner + "␣" * after)


def as_running_text(text: str) -> str:
    r"""A token in its text: the line ends that it holds are seen, and end the line once.

    >>> as_running_text(".\n\nThe")
    '.↵↵\nThe'
    """
    return re.sub("↵+", lambda found: f"{found[0]}\n", visible(text))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "▒"
