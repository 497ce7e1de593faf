"""The source `associations`: tokens with Zipf probabilities, and the answers that follow.

A sentence is eight pairs of a cue and an answer.  The k-th of 1,000 cues has a probability in
proportion to k^(−1.2); one of four answers, fixed for each cue, follows it with probability 0.85,
each other one with 0.05.  What a model has to learn are 1,000 facts, common ones first, so its
excess over the entropy falls like a power of the data from the first steps on (Hutter 2021,
"Learning curve theory"; Cabannes et al. 2024, "Scaling laws for associative memories"): a source
for `kullback scaling`.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

from kullback.sources.automaton import Arc, Automaton
from kullback.sources.language import Language
from kullback.text.special_tokens import EOS

__all__ = ["associations_language"]

CUES, ANSWERS, PAIRS = 1000, 4, 8
ZIPF = 1.2
LIKELY = 0.85


@lru_cache(maxsize=1)
def associations_language() -> Language:
    """The language; its slots are the cue, the answer and the end.

    >>> language = associations_language()
    >>> round(language.entropy_per_token, 6), round(language.tokens_per_sentence, 6)
    (2.2659, 17.0)
    """
    weights = [k**-ZIPF for k in range(1, CUES + 1)]
    total = sum(weights)
    arcs: dict[Hashable, list[Arc]] = {}
    for pair in range(PAIRS):
        arcs[pair, None] = [
            # A block of four cues is in turn, so that the common cues have no answer in common.
            Arc(f"cue-{k + 1}", "cue", weight / total, (pair, (3 * k + k // 4) % ANSWERS))
            for k, weight in enumerate(weights)
        ]
        for likely in range(ANSWERS):
            arcs[pair, likely] = [
                Arc(
                    f"answer-{answer + 1}",
                    "answer",
                    LIKELY if answer == likely else (1 - LIKELY) / (ANSWERS - 1),
                    (pair + 1, None),
                )
                for answer in range(ANSWERS)
            ]
    arcs[PAIRS, None] = [Arc(EOS, "end", 1.0, None)]
    return Automaton.from_arcs("associations", (0, None), arcs).determinise()
