"""Information measures, likelihood, losses, autograd, and the derivation."""
