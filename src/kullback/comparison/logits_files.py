"""Two base-logits files of llama.cpp: our measures, and what llama.cpp prints beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kullback.comparison.llama_cpp import llama_cpp_statistics
from kullback.comparison.row_pairs import ROWS, pairs_of_files, unweighted_places
from kullback.comparison.stored import origin, stored_comparison
from kullback.predictions.llama_cpp_logits import LlamaCppLogits
from kullback.results.comparison import Comparison
from kullback.runtime.progress import Progress

__all__ = ["compare_logits_files"]


def compare_logits_files(base: Path, q: Path, progress: Progress | None = None) -> Comparison:
    """The comparison of two files, which say nothing of text or model: there is no fingerprint.

    Raises `InvalidValueError` where a file is damaged, or the two are of different texts.
    """
    progress = progress or Progress()
    first, second = LlamaCppLogits.open(base), LlamaCppLogits.open(q)
    printed = llama_cpp_statistics(first, second)
    chunk_M = np.arange(len(first)) // first.rows_per_chunk
    position_M = np.tile(np.arange(first.rows_per_chunk), len(first.tokens_CT))
    places = unweighted_places(chunk_M, position_M + first.context // 2 + 1)
    pairs = pairs_of_files(first, second, places, progress.tokens)
    measures, quantiles = pairs.divergences()
    errors = [float(np.abs(file.mass_error(slice(0, ROWS))).max()) for file in (first, second)]
    note = (
        f"llama.cpp's files clip and round: the base's rows sum to 1 ± {errors[0]:.1e}, the "
        f"candidate's to 1 ± {errors[1]:.1e}; the measures are those of the rows made to sum to 1"
    )
    return stored_comparison(
        "llama.cpp",
        (origin(base.name), origin(q.name)),
        measures,
        len(first),
        kl_quantiles=quantiles,
        notes=[note],
        llama_cpp=str(printed),
    )
