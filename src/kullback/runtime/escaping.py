"""Visible forms of text: whitespace, line ends and what has no glyph of its own.

A corpus, a file name or a message of a library may contain anything: control characters, marks that
change the reading direction, halves of surrogate pairs.  Each is replaced by a visible character,
so that an HTML report stays valid, a terminal executes nothing that a text contains, and a reader
sees what the model saw.
"""

from __future__ import annotations

import re

__all__ = ["as_running_text", "escaped_json", "visible", "visible_lines", "visible_token"]

# Invalid in HTML or XML, executed by a terminal, or changing the order of letters.  Line ends and
# tabs are replaced before.  U+202A-202E and U+2066-2069 embed and override the reading direction.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
    "|[\ud800-\udfff\ufdd0-\ufdef]|[\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""`text` on a single line: control characters as their pictures, what has no picture as ▒.

    >>> visible("a\x1b[31mb\n\u202ec")
    'a␛[31mb↵▒c'
    """
    text = text.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥")
    return _UNPRINTABLE.sub(_picture, text)


def visible_lines(text: str) -> str:
    r"""`text` with its lines; within them everything is as `visible` shows it.

    >>> visible_lines("a\x1b[31mb\nc\r\n")
    'a␛[31mb\nc↵\n'
    """
    lines = text.split("\n")
    return "\n".join(visible(line).replace("␍", "↵") for line in lines)


def escaped_json(document: str) -> str:
    r"""The same JSON, in which characters that a terminal executes are escapes (``\u009b``).

    Outside its strings JSON has no such character but line ends, which stay.

    >>> escaped_json('["a\u202eb"]')
    '["a\\u202eb"]'
    """
    return _UNPRINTABLE.sub(
        lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", document
    )


def visible_token(text: str) -> str:
    """A token by itself: spaces at its ends are visible, and so is an empty token.

    >>> visible_token(" the"), visible_token("a b "), visible_token("")
    ('␣the', 'a b␣', '∅')
    """
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text) or "∅"
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return visible("␣" * before + inner + "␣" * after)


def as_running_text(text: str) -> str:
    r"""A token in its text: its line ends are visible, and consecutive ones end the line once.

    >>> as_running_text(".\n\nThe")
    '.↵↵\nThe'
    """
    return re.sub("↵+", lambda match: f"{match[0]}\n", visible(text))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "▒"
