"""What the tokens of a GGUF file are, as llama.cpp has it: the file's word, and what it overrides.

llama.cpp takes tokens with certain names for control tokens whatever the file says, because many
files were converted wrongly (src/llama-vocab.cpp, of October 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile

__all__ = ["REMEDY", "Kind", "repeated_token", "token_kinds"]

#: Of a tokenizer that only llama.cpp runs.
REMEDY = "run the file in llama.cpp (pip install 'kullback[gguf]', and no @transformers)"


class Kind(IntEnum):
    """The types of tokens, with their numbers in `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip
# Of code models: one of each row, where the file does not name it by one of the keys.
FILL_IN = {
    "fim_pre prefix": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> "
                      "<|code_prefix|> <|prefix|>",
    "fim_suf suffix": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> "
                      "<|code_suffix|> <|suffix|>",
    "fim_mid middle": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> "
                      "<|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}  # fmt: skip
# Of gpt-oss: always found in a text.
ALWAYS_FOUND = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


def repeated_token(file: GGUFFile, token: str, id_: int) -> InvalidValueError:
    """Of a token that an earlier id has, too."""
    return InvalidValueError(
        f"the tokenizer of the model {file.name} is damaged: {token[:40]!r} is a token twice, the "
        f"second time token {id_:,}; download the file again"
    )


def token_kinds(file: GGUFFile, tokens: Mapping[str, int]) -> list[Kind]:
    """The kind of each token, by id; `InvalidValueError` where the file has fewer kinds."""
    stored = file.metadata.get("tokenizer.ggml.token_type")
    kinds = [Kind.NORMAL] * len(tokens)
    if stored is not None:
        if not isinstance(stored, tuple) or len(stored) < len(tokens):
            raise InvalidValueError(
                f"the tokenizer of the model {file.name} is damaged: it has {len(tokens):,} tokens "
                "and fewer types (tokenizer.ggml.token_type); download the file again"
            )
        known = {kind.value: kind for kind in Kind}
        kinds = [known.get(int(value), Kind.UNDEFINED) for value in stored[: len(tokens)]]
    for name in (*ENDS, *_fill_in(file, tokens, kinds)):
        if name in tokens:
            kinds[tokens[name]] = Kind.CONTROL
    for name in ALWAYS_FOUND:
        if name in tokens:
            kinds[tokens[name]] = Kind.USER
    calls = {"<|call|>", "<|calls|>"} & tokens.keys()
    if calls and "<|end|>" in tokens and {"<|return|>", "<|flush|>"} & tokens.keys():
        kinds[tokens["<|end|>"]] = Kind.USER
    return kinds


def _fill_in(file: GGUFFile, tokens: Mapping[str, int], kinds: list[Kind]) -> list[str]:
    """The tokens that llama.cpp takes for those around a gap in code."""
    taken = []
    for keys, names in FILL_IN.items():
        if any(f"tokenizer.ggml.{key}_token_id" in file.metadata for key in keys.split()):
            continue
        present = [name for name in names.split() if name in tokens]
        # Of several it takes whichever its table gives first.
        if len(present) > 1 and any(kinds[tokens[name]] == Kind.USER for name in present):
            raise InvalidValueError(
                f"the tokenizer of the model {file.name} has both {present[0]!r} and "
                f"{present[1]!r}, which llama.cpp alone tells apart: {REMEDY}"
            )
        taken += present
    return taken
