"""Information measures, maximum likelihood, losses, automatic differentiation, the derivation."""
