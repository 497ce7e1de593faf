"""GGUF files that transformers dequantises and runs: what it leaves out or gets wrong.

The tokenizer is built from the file (`kullback.models.gguf_tokenizer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_tokenizer import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_whole", "load_tokenizer"]


def check_whole(file: GGUFFile) -> None:
    """Raise `InvalidValueError` for a split file, of which transformers reads one part."""
    if len(file.parts) > 1:
        raise InvalidValueError(
            f"the model {file.name} is split into {len(file.parts)} parts, which transformers "
            "cannot read: pip install 'kullback[gguf]', which runs them in llama.cpp, or join them "
            "with llama.cpp's llama-gguf-split --merge"
        )


def load_tokenizer(file: GGUFFile) -> PreTrainedTokenizerBase:
    """The tokenizer of a file in the form of transformers; raises as `tokenizer_of` does."""
    from transformers import PreTrainedTokenizerFast

    built = tokenizer_of(file)
    named = {
        "bos_token": built.bos_token,
        "eos_token": built.eos_token,
        "unk_token": built.unk_token,
        "pad_token": built.pad_token,
    }
    # transformers takes "<s>" and "</s>" for those that are not given.
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call] # theirs
        tokenizer_object=built.tokenizer, **named
    )
    template = file.metadata.get("tokenizer.chat_template")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer
