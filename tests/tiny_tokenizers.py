"""A tokenizer of 600 tokens that splits as no class of transformers does."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, trainers
from tokenizers import pre_tokenizers as pre

from tiny_models import TEXT

NUMBERS = " ".join(str(i * 37 % 9973) for i in range(900))


def trained(*, digits: int = 3, dropout: float | None = None) -> Tokenizer:
    """A byte-level BPE that splits numbers after so many digits."""
    tokenizer = Tokenizer(models.BPE())
    pattern = rf"\p{{N}}{{1,{digits}}}| ?[^\s\p{{N}}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, NUMBERS], trainer)
    if dropout is not None:
        tokenizer.model.dropout = dropout
    return tokenizer
