"""One pass over the vocabulary: predictions and targets in, per-token statistics out."""
