"""Documents, tokenizers, byte spans, protocols, windows, fingerprints."""
