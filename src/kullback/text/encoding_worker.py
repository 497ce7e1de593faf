"""A process that encodes pieces of a corpus: ``python -m kullback.text.encoding_worker``.

Standard input has frames, each the length in 8 bytes and a MessagePack value: first the tokenizer
and the type of its ids, then lists of texts.  Each list is answered on standard output by a frame
with the ids of each text, or with the sentence of an error.  It ends where its input does.
"""

from __future__ import annotations

import signal
import sys
from typing import BinaryIO

import msgspec
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.text.piece_encoders import piece_encoder

__all__ = ["read_frame", "write_frame"]


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's value; None at the end, also within a frame."""
    length = stream.read(8)
    if len(length) < 8:
        return None
    size = int.from_bytes(length, "little")
    content = stream.read(size)
    return content if len(content) == size else None


def write_frame(stream: BinaryIO, value: object) -> None:
    """Write a frame."""
    content = msgspec.msgpack.encode(value)
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def main() -> None:
    """Answer every frame."""
    # Ctrl-C is for the process that has started this one, which then closes the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = read_frame(sys.stdin.buffer)
    if first is None:
        return
    tokenizer, dtype = msgspec.msgpack.decode(first, type=tuple[str, str])
    encoder = piece_encoder(Tokenizer.from_str(tokenizer), dtype)
    assert encoder is not None, "the caller has asked"
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        texts = msgspec.msgpack.decode(frame, type=list[str])
        answer: list[bytes] | str
        try:
            answer = encoder.encode(texts)
        except InvalidValueError as error:
            answer = str(error)
        write_frame(sys.stdout.buffer, answer)


if __name__ == "__main__":
    main()
