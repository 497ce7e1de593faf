"""The tokenizer that a GGUF file describes, with the ids that llama.cpp gives.

Two kinds are built here with the library `tokenizers`; all others are refused by name.

========  ====================================================================================
"gpt2"    byte-pair encoding of bytes: the merges of the file, and a pre-tokenizer that it names
          (`kullback.models.gguf_pretokenizers`)
"llama"   SentencePiece's byte-pair encoding: whichever two neighbours are a token together are
          merged, the best score first, the leftmost of equal scores
========  ====================================================================================

Text is data: control tokens that are spelled in it are read as characters.  Tokens that the file
calls user-defined are read as tokens, as llama.cpp and `tokenizers` both do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from kullback.errors import InvalidValueError
from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_pretokenizers import PRE_TOKENIZERS, RAW, PreTokenizer
from kullback.models.gguf_sentence_pieces import SPACE, merges_by_score, overlaps
from kullback.models.gguf_token_types import REMEDY, Kind, repeated_token, token_kinds

__all__ = ["GGUFTokenizer", "tokenizer_of"]

# llama.cpp's where the file names none.
DEFAULT_BOS = {"llama": 1, "gpt2": 11}
DEFAULT_EOS = {"llama": 2, "gpt2": 11}


@dataclass(frozen=True, eq=False)
class GGUFTokenizer:
    """A tokenizer, and the special tokens that the file names."""

    tokenizer: Tokenizer
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None


def tokenizer_of(file: GGUFFile) -> GGUFTokenizer:
    """The tokenizer of a file.

    Raises `InvalidValueError` where the file has none, where it is damaged, and where `tokenizers`
    cannot give the ids that llama.cpp gives.
    """
    model = file.metadata.get("tokenizer.ggml.model")
    if model not in DEFAULT_BOS:
        raise InvalidValueError(
            f"the model {file.name} has a tokenizer of the kind {model!r}, which is read only by "
            f"llama.cpp: {REMEDY}"
        )
    tokens = _tokens(file)
    kinds = token_kinds(file, tokens)
    if model == "gpt2":
        name = file.metadata.get("tokenizer.ggml.pre", "default")
        pre_tokenizer = PRE_TOKENIZERS.get(str(name))
        if name in RAW:
            raise InvalidValueError(
                f"the model {file.name} has the pre-tokenizer {name!r}, which is read only by "
                f"llama.cpp: {REMEDY}"
            )
        if pre_tokenizer is None:
            raise InvalidValueError(
                f"the model {file.name} names a pre-tokenizer (tokenizer.ggml.pre) that kullback "
                f"does not know, {name!r}: {REMEDY}, whose newest version may know it; or convert "
                "the model again with today's llama.cpp"
            )
        tokenizer = _byte_pairs(file, tokens, pre_tokenizer)
    else:
        pre_tokenizer = PreTokenizer((), adds_bos=True)
        tokenizer = _sentence_pieces(file, tokens, kinds)
    _add_special(file, tokenizer, tokens, kinds)
    special = _Special(file, tokens, pre_tokenizer)
    bos, eos = special.begin_and_end(tokenizer)
    unknown, padding = special.named("unknown_token_id"), special.named("padding_token_id")
    return GGUFTokenizer(tokenizer, bos, eos, unknown, padding)


def _damaged(file: GGUFFile, reason: str) -> InvalidValueError:
    return InvalidValueError(
        f"the tokenizer of the model {file.name} is damaged: {reason}; download the file again"
    )


def _tokens(file: GGUFFile) -> dict[str, int]:
    """The ids of the tokens, in their order."""
    tokens: dict[str, int] = {}
    for id_, token in enumerate(file.tokens):
        if not token.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in token):
            raise _damaged(file, f"the token {id_} is not UTF-8")
        if tokens.setdefault(token or f"[EMPTY_{id_}]", id_) != id_:
            raise repeated_token(file, token, id_)
    if not tokens:
        raise InvalidValueError(
            f"the model {file.name} has no tokenizer: choose a file that was converted with one"
        )
    return tokens


# --- byte-pair encoding of bytes -----------------------------------------------------------------


def _byte_pairs(file: GGUFFile, tokens: Mapping[str, int], pre: PreTokenizer) -> Tokenizer:
    """The tokenizer of the kind "gpt2"."""
    model = models.BPE(
        dict(tokens), _merges_in_file(file, tokens), ignore_merges=pre.ignores_merges
    )
    tokenizer = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges_in_file(file: GGUFFile, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs that are merged, the first one first."""
    merges = file.strings("tokenizer.ggml.merges")
    if not merges and file.metadata.get("tokenizer.ggml.merges") != ():
        raise _damaged(file, "it has no merges (tokenizer.ggml.merges)")
    pairs: dict[tuple[str, str], None] = {}
    for merge in merges:
        # From the second character on: the first may be a space itself.
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space < 0 or left + right not in tokens:
            raise _damaged(file, f"the merge {merge!r} gives no token")
        if left in tokens and right in tokens:
            pairs.setdefault((left, right))
        elif all(len(part) == 1 or part in tokens for part in (left, right)):
            raise _damaged(file, f"the merge {merge!r} is of a character that is no token")
    return list(pairs)


