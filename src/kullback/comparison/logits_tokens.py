"""The tokens of a base-logits file of llama.cpp, as a model reads them now.

Axes: C chunks, T tokens of a chunk, M scored tokens of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from kullback.errors import InvalidValueError
from kullback.evaluation.options import PassOptions
from kullback.evaluation.passes import TokenizedText
from kullback.models.interface import TextModel
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.runtime.progress import Progress
from kullback.text.documents import Document
from kullback.text.protocol import Bos, Protocol
from kullback.text.special_spellings import Spelled
from kullback.text.windows import Stream, Window

__all__ = ["bos_notes", "check_cut", "check_model", "check_text", "windows_of"]

# Tokens that are read again to see whether the tokenizer is the file's, and the least share of
# them that must come back: a chunk may begin and end within a word.
READ_AGAIN = 20_000
LEAST_SHARE = 0.9


def check_cut(options: PassOptions, has_text: bool) -> None:
    """Raise `InvalidValueError` for an option that would cut the tokens of a file otherwise.

    Without a text also for those that say how one is read.
    """
    fixed = [flag for flag in options.given if flag in ("--window", "--stride", "--joined")]
    if options.protocol not in (None, "llama.cpp"):
        fixed.insert(0, "--protocol")
    of_text = [flag for flag in options.given if flag in ("--field", "--special-tokens")]
    if of_text and not has_text:
        raise InvalidValueError(
            f"{', '.join(of_text)}: no text is read, since the logits file has the tokens; give "
            f"its text (--text FILE), or leave {'that' if len(of_text) == 1 else 'these'} out"
        )
    if fixed:
        raise InvalidValueError(
            f"{', '.join(fixed)}: the tokens of a logits file are cut as llama.cpp cuts them; "
            f"leave {'that' if len(fixed) == 1 else 'these'} out"
        )


def check_model(base: LlamaCppLogits, model: TextModel, bos: Bos) -> None:
    """Raise `InvalidValueError` where the model cannot be the file's."""
    V, tokenizer = base.vocabulary_size, model.tokenizer
    if model.vocabulary_size < V or (model.vocabulary_size > V and tokenizer.vocabulary_size != V):
        raise InvalidValueError(
            f"{base.path} has a vocabulary of {V:,}, {model.name} of {model.vocabulary_size:,}: "
            "the models must share a tokenizer"
        )
    if model.context is not None and base.context - 1 > model.context:
        raise InvalidValueError(
            f"{base.path} has chunks of {base.context:,} tokens, and {model.name} reads at most "
            f"{model.context:,}: write it again with a shorter context (-c)"
        )
    if bos == "always" and tokenizer.bos_id is None:
        raise InvalidValueError(
            "bos is 'always': the tokenizer has no BOS token; use --bos auto or never"
        )
    ids = [int(i) for i in base.tokens_CT.reshape(-1)[:READ_AGAIN] if i != tokenizer.bos_id]
    again = tokenizer.encode(tokenizer.decode(ids)).ids.tolist()
    same = (Counter(ids) & Counter(again)).total()
    if same < LEAST_SHARE * len(ids):
        raise InvalidValueError(
            f"{base.path} is not of the tokenizer of {model.name}, which reads only {same:,} of "
            f"{len(ids):,} tokens of the text as the file has them: name the model that wrote the "
            "file, or one with its tokenizer"
        )


def _bos(model: TextModel, bos: Bos) -> int | None:
    wanted = bos == "always" or (bos == "auto" and model.tokenizer.adds_bos)
    return model.tokenizer.bos_id if wanted else None


def bos_notes(base: LlamaCppLogits, model: TextModel, bos: Bos) -> list[str]:
    """A note where model and file seem to begin their chunks otherwise.

    The tokens of a file whose model reads BOS begin with it; in each chunk it replaced the first.
    """
    first, leading, tokenizer = int(base.tokens_CT[0, 0]), _bos(model, bos), model.tokenizer
    if leading is not None and first != leading:
        return [
            f"{model.name} reads {tokenizer.token_text(leading)!r} (BOS) before each chunk, and "
            f"the tokens of {base.name} do not begin with it, so the model that wrote the file "
            "probably read none: KL and ΔCE include this difference; --bos never leaves it out"
        ]
    text = tokenizer.token_text(first)
    if leading is None and (first == tokenizer.bos_id or text in tokenizer.special_strings):
        return [
            f"the tokens of {base.name} begin with the special token {text!r}, so the model that "
            f"wrote the file probably read it (BOS) before each chunk, and {model.name} reads "
            "none: KL and ΔCE include this difference; --bos always adds the model's own"
        ]
    return []


def windows_of(base: LlamaCppLogits, model: TextModel, bos: Bos) -> list[Window]:
    """A window for each chunk."""
    T, leading, stream = base.context, _bos(model, bos), Stream(base.tokens_CT.reshape(-1))
    return [
        Window(
            document=chunk,
            stream=stream,
            leading=leading,
            begin=chunk * T + (leading is not None),
            first=chunk * T + T // 2 + 1,
            last=(chunk + 1) * T,
        )
        for chunk in range(len(base.tokens_CT))
    ]


def check_text(
    base: LlamaCppLogits,
    model: TextModel,
    bos: Bos,
    documents: Sequence[Document],
    progress: Progress,
    special_tokens: Spelled | None = None,
) -> None:
    """Raise `InvalidValueError` unless the file's tokens are those of the text."""
    protocol = Protocol("llama.cpp", base.context, bos=bos, special_tokens=special_tokens)
    tokenized = TokenizedText.of(documents, protocol, model.tokenizer, model.context, progress)
    first = base.context // 2 + 1
    if len(tokenized.windows) < len(base.tokens_CT):
        raise InvalidValueError(
            f"{base.path} has {len(base.tokens_CT):,} chunks of {base.context} tokens, and the "
            f"text {len(tokenized.windows):,}: give the text that was recorded, or leave it out "
            "(--text)"
        )
    for chunk, tokens_T in enumerate(base.tokens_CT):
        targets_M: Int[np.ndarray, "M"] = tokenized.windows[chunk].targets
        differs_M = targets_M != tokens_T[first:]
        if differs_M.any():
            at = first + int(np.argmax(differs_M))
            raise InvalidValueError(
                f"{base.path} is of another text: token {at} of chunk {chunk} is {tokens_T[at]} in "
                f"the file and {targets_M[at - first]} in the text; give the text that was "
                "recorded, or leave it out (--text)"
            )
