"""Documents, tokenizers, byte spans, protocols, windows and fingerprints."""
