"""Train, evaluate, compare and quantise language models with every nat accounted for.

cross-entropy = entropy + KL.  The entropy is the world's; the KL is yours to remove.

Importing this package never loads torch.  Each room is a module of its own: see
``kullback.theory.information`` for the measures and ``kullback.sources`` for the exact languages.
"""

from __future__ import annotations

from kullback.errors import KullbackError

__all__ = ["KullbackError", "__version__"]
__version__ = "0.1.0"
