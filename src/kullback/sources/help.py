"""The format of grammar files and of exports, as the help of ``kullback source`` shows it."""

from __future__ import annotations

__all__ = ["EXPORT_HELP", "FORMATS", "GRAMMAR_HELP"]

GRAMMAR_HELP = """
A grammar file is TOML.  A rule is a list of alternatives; an alternative contains
words and references <rule>.  The name of a rule is the slot of its words, and a rule
may refer to itself only at its end:

  name = "weather"
  start = "sentence"
  [rules]
  sentence = [{ p = 0.7, then = "today <sky>" }, { p = 0.3, then = "tomorrow <sky>" }]
  sky = ["it rains", "the sun shines"]          # without p: equally likely

A Markov chain has a table [chain], with the symbols that follow each context:

  [chain]
  sun = { sun = 0.8, rain = 0.2 }
  rain = { sun = 0.4, rain = 0.6 }

A hidden Markov process has a table [states], with the steps of each state:

  [states]
  A = [{ p = 0.5, write = "1", then = "A" }, { p = 0.5, write = "0", then = "B" }]
  B = [{ p = 1.0, write = "1", then = "A" }]"""

FORMATS = {
    "text": "train.txt: a row a line, words between spaces",
    "npy": "train.tokens.npy: all rows as ids; train.surprisals.npy: the true -log p, nats",
    "jsonl": 'train.jsonl: {"text": ...} a row',
    "datasets": "datasets/: a folder for datasets.load_from_disk (Arrow)",
    "parquet": "parquet/: a folder for datasets.load_dataset, with its card",
    "nanogpt": "nanogpt/: train.bin and val.bin (uint16), meta.pkl",
}
"""The formats of an export, and the files of each."""

EXPORT_HELP = (
    "\nDIR gets a split train and a split validation in the formats of --format:\n\n"
    + "\n".join(f"  {name:<10}{what}" for name, what in FORMATS.items())
    + """

and floor.json (the exact entropies: per token, position and slot), tokenizer.json,
source.safetensors and a README.txt.  The expected loss of a model on fresh rows is
at least the floor: a loss clearly below it is a bug of the trainer, or counts <s>, too,
as nanoGPT's does (README.txt has the floor of that).  A model that is saved with the
tokenizer of the export is measured with

  kullback evaluate YOUR_FOLDER --source DIR"""
)
