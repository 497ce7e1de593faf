"""The terminal's summary of a diagnosis."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from kullback.report.numbers import nats, seconds
from kullback.report.terminal.fitted import Sentence
from kullback.report.terminal.source import position_table, slot_table
from kullback.report.terminal.tables import add_row, numbers_table, titled
from kullback.results.doctor import Diagnosis
from kullback.runtime.escaping import visible

__all__ = ["doctor_summary", "verdict_of"]


def doctor_summary(result: Diagnosis, verbose: bool = False) -> RenderableType:
    """Verdict, findings, then the excess by slot and by position; `verbose` changes nothing."""
    parts: list[RenderableType] = [Text(verdict_of(result), style="bold")]
    for finding in result.findings:
        parts += [
            Sentence(f"likely bug: {visible(finding.bug)}", "bold", indent="  "),
            Sentence(finding.evidence, indent="    "),
            Sentence(f"to do: {finding.remedy}", indent="    "),
        ]
    parts += [Sentence(f"• {visible(note)}", "dim", indent="  ") for note in result.notes]
    table = numbers_table("", "nats/token")
    part = result.evaluation
    for label, value in (
        ("cross-entropy", part.cross_entropy.value),
        ("exact floor", part.floor or 0.0),
        ("KL", part.kl.value),
        ("KL of the reference run", result.reference_kl),
    ):
        add_row(table, [label, nats(value, 6)], "bold" if label == "KL" else "")
    facts = (
        f"the command took {seconds(result.seconds)}; the reference is a correct loop on the same "
        f"shape of model with {result.tokens_trained:,} tokens, {result.passes:.3g} passes "
        f"({result.passes_from})"
    )
    return Group(
        *parts, titled("Distance from the floor", table), Sentence(facts, "dim"),
        slot_table(part), position_table(part),
    )  # fmt: skip


def verdict_of(result: Diagnosis) -> str:
    """Whether the floor is reached, in a sentence."""
    kl, reference = result.evaluation.kl.value, result.reference_kl
    numbers = f"KL {kl:.4f} nats/token, reference {reference:.4f}"
    if result.findings:
        names = ", ".join(finding.bug for finding in result.findings)
        reached = "" if result.reaches_floor else ", and it does not reach the floor"
        return f"The trainer has a likely bug: {visible(names)}{reached} ({numbers})."
    if result.reaches_floor:
        return f"The trainer reaches the floor ({numbers})."
    slots = result.evaluation.by_slot
    excess = {slot.slot: slot.kl * slot.tokens_per_sentence for slot in slots}
    worst = max(excess, key=lambda slot: excess[slot])
    share = excess[worst] / sum(excess.values())
    return (
        f"The trainer does not reach the floor ({numbers}), with the pattern of no known bug: "
        f"{100 * share:.0f} % of the excess is in the slot {visible(worst)}; see whether it trains "
        "as long, and at a rate that suits."
    )
