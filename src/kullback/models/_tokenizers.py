"""The tokenizer of a model that transformers loaded: that of its tokenizer.json, where it has one.

`AutoTokenizer` rebuilds the tokenizers of many classes from the vocabulary alone and then reads a
text otherwise than the file says, which other programs follow (Transformers issues 45488, 45812,
45920).  The tokens are those of the file, and a note says where they differ.

Tokens that only tokenizer_config.json adds are those of transformers.  Whether a text begins with
BOS is what tokenizer.json does, as in transformers 5; a note says where `add_bos_token` in
tokenizer_config.json, which earlier versions and other programs follow, says otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.models._sentence_piece_files import check_file, of_sentence_piece
from kullback.models.locate import SENTENCE_PIECE_FILES, Location, read_json
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_file import HARD_STRINGS, fingerprint_of, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_files", "save_tokenizer", "text_tokenizer", "tokenizer_of_pair"]

TOKENIZER_FILE = "tokenizer.json"
# What a tokenizer is saved in: of its file, the settings of its class, and what it was made from.
FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "vocab.txt",
    *SENTENCE_PIECE_FILES, "tekken.json",
)  # fmt: skip
# Classes of transformers for any tokenizer, which split no text.
NO_CLASS = ("TokenizersBackend", "PreTrainedTokenizerFast")
SHOWN = 40  # characters of a text in a note


def text_tokenizer(location: Location, theirs: PreTrainedTokenizerBase) -> TextTokenizer:
    """The tokenizer of the model at `location`, of which `theirs` is what transformers made.

    Raises `OSError` or `ValueError` where tokenizer.json cannot be read or is damaged.
    """
    made = TextTokenizer.from_transformers(theirs)
    path = _file_of(location, TOKENIZER_FILE)
    if path is None:
        return _of_other_files(location, made, theirs)
    stored = _with_added(read_tokenizer(path), path, theirs)
    if _is_made_of(made, stored, theirs):
        return made.with_notes(*_other_start(location, type(theirs).__name__, made, made))
    ours = TextTokenizer(stored, theirs.bos_token, theirs.eos_token)
    return ours.with_notes(
        *_difference(location.name, type(theirs).__name__, ours, made),
        *_other_start(location, type(theirs).__name__, ours, made),
    )


def tokenizer_of_pair(theirs: PreTrainedTokenizerBase) -> TextTokenizer:
    """The tokenizer that a user loaded, with a note where the file it was loaded from differs."""
    made = TextTokenizer.from_transformers(theirs)
    path = Path(str(getattr(theirs, "name_or_path", ""))) / TOKENIZER_FILE
    if not path.is_file():
        return made
    try:
        stored = _with_added(read_tokenizer(path), path, theirs)
    except (OSError, ValueError):  # what was loaded is used as it is
        return made
    if _is_made_of(made, stored, theirs):
        return made
    ours = TextTokenizer(stored, theirs.bos_token, theirs.eos_token)
    for text in HARD_STRINGS:
        if _ids(ours, text) != _ids(made, text):
            return made.with_notes(
                f"the tokenizer that was given ({type(theirs).__name__}) reads other tokens than "
                f"{path} says ({text[:SHOWN]!r}): give the model's folder to follow that file"
            )
    return made


def _is_made_of(made: TextTokenizer, stored: Tokenizer, theirs: PreTrainedTokenizerBase) -> bool:
    """Whether `made` is what `TextTokenizer` would make of `stored`, as far as is seen at once.

    To make it takes a second where the vocabulary is large.
    """
    serialised = stored.to_str()
    return made.fingerprint == fingerprint_of(serialised, theirs.bos_token, theirs.eos_token)


def check_files(location: Location) -> None:
    """Raise where the model's only file of a tokenizer is one that cannot be read here."""
    if _file_of(location, TOKENIZER_FILE) is None:
        for name in SENTENCE_PIECE_FILES:
            if (path := _file_of(location, name)) is not None:
                check_file(location.name, path)


