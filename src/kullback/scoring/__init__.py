"""One pass over the vocabulary: from predictions and targets to per-token statistics."""
