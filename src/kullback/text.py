"""Tokenizers and text: from what people write to token ids, and back.

A source's vocabulary becomes a word-level tokenizer whose ids are the source's; a text gets a
byte-level BPE trained on it (Sennrich et al. 2016), which can encode anything.  Both are Hugging
Face `tokenizers`, saved as ``tokenizer.json``, so every tool that reads those reads ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kullback.errors import InvalidValueError
from kullback.sources.automaton import BOS, EOS

__all__ = ["read_texts", "tokenizer_config", "train_tokenizer", "word_tokenizer"]


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """The tokenizer of a source: words at blanks, ids as in `vocabulary`, `BOS` put in front.

    >>> word_tokenizer([BOS, EOS, "ayer", "comió"]).encode("ayer comió").ids
    [0, 2, 3]
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _put_bos_in_front(tokenizer)
    return tokenizer


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary_size` entries trained on `texts`, with `BOS` and `EOS`.

    Raises `InvalidValueError` where the size has no room for the 256 bytes and the two specials.
    """
    if vocabulary_size < 258:
        raise InvalidValueError(
            f"vocabulary_size is {vocabulary_size}: a byte-level BPE needs at least 258 "
            "(256 bytes and two special tokens)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _put_bos_in_front(tokenizer)
    return tokenizer


def tokenizer_config() -> str:
    """The ``tokenizer_config.json`` that tells transformers what the special tokens are."""
    return json.dumps(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "clean_up_tokenization_spaces": False,
        },
        indent=2,
    )


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The documents in `paths`, one a file; unreadable, empty or non-UTF-8 is an error."""
    texts = []
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise InvalidValueError(f"the text {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InvalidValueError(
                f"the text {path} is not UTF-8: byte {error.start} is "
                f"0x{error.object[error.start]:02x}; convert it first (iconv -t utf-8)"
            ) from None
        if not text.strip():
            raise InvalidValueError(f"the text {path} is empty")
        texts.append(text)
    return texts


def _put_bos_in_front(tokenizer: Tokenizer) -> None:
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
