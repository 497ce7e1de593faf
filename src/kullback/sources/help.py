"""The format of grammar files and of exports, as the help of ``kullback source`` shows it."""

from __future__ import annotations

__all__ = ["EXPORT_HELP", "GRAMMAR_HELP"]

GRAMMAR_HELP = """
A grammar file is TOML.  A rule is a list of alternatives; an alternative contains
words and references <rule>.  The name of a rule is the slot of its words, and a rule
may refer to itself only at its end:

  name = "weather"
  start = "sentence"
  [rules]
  sentence = [{ p = 0.7, then = "today <sky>" }, { p = 0.3, then = "tomorrow <sky>" }]
  sky = ["it rains", "the sun shines"]          # without p: equally likely"""

EXPORT_HELP = """
DIR gets train.txt, train.tokens.npy, train.surprisals.npy, tokenizer.json and a
README.txt.  The expected loss of a model on fresh sentences is at least the entropy
floor: a loss clearly below it is a bug of the trainer."""
