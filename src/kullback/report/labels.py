"""Names and meanings of the measures, as every table, figure and HTML report shows them.

The keys of `MEASURES` are the names of measures in the results and in JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MEASURES", "NOT_ABOVE", "NOT_ABOVE_MEANS", "ROUNDING", "Measure", "measure"]

#: The mark of a KL that is not above the noise floor, and its explanation.
NOT_ABOVE = "≈"
NOT_ABOVE_MEANS = "not above the noise floor: rounding alone makes as large a KL"


#: A KL below is rounding in float64: no digit of it means anything.  Nats/token.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Measure:
    """The label of a measure, its meaning, and how its numbers are written."""

    label: str
    meaning: str = ""
    share: bool = False
    """Written as a percentage."""
    signed: bool = False
    """Written with + where it is above zero: a change."""
    rounded: bool = False
    """A divergence: where it is above 0 and below `ROUNDING`, only that is written."""


MEASURES = {
    "cross_entropy": Measure(
        "Cross-entropy", "The mean negative log-likelihood (nll) of the target token."
    ),
    "bits_per_byte": Measure(
        "Bits per byte",
        "The nll in bits, summed, over the bytes of the source text: comparable across tokenizers.",
    ),
    "perplexity": Measure(
        "Perplexity", "exp(cross-entropy): a uniform choice among this many tokens costs as much."
    ),
    "byte_perplexity": Measure("Byte perplexity", "2 to the power of the bits per byte."),
    "word_perplexity": Measure(
        "Word perplexity", "exp of the nll, summed, over the number of words."
    ),
    "entropy": Measure(
        "Entropy of the model",
        "The nll that the model itself expects; below the cross-entropy it is overconfident.",
    ),
    "top1_accuracy": Measure(
        "Top-1 accuracy", "How often the target token is the most probable one.", share=True
    ),
    "top5_accuracy": Measure(
        "Top-5 accuracy", "How often the target token is among the five most probable.", share=True
    ),
    "top10_accuracy": Measure(
        "Top-10 accuracy", "How often the target token is among the ten most probable.", share=True
    ),
    "brier": Measure("Brier score", "Mean squared error of the whole distribution, from 0 to 2."),
    "ece": Measure(
        "Expected calibration error (ECE)",
        "Mean gap between confidence and top-1 accuracy, in bins of equal mass; noise adds to it.",
        share=True,
    ),
    "rms_calibration_error": Measure(
        "RMS calibration error", "Root mean square of the same gaps, corrected for noise.", True
    ),
    "smooth_ece": Measure("Smooth ECE", "ECE with a Gaussian kernel instead of bins.", share=True),
    "overconfidence": Measure(
        "Overconfidence", "Mean confidence minus top-1 accuracy.", True, True
    ),
    "target_ece": Measure(
        "Target-probability ECE",
        "ECE of the target token's probability, against its expectation under the model (Σ q²).",
        share=True,
    ),
    "temperature_saves": Measure(
        "Saved by temperature", "Cross-entropy minus the cross-entropy at the best temperature."
    ),
    "kl": Measure(
        "KL(reference‖candidate)",
        "The extra nats of coding what the reference predicts with the candidate.",
        rounded=True,
    ),
    "reverse_kl": Measure(
        "KL(candidate‖reference)", "The KL in the opposite direction.", rounded=True
    ),
    "jensen_shannon": Measure(
        "Jensen–Shannon divergence",
        "Mean KL of both models from their average: symmetric, at most log 2.",
        rounded=True,
    ),
    "total_variation": Measure(
        "Total variation (1 − acceptance rate)",
        "½ Σ|p − q|, at most 1: one minus it is the rate at which speculative decoding accepts "
        "the candidate's draft tokens.",
        rounded=True,
    ),
    "delta_cross_entropy": Measure(
        "ΔCE",
        "Cross-entropy of the candidate minus that of the reference: above 0 is worse.",
        signed=True,
    ),
    "reference_cross_entropy": Measure(
        "CE of the reference", "Its cross-entropy on the same text."
    ),
    "candidate_cross_entropy": Measure(
        "CE of the candidate", "Its cross-entropy on the same text."
    ),
    "top1_agreement": Measure(
        "Top-1 agreement", "How often both models have the same most probable token.", share=True
    ),
    "top5_overlap": Measure(
        "Top-5 overlap", "The share of the five most probable tokens that both have.", share=True
    ),
    "delta_p_mean": Measure(
        "Mean Δp", "Mean change of the target token's probability.", True, True
    ),
    "delta_p_rms": Measure("RMS Δp", "Root mean square of that change.", True),
    "kl_lower_bound": Measure(
        "KL, lower bound",
        "KL(reference‖candidate) is at least this; a part of it is unknown.",
        rounded=True,
    ),
    "kl_upper_bound": Measure(
        "KL, upper bound",
        "KL(reference‖candidate) is at most this; ∞ where nothing bounds it.",
        rounded=True,
    ),
    "delta_cross_entropy_per_byte": Measure(
        "ΔCE per byte",
        "Surprisal of the candidate minus that of the reference: above 0 is worse.",
        signed=True,
    ),
    "delta_cross_entropy_per_document": Measure(
        "ΔCE per document", "The same, summed over a document.", signed=True
    ),
}


def measure(name: str) -> Measure:
    """How the measure `name` is shown; an unknown one is shown under its own name.

    >>> measure("top1_accuracy").label, measure("new_measure").label
    ('Top-1 accuracy', 'new measure')
    """
    return MEASURES.get(name) or Measure(name.replace("_", " "))
