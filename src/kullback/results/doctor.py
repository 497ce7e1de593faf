"""The result of `kullback doctor`: what a trainer's model is, and which bug its trainer likely has.

Entropies, nlls and KL are in nats, KL in nats/token.
"""

from __future__ import annotations

from typing import ClassVar

from kullback.results.base import Data, Result
from kullback.results.source import PartEvaluation

__all__ = ["Diagnosis", "Finding", "Probes"]


class Probes(Data, frozen=True, kw_only=True):
    """What the model does where bugs differ."""

    nll_by_shift: tuple[float, ...]
    """The nll at a position of the token read there, of the next one, and of the one after it."""
    future_change: float
    """The largest change of a probability when later tokens are changed."""
    surprisal: float
    """The mean true −log p of the documents that are read: the least that an nll can be."""
    open_nll: float | None
    """The nll of the next token where attention sees the whole document; None if not possible."""
    entropy_ratio: float
    """The model's mean entropy after the first word over the true one."""
    mode_ratio: float
    """Its mean probability of the truly most probable token, over the true one."""
    padding_nll: float
    """The mean nll of padding after the end."""
    kinds: tuple[float, ...]
    """log q/p of the kinds of documents at the first word, from the shortest to the longest."""
    end_ratio: float
    """Its mean probability of the end over the true one."""


class Finding(Data, frozen=True, kw_only=True):
    """A likely bug, what shows it, and where to look."""

    bug: str
    evidence: str
    remedy: str


class Diagnosis(Result, frozen=True, kw_only=True, tag="kullback.doctor/1"):
    """One training command."""

    named_by: ClassVar[str] = "command"

    command: str
    folder: str | None
    """Of the model that came out; None where it was temporary."""
    seconds: float
    """That the command took."""
    evaluation: PartEvaluation
    reference_kl: float
    """KL in nats/token of a correct loop on a model of the same shape and as many tokens."""
    tokens_trained: int
    """That the reference was trained on."""
    passes: float
    passes_from: str
    """Where the number of passes over the training split is known from."""
    reaches_floor: bool
    probes: Probes
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