def _of_other_files(
    location: Location, made: TextTokenizer, theirs: PreTrainedTokenizerBase
) -> TextTokenizer:
    """The tokenizer of a model without a tokenizer.json; raises where the files do not say which.

    Of vocab.json and merges.txt the class says how a text is split into words.
    """
    for name in SENTENCE_PIECE_FILES:
        if (path := _file_of(location, name)) is not None:
            return of_sentence_piece(location.name, path, made, theirs)
    vocabulary = _file_of(location, "vocab.json")
    if vocabulary is None:
        return made
    stored, read = read_json(vocabulary), theirs.get_vocab()
    if type(theirs).__name__ in NO_CLASS or any(read.get(t) != i for t, i in stored.items()):
        raise InvalidValueError(
            f"the tokenizer of the model {location.name} is only in vocab.json and merges.txt, and "
            f"its class ({type(theirs).__name__}) does not say how a text is split: copy the "
            "tokenizer.json of the model that this one was made of into it"
        )
    return made


def save_tokenizer(location: Location, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer of the model at `location` into a folder: its own files, byte for byte.

    Without files that are read it is written as transformers made it.
    """
    files = {name: path for name in FILES if (path := _file_of(location, name)) is not None}
    if files.keys().isdisjoint((TOKENIZER_FILE, "vocab.json", *SENTENCE_PIECE_FILES)):
        tokenizer.save_pretrained(folder)
        return
    for name, path in files.items():
        shutil.copyfile(path, folder / name)


def _file_of(location: Location, name: str) -> Path | None:
    """A file of the model, in its folder or in the hub's cache; None where it has none."""
    if location.gguf is not None:
        return None
    if location.path is not None:
        path = location.path / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(location.source, name)
    return Path(cached) if isinstance(cached, str) else None


def _with_added(stored: Tokenizer, path: Path, theirs: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer of the file `path` with the added tokens that only transformers knows.

    Without them where they would have other ids than there.
    """
    known = {token.content for token in stored.get_added_tokens_decoder().values()}
    more = {
        id_: token
        for id_, token in sorted(getattr(theirs, "added_tokens_decoder", {}).items())
        if token.content not in known
    }
    for token in more.values():
        add: Callable[..., int] = stored.add_special_tokens if token.special else stored.add_tokens
        add([token])
    if any(stored.token_to_id(token.content) != id_ for id_, token in more.items()):
        return read_tokenizer(path)
    return stored


def _difference(
    name: str, class_name: str, ours: TextTokenizer, theirs: TextTokenizer
) -> tuple[str, ...]:
    """A note where the two read a text as different tokens."""
    for text in (*HARD_STRINGS, *map("x{}y".format, ours.special_strings)):
        ids = [_ids(tokenizer, text) for tokenizer in (ours, theirs)]
        if ids[0] != ids[1]:
            counts = " and ".join("none" if i is None else str(len(i)) for i in ids)
            return (
                f"the tokens are those of the tokenizer.json of {name}: transformers' {class_name} "
                f"does not follow that file and reads other ones ({text[:SHOWN]!r} is {counts} "
                "tokens)",
            )
    return ()


def _other_start(
    location: Location, class_name: str, ours: TextTokenizer, theirs: TextTokenizer
) -> tuple[str, ...]:
    """A note where the configuration, or transformers, begins a text otherwise than the file."""
    begins = "begins a text with BOS" if ours.adds_bos else "does not begin a text with BOS"
    config = _file_of(location, "tokenizer_config.json")
    flag = read_json(config).get("add_bos_token") if config is not None else None
    if isinstance(flag, bool) and flag != ours.adds_bos:
        other = f"add_bos_token in its tokenizer_config.json is {str(flag).lower()}"
    elif theirs.adds_bos != ours.adds_bos:
        other = f"transformers' {class_name} differs"
    else:
        return ()
    remedy = "never" if ours.adds_bos else "always"
    return (
        f"the tokenizer.json of {location.name} {begins}, and {other}: the file was followed, "
        f"--bos {remedy} reads it otherwise",
    )


def _ids(tokenizer: TextTokenizer, text: str) -> list[int] | None:
    """The ids of a text; None where it has no tokens for it."""
    try:
        return tokenizer.ids(text)
    # The library raises a bare Exception where a word has no token and none for unknown words.
    except Exception:
        return None
