"""The text of a run as ``training.json`` describes it, and the batches that it gives again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from tokenizers import Tokenizer

from kullback.errors import RunError
from kullback.runtime.decoding import Count, Hash
from kullback.runtime.progress import Progress
from kullback.text.corpus import file_hash
from kullback.training.text_batches import TextBatches
from kullback.training.text_shards import NAMES, MappedTokens, Stamp, shards_folder

__all__ = ["Dtype", "Split", "TextData", "batches_of_shards", "check_unchanged"]

#: Where the validation split is from.
Split: TypeAlias = Literal["files", "documents", "tail"]
#: Of the stored tokens.
Dtype: TypeAlias = Literal["uint16", "uint32"]

_Size = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
_Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class TextData(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a run on texts whose tokens are in its folder."""

    text: Annotated[list[str], msgspec.Meta(min_length=1)]
    """The files, by their absolute names."""
    validation: list[str]
    """Those that were given for the validation split."""
    field: str
    fingerprint: Hash
    """Of the tokens of both splits."""
    split: Split
    special_tokens: tuple[str | None, str | None]
    """BOS and EOS."""
    dtype: Dtype
    lengths: Annotated[list[Count], msgspec.Meta(min_length=4, max_length=4)]
    """Numbers in each of `kullback.training.text_shards.NAMES`."""
    files: list[Stamp]
    """Of `text` and `validation`."""
    shards: Annotated[list[Stamp], msgspec.Meta(min_length=4, max_length=4)]
    context: _Size
    windows: _Size
    seed: _Seed


def batches_of_shards(run: Path, data: TextData, tokenizer: Tokenizer) -> TextBatches:
    """The batches of the tokens in the folder of a run.

    Raises `RunError` where a file is missing or of another size, `InvalidValueError` for a text
    that is too short for the context.
    """
    folder = shards_folder(run)
    types = (data.dtype, data.dtype, "uint32", "int64")
    training, held_out, sizes, ends = (
        MappedTokens.open(folder / name, dtype, length)
        for name, dtype, length in zip(NAMES, types, data.lengths, strict=True)
    )
    of_batches = ("context", "windows", "seed")
    described: dict[str, Any] = msgspec.to_builtins(data)
    return TextBatches(
        training,
        held_out,
        tokenizer,
        {key: value for key, value in described.items() if key not in of_batches},
        data.context,
        data.windows,
        data.seed,
        np.asarray(sizes.values),
        ends[:] if len(ends) > 1 else None,
        data.special_tokens,
    )


def check_unchanged(run: Path, data: TextData, progress: Progress) -> None:
    """Raise `RunError` where the text or the tokens of a run have changed since it began.

    Files are read again only where their times have changed.  A text that is missing is noted: the
    tokens that were made of it are in the folder of the run.
    """
    folder = shards_folder(run)
    missing = []
    for stamp in data.files:
        path = Path(stamp.path)
        if not path.exists():
            missing.append(stamp.path)
        elif not stamp.still_holds(path, file_hash):
            raise RunError(
                f"the data has changed since this run began ({stamp.path} differs), so the run "
                "cannot be resumed exactly; restore the data, or train a new run"
            )
    for stamp in data.shards:
        path = folder / stamp.path
        if not path.exists() or not stamp.still_holds(path, file_hash):
            raise RunError(
                f"{path} is missing or damaged: restore it, or train a new run from the text"
            )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        progress.note(
            f"the text {missing[0]}{more} is no longer there: training reads the tokens in {folder}"
        )
