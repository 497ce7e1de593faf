"""One model on a text or a source."""
