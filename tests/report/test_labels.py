"""Names of measures."""

from __future__ import annotations

from kullback.report.labels import MEASURES


def test_shares_are_percentages():
    """Accuracies and agreements are in per cent, entropies never."""
    shares = {name for name, how in MEASURES.items() if how.share}
    assert {"top1_accuracy", "top1_agreement", "ece"} <= shares
    assert shares.isdisjoint({"cross_entropy", "kl", "perplexity", "brier"})


def test_labels_are_the_terms_of_the_field_and_differ():
    """Accuracies, agreement, overlap and calibration errors have the names that papers use."""
    labels = {name: how.label for name, how in MEASURES.items()}
    assert labels["top1_accuracy"] == "Top-1 accuracy"
    assert labels["top1_agreement"] == "Top-1 agreement"
    assert labels["top5_overlap"] == "Top-5 overlap"
    assert labels["target_ece"] == "Target-probability ECE"
    assert labels["ece"] == "Expected calibration error (ECE)"
    assert len(set(labels.values())) == len(labels)
    assert all(how.meaning.endswith(".") for how in MEASURES.values())
