"""The result of the lab in the terminal: the identity, then tables, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from kullback.report.numbers import (
    balanced_identity,
    byte_size,
    count,
    nats,
    percent,
    seconds,
    write_number,
)
from kullback.report.terminal.source import evaluation_table
from kullback.report.terminal.tables import add_row, numbers_table, titled
from kullback.results.lab import LabResults, MinimalPairAccuracy, Quantisation
from kullback.results.source import PartEvaluation

__all__ = ["lab_summary"]


def lab_summary(results: LabResults, verbose: bool = False) -> Group:
    """The results of a lab on one screen; `verbose` changes nothing."""
    return Group(
        _identity(results.headline),
        evaluation_table(results.evaluations),
        _pair_table(results.minimal_pairs),
        _quantisation_table(results.quantisations),
        Text(
            f"\n{seconds(results.seconds.training)} of training, {seconds(results.seconds.total)} "
            f"in all, at most {byte_size(1e6 * results.peak_memory_mb)} of memory"
        ),
    )


def _identity(model: PartEvaluation) -> Text:
    terms = balanced_identity(model.cross_entropy.value, model.entropy.value, model.kl.value)
    how = "exact, over all" if model.exact else "over a sample of"
    return Text.assemble(
        "\ncross-entropy = entropy + KL\n",
        (terms[0], "bold"), " = ", (terms[1], "bold"), " + ", (terms[2], "bold green"),
        " nats/token\n",
        f"{how} {count(model.prefixes)} prefixes; "
        f"CE − (H + KL) = {write_number(model.identity_residual, 2)}",
    )  # fmt: skip


def _pair_table(pairs: Sequence[MinimalPairAccuracy]) -> Group:
    """Minimal pairs, all cells together."""
    languages = ("english", "spanish")
    columns = [(language, held_out) for held_out in (False, True) for language in languages]
    table = numbers_table(
        "model",
        *(f"{name.capitalize()}\n{'held out' if out else 'seen'}" for name, out in columns),
    )
    accuracies: dict[str, dict[tuple[str, bool], float]] = {}
    for pair in pairs:
        if pair.group == "all":
            accuracies.setdefault(pair.model, {})[pair.side, pair.held_out] = pair.accuracy
    for model, by_column in accuracies.items():
        add_row(table, [model, *(percent(by_column.get(column)) for column in columns)])
    title = "Minimal pairs: how often the right form is more probable than the wrong one"
    return titled(title, table)


def _quantisation_table(quantisations: Sequence[Quantisation]) -> Group:
    table = numbers_table(
        "scheme",
        "size",
        "ΔCE",
        "KL(original‖\nquantised)",
        "KL(truth‖\nquantised)",
        "Top-1\nagreement",
    )
    for result in quantisations:
        change = result.delta_cross_entropy
        add_row(
            table,
            [
                result.scheme,
                byte_size(result.bytes),
                ("+" if change > 0 else "") + nats(change, 6),
                nats(result.kl_original, 6),
                nats(result.kl_truth, 6),
                percent(result.top1_agreement),
            ],
        )
    return titled("Quantisation, in nats/token", table)
