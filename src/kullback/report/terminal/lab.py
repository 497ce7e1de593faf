"""Tables of a source and of a lab run, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kullback.results.lab import Evaluation, LabResults, Quantisation
from kullback.sources.language import Language

__all__ = ["evaluation_table", "lab_summary", "source_table"]


def source_table(name: str, language: Language) -> Group:
    """What a source says of itself."""
    facts = Table(title=f"{name}: exact", show_header=False, title_justify="left")
    sentences, prefixes = language.number_of_sentences, language.number_of_prefixes
    for label, value in (
        ("vocabulary", f"{len(language.vocabulary):,} words"),
        ("distinct sentences", f"{sentences:,}"),
        ("distinct prefixes", f"{prefixes:,}"),
        ("tokens per sentence", f"{language.tokens_per_sentence:.6f}"),
        ("entropy per sentence", f"{language.entropy_per_sentence:.9f} nats"),
        ("entropy per token (the floor)", f"{language.entropy_per_token:.9f} nats/token"),
    ):
        facts.add_row(label, value)
    slots = Table(title="by slot", title_justify="left")
    slots.add_column("slot")
    slots.add_column("tokens/sentence", justify="right")
    slots.add_column("entropy (nats/token)", justify="right")
    for slot, entropy in language.entropy_by_slot().items():
        slots.add_row(
            slot, f"{entropy.tokens_per_sentence:.4f}", f"{max(entropy.entropy, 0.0):.6f}"
        )
    return Group(facts, slots)


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Models beside each other."""
    table = Table(title="cross-entropy = entropy + KL, in nats/token", title_justify="left")
    for column in ("model", "language"):
        table.add_column(column)
    for column in (
        "cross-entropy", "= entropy", "+ KL", "perplexity", "top-1", "(best)", "top-5", "ECE"
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for found in evaluations:
        table.add_row(
            found["name"],
            found["language"],
            f"{found['cross_entropy']:.6f}",
            f"{found['entropy']:.6f}",
            f"{found['kl']:.6f}",
            f"{found['perplexity']:.4f}",
            f"{found['top1_accuracy']:.2%}",
            f"{found['best_top1_accuracy']:.2%}",
            f"{found['top5_accuracy']:.2%}",
            f"{found['ece']:.4f}",
        )
    return table


def slot_table(evaluation: Evaluation) -> Table:
    """The three terms by slot."""
    table = Table(title="by slot (nats per token of the slot)", title_justify="left")
    table.add_column("slot")
    for column in ("tokens/sentence", "cross-entropy", "= entropy", "+ KL"):
        table.add_column(column, justify="right")
    for slot in evaluation["by_slot"]:
        table.add_row(
            slot["slot"],
            f"{slot['tokens_per_sentence']:.4f}",
            f"{slot['cross_entropy']:.6f}",
            f"{max(slot['entropy'], 0.0):.6f}",
            f"{slot['kl']:.6f}",
        )
    return table


def quantisation_table(quantisations: Sequence[Quantisation]) -> Table:
    """What fewer bits cost."""
    table = Table(title="quantisation, in nats/token", title_justify="left")
    table.add_column("scheme")
    for column in ("bytes", "ΔCE", "KL(original‖quantised)", "KL(truth‖quantised)", "top-1 agrees"):
        table.add_column(column, justify="right")
    for found in quantisations:
        table.add_row(
            found["scheme"],
            f"{found['bytes']:,}",
            f"{found['delta_cross_entropy']:+.6f}",
            f"{found['kl_original']:.6f}",
            f"{found['kl_truth']:.6f}",
            f"{found['top1_agreement']:.3%}",
        )
    return table


def pair_table(results: LabResults) -> Table:
    """Right forms over wrong ones, all cells together."""
    table = Table(title="right forms preferred (minimal pairs)", title_justify="left")
    columns = [(s, h) for h in (False, True) for s in ("english", "spanish")]
    table.add_column("model")
    for side, held_out in columns:
        table.add_column(
            f"{side.capitalize()}, {'held out' if held_out else 'seen'}", justify="right"
        )
    accuracy: dict[str, dict[tuple[str, bool], float]] = {}
    for found in results["minimal_pairs"]:
        if found["group"] == "all":
            row = accuracy.setdefault(found["model"], {})
            row[found["side"], found["held_out"]] = found["accuracy"]
    for model, row in accuracy.items():
        table.add_row(model, *(f"{row[key]:.2%}" if key in row else "" for key in columns))
    return table


def lab_summary(results: LabResults, files: Mapping[str, str]) -> Group:
    """The whole lab on one screen."""
    model = results["evaluations"][0]
    identity = Text.assemble(
        "\n  cross-entropy = entropy + KL\n  ",
        (f"{model['cross_entropy']:.6f}", "bold"),
        " = ",
        (f"{model['entropy']:.6f}", "bold"),
        " + ",
        (f"{model['kl']:.6f}", "bold green"),
        f" nats/token, exact over {model['prefixes']:,} prefixes",
        f" (residual {model['identity_residual']:.1e})\n",
    )
    seconds = results["seconds"]
    closing = Text(
        f"\n{seconds['training']:.1f} s of training, {seconds['total']:.1f} s in all, "
        f"{results['peak_memory_mb']:,.0f} MB at most\n"
        + "".join(f"{what}: {where}\n" for what, where in files.items())
    )
    return Group(
        identity,
        evaluation_table(results["evaluations"]),
        pair_table(results),
        quantisation_table(results["quantisations"]),
        closing,
    )
