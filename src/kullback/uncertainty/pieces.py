"""The independent pieces of a text: its documents, or the frequencies of its long ones.

Axes: G documents.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kullback.uncertainty.clusters import DocumentClusters
from kullback.uncertainty.documents import Documents, effective_number
from kullback.uncertainty.long_texts import FEWEST_DOCUMENTS, LongTexts

__all__ = ["independent_pieces"]


def independent_pieces(
    documents: Documents, denominator_G: Float[np.ndarray, "G"]
) -> DocumentClusters | LongTexts:
    """Documents where there are five or more in effect, (Σx)² / Σx², otherwise long texts.

    >>> type(independent_pieces(Documents.of(np.arange(9) // 3, 9), np.full(3, 3.0))).__name__
    'LongTexts'
    """
    if effective_number(denominator_G) >= FEWEST_DOCUMENTS:
        return DocumentClusters(documents, denominator_G)
    return LongTexts(documents, denominator_G)
