"""Writing of base-logits files of llama.cpp (`kullback.predictions.llama_cpp_logits` reads them).

``llama-perplexity --kl-divergence-base FILE --kl-divergence`` compares a model with such a file.

Axes: C chunks, T tokens of a chunk, M rows, B rows of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kullback.errors import InvalidValueError
from kullback.predictions.llama_cpp_logits import MAGIC, encode_rows
from kullback.runtime.files import replaced

__all__ = ["write_llama_cpp_logits"]


def write_llama_cpp_logits(
    path: Path,
    tokens_CT: Int[np.ndarray, "C T"],
    vocabulary_size: int,
    blocks: Iterable[Float[np.ndarray, "B V"]],
) -> None:
    """Write logits, clipped and rounded as llama.cpp does; `path` is replaced at the end.

    `blocks` have the rows of the second half of each chunk, chunk after chunk.  Raises
    `InvalidValueError` where the number of rows is not that of the chunks, `RunError` where the
    file cannot be written.
    """
    chunks, context = tokens_CT.shape
    expected, rows = chunks * (context - 1 - context // 2), 0
    with replaced(path) as file:
        file.write(MAGIC + np.array([context, vocabulary_size, chunks], dtype="<i4").tobytes())
        file.write(tokens_CT.astype("<i4").tobytes())
        for logits_BV in blocks:
            file.write(encode_rows(logits_BV))
            rows += len(logits_BV)
        if rows != expected:
            raise InvalidValueError(
                f"{rows} rows were given for {chunks} chunks of {context} tokens, which have "
                f"{expected}"
            )
