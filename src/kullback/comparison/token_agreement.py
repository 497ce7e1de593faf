"""Whether two tokenizers read a text as the same tokens, and where not, what differs first."""

from __future__ import annotations

import numpy as np

from kullback.errors import InvalidValueError
from kullback.evaluation.text_ahead import PassText
from kullback.runtime.columns import PART_ROWS
from kullback.text.encoded_documents import encode_documents
from kullback.text.protocol import Bos
from kullback.text.stored_encodings import equal_tokens
from kullback.text.tokenizer import TextTokenizer
from kullback.text.windows import Tokens

__all__ = ["bos_note", "check_tokens"]

# Tokens that a message shows of each reading.
SHOWN = 4


def check_tokens(
    name: str, tokenizer: TextTokenizer, reader: tuple[str, TextTokenizer], text: PassText
) -> None:
    """Raise `InvalidValueError` where the tokenizer of `name` reads the text as other tokens.

    `reader` is the name and the tokenizer of the model that read it.  The whole text is waited for
    where the tokenizers are not the same.
    """
    if tokenizer.fingerprint == reader[1].fingerprint:
        return
    tokenized = text.whole
    others = encode_documents(
        tokenizer,
        tokenized.documents,
        special_tokens=tokenized.protocol.special_tokens or "text",
    )
    for document, tokens, other in zip(
        tokenized.documents, tokenized.encodings, others, strict=True
    ):
        if not equal_tokens(tokens, other):
            difference = _first_difference(reader, tokens, (name, tokenizer), other)
            raise InvalidValueError(
                f"{reader[0]} and {name} read {document.name} as different tokens "
                f"({len(tokens):,} and {len(other):,}; {difference}): a KL by token does not "
                "exist; compare them by bytes with --by-bytes"
            )


def bos_note(
    name: str, tokenizer: TextTokenizer, reader: str, reading: TextTokenizer, bos: Bos = "auto"
) -> list[str]:
    """A note where a model's own tokenizer begins a text in another way than it is read here.

    `reading` is the tokenizer of `reader`, which decides where the protocol leaves it open.
    """
    own, theirs = (_bos_of(part, bos) for part in (tokenizer, reading))
    if own == theirs:
        return []
    remedy = "--bos always or never decides it for both" if bos == "auto" else "see --bos never"
    return [
        f"the tokenizer of {name} begins a text with {_shown(tokenizer, own)}, that of {reader} "
        f"with {_shown(reading, theirs)}: both models read it as {reader} does; {remedy}"
    ]


def _bos_of(tokenizer: TextTokenizer, bos: Bos) -> int | None:
    """What a text begins with, were this the tokenizer that reads it."""
    wanted = bos == "always" or (bos == "auto" and tokenizer.adds_bos)
    return tokenizer.bos_id if wanted else None


def _shown(tokenizer: TextTokenizer, bos: int | None) -> str:
    return "no BOS" if bos is None else f"the BOS {tokenizer.token_text(bos)!r}"


def _first_difference(
    reader: tuple[str, TextTokenizer],
    tokens: Tokens,
    other: tuple[str, TextTokenizer],
    read: Tokens,
) -> str:
    """Where two readings of a document part, with some tokens of both."""
    at = _first_unequal(tokens, read)
    byte = int(tokens.ends_of(np.array([at - 1]))[0])
    shown = []
    for (name, tokenizer), reading in ((reader, tokens), (other, read)):
        ids = reading.ids[at : at + SHOWN]
        texts = [repr(tokenizer.token_text(int(token))) for token in ids]
        shown.append(f"{name} {' '.join(texts) or 'the end'} (id {ids[0] if len(ids) else '-'})")
    return f"first at byte {byte}, where {shown[0]} is {shown[1]}"


def _first_unequal(first: Tokens, second: Tokens) -> int:
    shorter = min(len(first), len(second))
    for begin in range(0, shorter, PART_ROWS):
        end = min(begin + PART_ROWS, shorter)
        differs = first.ids[begin:end] != second.ids[begin:end]
        if differs.any():
            return begin + int(np.argmax(differs))
    return shorter