def _sentence_pieces(file: GGUFFile, tokens: Mapping[str, int], kinds: Sequence[Kind]) -> Tokenizer:
    """The tokenizer of the kind "llama"."""
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, tuple) or len(scores) < len(tokens) or isinstance(scores[0], str):
        raise _damaged(file, "it lacks scores (tokenizer.ggml.scores)")
    user = {token for token, kind in zip(tokens, kinds, strict=True) if kind == Kind.USER}
    try:
        merges = merges_by_score(tokens, [float(score) for score in scores], user)
    except ValueError as error:
        raise InvalidValueError(
            f"the tokenizer of the model {file.name} {error}, which is read only by llama.cpp: "
            f"{REMEDY}"
        ) from None
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == Kind.UNKNOWN), None)
    model = models.BPE(dict(tokens), merges, unk_token=unknown, byte_fallback=True)
    tokenizer = Tokenizer(model)
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    before = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    spaces: list[decoders.Decoder] = [
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
    ]  # fmt: skip
    tokenizer.decoder = decoders.Sequence(
        [*spaces, decoders.Strip(" ", 1, 0)] if prefix else spaces
    )
    return tokenizer


# --- special tokens ------------------------------------------------------------------------------


def _add_special(
    file: GGUFFile, tokenizer: Tokenizer, tokens: Mapping[str, int], kinds: Sequence[Kind]
) -> None:
    """Tell the tokenizer which tokens are control tokens, and which are found before all else."""
    special, user = (
        [token for token, kind in zip(tokens, kinds, strict=True) if kind in wanted]
        for wanted in ((Kind.CONTROL, Kind.UNKNOWN), (Kind.USER,))
    )
    for left, right in overlaps(user):
        # llama.cpp looks for the longest token in the whole text first, `tokenizers` at each place.
        text = left[: len(left) - _shared(left, right)] + right
        if len(right) >= len(left) and not text.startswith(right):
            raise InvalidValueError(
                f"the tokenizer of the model {file.name} has the user-defined tokens {left!r} and "
                f"{right!r}, which overlap in {text!r}, which is read only by llama.cpp: {REMEDY}"
            )
    name = str(file.metadata.get("general.name", "")).lower()
    if user and ("phi-3" in name or "phi3" in name):
        raise InvalidValueError(
            f"the tokenizer of the model {file.name} has user-defined tokens ({user[0]!r}) that "
            f"take the whitespace after them, which is read only by llama.cpp: {REMEDY}"
        )
    for contents, is_special in ((special, True), (user, False)):
        added = [AddedToken(t, normalized=False, special=is_special) for t in contents]
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)


def _shared(left: str, right: str) -> int:
    """How many characters the end of `left` and the beginning of `right` share, at the least."""
    return next(n for n in range(1, len(left)) if left.endswith(right[:n]))


class _Special:
    """The special tokens that a file names, by what they are for."""

    def __init__(self, file: GGUFFile, tokens: Mapping[str, int], pre: PreTokenizer) -> None:
        self.file, self.pre = file, pre
        self.tokens = tokens
        self.by_id = list(tokens)

    def id_of(self, key: str) -> int | None:
        """The id under `tokenizer.ggml.KEY`; None where there is none, or none of this vocabulary.

        llama.cpp warns of an id beyond the vocabulary, and takes its default.
        """
        value = self.file.metadata.get(f"tokenizer.ggml.{key}")
        is_id = isinstance(value, int) and not isinstance(value, bool)
        return value if is_id and 0 <= value < len(self.by_id) else None  # type: ignore[operator, return-value] # an int

    def named(self, key: str) -> str | None:
        """The token under `tokenizer.ggml.KEY`."""
        id_ = self.id_of(key)
        return None if id_ is None else self.by_id[id_]

    def begin_and_end(self, tokenizer: Tokenizer) -> tuple[str | None, str | None]:
        """The tokens BOS and EOS; the tokenizer is told to add those that the file says."""
        model = str(self.file.metadata["tokenizer.ggml.model"])
        adds = {
            "bos": bool(self.file.metadata.get("tokenizer.ggml.add_bos_token", self.pre.adds_bos)),
            "eos": bool(self.file.metadata.get("tokenizer.ggml.add_eos_token", False)),
        }
        defaults = {
            "bos": DEFAULT_BOS[model] if self.pre.has_bos else None,
            "eos": DEFAULT_EOS[model],
        }
        tokens: dict[str, str | None] = {}
        for key, default in defaults.items():
            token = self.named(f"{key}_token_id")
            # llama.cpp makes up one for byte pairs, which matters only where it is added.
            if token is None and (model == "llama" or adds[key]) and default is not None:
                token = self.by_id[default] if default < len(self.by_id) else None
            if token is None and adds[key]:
                raise _damaged(
                    self.file, f"it adds {key.upper()} (add_{key}_token), and names no such token"
                )
            tokens[key] = token
        template = [
            tokens["bos"] if adds["bos"] else None,
            "$A",
            tokens["eos"] if adds["eos"] else None,
        ]
        added = [token for token in template if token is not None]
        if len(added) > 1:
            try:
                tokenizer.post_processor = processors.TemplateProcessing(
                    single=added,
                    special_tokens=[(t, self.tokens[t]) for t in {*added} - {"$A"}],
                )
            except ValueError as error:
                raise _damaged(
                    self.file, f"its special tokens have no template ({error})"
                ) from None
        return tokens["bos"], tokens["eos"]
