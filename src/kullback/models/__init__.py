"""Models: tokens in, predictions out."""
