"""Tokenizers that kullback makes: trained on a text, or made of the vocabulary of a source.

A source's vocabulary becomes a word-level tokenizer with the source's ids; a text gets a byte-level
BPE trained on it (Sennrich et al. 2016), which can encode any text, or one of its characters.  All
are Hugging Face `tokenizers`, saved as ``tokenizer.json``, which other tools read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kullback.runtime.ranges import TRAINED_VOCABULARIES
from kullback.text.piece_encoders import CHARACTERS
from kullback.text.special_tokens import BOS, EOS

__all__ = ["character_tokenizer", "tokenizer_config", "train_tokenizer", "word_tokenizer"]

# Characters: longer than any word of a language, and than any token worth having.
LONGEST_RUN = 256
# Of a longer run the trainer sees the beginning: it takes 100 bytes a character of distinct
# pre-tokens.
MOST_OF_RUN = 1 << 14
# As GPT-2's pre-tokenizer has them, up to what Unicode calls a letter, a number and whitespace.
_KINDS = (r"[^\W\d_]", r"\d", r"\s", r"(?:[^\w\s]|_)")
_LONG_RUN = re.compile("|".join(f"{kind}{{{LONGEST_RUN + 1},}}" for kind in _KINDS))
# What has no match has no long run, either, and is searched in a quarter of the time.
_UNBROKEN = re.compile(rf"\S{{{LONGEST_RUN + 1},}}|\s{{{LONGEST_RUN + 1},}}")


def word_tokenizer(vocabulary: Sequence[str], bos: bool = True) -> Tokenizer:
    """The tokenizer of a source: words between whitespace, ids as in `vocabulary`, `BOS` prepended.

    Without `bos` nothing is prepended: a window of a stationary process has no beginning.

    >>> word_tokenizer([BOS, EOS, "ayer", "comió"]).encode("ayer comió").ids
    [0, 2, 3]
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        _prepend_bos(tokenizer)
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary_size` entries trained on `texts`, with `BOS` and `EOS`.

    Runs of more than `LONGEST_RUN` letters, digits, marks or whitespace, which are one pre-token,
    are cut, and of each at most `MOST_OF_RUN` are read: the time of a merge grows with the length
    of each pre-token that has it.

    Raises `InvalidValueError` for a size outside `TRAINED_VOCABULARIES`.
    """
    TRAINED_VOCABULARIES.check("vocabulary_size", vocabulary_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (part for text in texts for part in _cut_runs(text))
    tokenizer.train_from_iterator(parts, trainer)
    _prepend_bos(tokenizer)
    return tokenizer


def _cut_runs(text: str) -> Iterator[str]:
    """The text in parts between which long runs are cut; the end of the longest is left out."""
    begin = 0
    for run in _LONG_RUN.finditer(text) if _UNBROKEN.search(text) else ():
        seen = min(run.end(), run.start() + MOST_OF_RUN)
        for end in range(run.start() + LONGEST_RUN, seen, LONGEST_RUN):
            yield text[begin:end]
            begin = end
        if seen < run.end():
            yield text[begin:seen]
            begin = run.end()
    yield text[begin:]


def character_tokenizer(characters: Iterable[str]) -> Tokenizer:
    """A tokenizer of these characters, in order of their codes, after `BOS` and `EOS`.

    >>> character_tokenizer("ba ñ").encode("a b").ids
    [0, 3, 2, 4]
    """
    ids = {token: i for i, token in enumerate([BOS, EOS, *sorted(set(characters))])}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTERS), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([BOS, EOS])
    _prepend_bos(tokenizer)
    return tokenizer


def tokenizer_config(bos: str | None = BOS, eos: str | None = EOS) -> str:
    """The ``tokenizer_config.json`` that names the special tokens for transformers."""
    special = {"bos_token": bos, "eos_token": eos, "pad_token": eos}
    return json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in special.items() if token is not None},
            "clean_up_tokenization_spaces": False,
        },
        indent=2,
    )


def _prepend_bos(tokenizer: Tokenizer) -> None:
    """Let `encode` begin with BOS."""
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
