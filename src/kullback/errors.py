"""The exceptions of kullback, in one tree.

::

    Exception
    └── KullbackError              every user-correctable error; the command line exits with 2
        ├── InvalidValueError      also a ValueError: a wrong number, shape, probability or size
        ├── ImpossiblePrefixError  also a ValueError: a prefix that the language cannot produce
        ├── GrammarError           also a ValueError: a grammar file that does not define a language
        ├── RunError               a run folder: missing, damaged, busy, or of another model
        │   └── LostProcessError   another process of torchrun has ended
        └── MissingExtraError      also an ImportError: an optional library is not installed

A message names the argument, says what it must be, shows the offending value and its position, and
ends with the fix.
"""

from __future__ import annotations

__all__ = [
    "GrammarError",
    "ImpossiblePrefixError",
    "InvalidValueError",
    "KullbackError",
    "LostProcessError",
    "MissingExtraError",
    "RunError",
]


class KullbackError(Exception):
    """A user-correctable error; the message says how to correct it."""


class InvalidValueError(KullbackError, ValueError):
    """An argument has an invalid value, shape or size."""


class ImpossiblePrefixError(KullbackError, ValueError):
    """A prefix has probability zero: the message names the first impossible token."""


class GrammarError(KullbackError, ValueError):
    """A grammar is malformed, or its probabilities do not sum to one."""


class RunError(KullbackError):
    """A run folder is missing, damaged, in use, or belongs to another model."""


class LostProcessError(RunError):
    """Another process that shares the work has ended; that one says why, unless it was killed."""


class MissingExtraError(KullbackError, ImportError):
    """An optional dependency is needed: the message gives the pip command."""
