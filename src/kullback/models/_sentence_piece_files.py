"""Tokenizers that a model's folder has only as a SentencePiece or tiktoken file.

transformers makes its own tokenizer of such a file, and class by class it reads some texts as other
tokens than SentencePiece does with the same file: it drops a leading space, or, where no class is
named, leaves out the space before a text.  SentencePiece itself is followed, where it can be.
A tiktoken file does not say how a text is split into words; neither do vocab.json and merges.txt.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kullback.errors import InvalidValueError, MissingExtraError
from kullback.text.special_spellings import Spelled, count_strings
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_file import HARD_STRINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_file", "of_sentence_piece"]

# The first byte of a SentencePiece file: the tag of its list of pieces.
TAG = b"\n"
REMEDY = "copy the tokenizer.json of the model that this one was made of into it"


def check_file(name: str, path: Path) -> None:
    """Raise where the file `path`, all that the model `name` has of a tokenizer, cannot be read.

    `MissingExtraError` without sentencepiece, `InvalidValueError` for a file of tiktoken.
    """
    with path.open("rb") as file:
        if file.read(1) != TAG:
            raise InvalidValueError(
                f"the tokenizer of the model {name} is only in {path.name}, a file of tiktoken, "
                f"which does not say how a text is split: {REMEDY}"
            )
    for package, install in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(
                f"the tokenizer of the model {name} is only in {path.name}, which {install} reads: "
                f"pip install sentencepiece protobuf, or {REMEDY}"
            ) from error


def of_sentence_piece(
    name: str, path: Path, made: TextTokenizer, theirs: PreTrainedTokenizerBase
) -> TextTokenizer:
    """The tokenizer of the SentencePiece file `path`, of which transformers made `theirs`.

    That is `made`, where both read the same.  Raises `InvalidValueError` where they differ and the
    ids of the model are not those of the file.
    """
    check_file(name, path)
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor(model_file=str(path))
    text = next((text for text in HARD_STRINGS if _differ(processor, theirs, text)), None)
    if text is None:
        return made
    size = processor.get_piece_size()
    tokens = theirs.convert_ids_to_tokens(list(range(size)))
    added = {id_: str(token) for id_, token in theirs.added_tokens_decoder.items()}
    control = {i for i in range(size) if processor.is_control(i) or processor.is_unknown(i)}
    if tokens != [processor.id_to_piece(i) for i in range(size)] or not added.keys() <= control:
        raise InvalidValueError(
            f"transformers' {type(theirs).__name__} reads {text!r} as other tokens than the "
            f"{path.name} of the model {name} says: {REMEDY}"
        )
    special = {i: processor.id_to_piece(i) for i in sorted(control)}

    def ids(text: str, special_tokens: Spelled) -> list[int]:
        if special_tokens == "tokens" and (
            spelled := count_strings(list(special.values()), [text])
        ):
            raise ValueError(
                f"{path.name} has no ids for special tokens in a text ({next(iter(spelled))})"
            )
        read: list[int] = processor.encode(text)
        return read

    pieces = [_bytes(processor, i) for i in range(size)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    bos = (theirs.bos_token_id, made.adds_bos)
    tokenizer = TextTokenizer.from_pieces(pieces, ids, special, bos, theirs.eos_token_id, digest)
    return tokenizer.with_notes(
        f"the tokens are those of the {path.name} of {name}: transformers' "
        f"{type(theirs).__name__} does not follow that file and reads other ones ({text!r})"
    )


def _differ(processor: Any, theirs: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether the two read a text as other pieces; a text with an unknown one is refused later."""
    ids = processor.encode(text)
    if processor.unk_id() in ids:
        return False
    read = theirs.encode(text, add_special_tokens=False)
    return bool(
        theirs.convert_ids_to_tokens(read) != [processor.id_to_piece(token) for token in ids]
    )


def _bytes(processor: Any, token: int) -> bytes:
    piece: str = processor.id_to_piece(token)
    if processor.is_byte(token):
        return bytes([int(piece[3:5], 16)])
    if processor.is_control(token) or processor.is_unknown(token):
        return b""
    return piece.replace("\u2581", " ").encode()
