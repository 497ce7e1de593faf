"""From probes to the likely bug.

The optimum of a wrong loss is known, and no two of these have the same one:

* a leak: with attention to the whole document the nll is below the entropy, which no model that
  predicts can reach; or a changed later token changes an earlier prediction;
* labels shifted by k ≠ 1: the nll of the token k places on is the least;
* softmax before the loss: the loss is least where the most probable token gets all, however
  probable it is: the entropy vanishes, and that token has more than its probability;
* labels on padding: after the end, padding is certain; a correct loss says nothing about it;
* means over micro-batches: a document weighs 1 / (tokens of its micro-batch), so at the first word
  the kinds have the probabilities of `averaging_curve`.

Thresholds are between the values of these optima and those of a correct trainer, far from both.  A
model that has learned too little, or something else, may be past one by chance: averaging is named
where its curve is most of what the kinds show, an untrained end where the words are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from kullback.doctor.source import KINDS
from kullback.results.doctor import Finding, Probes

__all__ = ["findings_of", "reweighting"]

# Nats below the entropy, or above the least nll, that sampled documents do not explain.
CLEAR_NATS = 0.25
# A changed future changes nothing in a causal model but rounding.
CHANGE = 1e-3
CERTAIN_PADDING = 0.02
# Of the true entropy: 0.006 after 250 steps, 0.01 after 100; 0.23 with logits divided by 4.
VANISHED = 0.1
# Of the pattern of batches of one document: 0.41 for micro-batches of 4, 0.06 for 32.
REWEIGHTED = 0.2
PROBABILITIES = np.array([kind.probability for kind in KINDS])
SHIFTED = ("the token that it has just read", "the next token", "the token after the next")


def findings_of(probes: Probes, curve: Mapping[int, np.ndarray]) -> tuple[Finding, ...]:
    """The likely bugs, none where the probes are those of a correct trainer.

    A leak, a shift and a softmax change every prediction: where one of them is there, nothing is
    said about padding and averaging.
    """
    whole = _leak(probes) or _shift(probes) or _softmax(probes)
    if whole is not None:
        return (whole,)
    parts = (_padding(probes), _averaging(probes, curve), _end(probes))
    return tuple(finding for finding in parts if finding is not None)


def reweighting(probes: Probes, curve: Mapping[int, np.ndarray]) -> tuple[float, float]:
    """How much of the pattern of single documents the kinds have, and the documents that gives.

    0 and infinitely many for a correct mean over all tokens, 1 and 1 for a mean of each document.
    """
    p = PROBABILITIES
    pattern = curve[1]

    def share(log_ratio: np.ndarray) -> float:
        return float((p * log_ratio) @ pattern / (p @ pattern**2))

    measured = share(np.array(probes.kinds))
    sizes = list(curve)
    shares = [share(curve[size]) for size in sizes]
    if measured <= shares[-1]:
        return measured, math.inf
    log_size = np.interp(-measured, [-s for s in shares], np.log(sizes))
    return measured, float(np.exp(log_size))


def _explains(documents: float, probes: Probes, curve: Mapping[int, np.ndarray]) -> bool:
    """Whether means over so many documents are most of what the kinds show."""
    log_size = np.log(list(curve))
    pattern = np.array(
        [
            np.interp(math.log(documents), log_size, of_kind)
            for of_kind in zip(*curve.values(), strict=True)
        ]
    )
    rest = np.array(probes.kinds) - pattern
    return bool(PROBABILITIES @ rest**2 < PROBABILITIES @ pattern**2)


def _leak(probes: Probes) -> Finding | None:
    remedy = (
        "pass a causal mask while training (is_causal=True, or a two-dimensional attention_mask "
        "to a causal model), and build no input from later tokens"
    )
    if probes.future_change > CHANGE:
        return Finding(
            bug="a leak of the future",
            evidence=f"changing later tokens changes an earlier probability by "
            f"{probes.future_change:.3f}",
            remedy=remedy,
        )
    if probes.open_nll is None or probes.open_nll > probes.surprisal - CLEAR_NATS:
        return None
    return Finding(
        bug="a leak of the future",
        evidence=f"with attention to later tokens its loss is {probes.open_nll:.3f} nats/token, "
        f"below the entropy {probes.surprisal:.3f}: it was trained to read what it predicts",
        remedy=remedy,
    )


def _shift(probes: Probes) -> Finding | None:
    nlls = probes.nll_by_shift
    least = int(np.argmin(nlls))
    if least == 1 or nlls[1] - nlls[least] < CLEAR_NATS:
        return None
    return Finding(
        bug="labels shifted by one",
        evidence=f"it predicts {SHIFTED[least]} ({nlls[least]:.3f} nats), not {SHIFTED[1]} "
        f"({nlls[1]:.3f} nats)",
        remedy="shift the labels once: models of transformers shift labels= themselves"
        if least > 1
        else "compare the logits at t with the token at t + 1: shift the labels once",
    )


def _softmax(probes: Probes) -> Finding | None:
    if probes.entropy_ratio > VANISHED or probes.mode_ratio < 1.3:
        return None
    return Finding(
        bug="softmax before the loss",
        evidence=f"the most probable token has {probes.mode_ratio:.2f} times its probability, and "
        f"the entropy is {100 * probes.entropy_ratio:.1f} % of the true one",
        remedy="give logits to the cross-entropy, which takes the softmax itself",
    )


def _padding(probes: Probes) -> Finding | None:
    if probes.padding_nll > CERTAIN_PADDING:
        return None
    return Finding(
        bug="padding counts in the loss",
        evidence=f"after the end padding is certain ({probes.padding_nll:.5f} nats/token): it was "
        "trained, and the loss that the trainer shows is too low",
        remedy="set the labels of padding to -100 (not those of the first end token), or pack "
        "documents",
    )


def _averaging(probes: Probes, curve: Mapping[int, np.ndarray]) -> Finding | None:
    share, documents = reweighting(probes, curve)
    # With short documents ends become more probable, too: 1.1 to 1.6 times.
    rarer_ends = probes.end_ratio < 0.9
    if share < REWEIGHTED or rarer_ends or not _explains(documents, probes, curve):
        return None
    short, long = (math.exp(probes.kinds[i]) for i in (0, -1))
    return Finding(
        bug="the loss is averaged per micro-batch",
        evidence=f"short documents have {short:.2f} times their probability and long ones "
        f"{long:.2f} times, as with the mean loss of each {documents:.0f} documents",
        remedy="divide the summed loss by the tokens of all micro-batches of a step (Trainer: "
        "num_items_in_batch), or enlarge the batch",
    )


def _end(probes: Probes) -> Finding | None:
    words_unknown = probes.nll_by_shift[1] > probes.surprisal + CLEAR_NATS
    if probes.end_ratio > 0.2 or words_unknown:
        return None
    return Finding(
        bug="the end token is not trained",
        evidence=f"the end has {probes.end_ratio:.3f} times its probability",
        remedy="append the end token to each document, and mask padding by its position, not by "
        "its id, which is that of the end here",
    )
