"""The independent pieces of a text: its documents, or the frequencies of its long ones.

Axes: M tokens in text order.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kullback.uncertainty.clusters import DocumentClusters
from kullback.uncertainty.documents import Documents, effective_number
from kullback.uncertainty.long_texts import FEWEST_DOCUMENTS, LongTexts

__all__ = ["independent_pieces"]


def independent_pieces(
    documents: Documents, denominator_M: Float[np.ndarray, "M"]
) -> DocumentClusters | LongTexts:
    """Documents where there are five or more in effect, (Σx)² / Σx², otherwise long texts.

    >>> type(independent_pieces(Documents.of(np.arange(9) // 3, 9), np.ones(9))).__name__
    'LongTexts'
    """
    x_G = documents.sums(denominator_M)
    if effective_number(x_G) >= FEWEST_DOCUMENTS:
        return DocumentClusters(documents, x_G)
    return LongTexts(documents, x_G)
