"""The derivation of the loss as text: for each step a heading, its formula, and its numbers.

:func:`derivation_text` shows the results of :func:`kullback.theory.derivation.derive`.  Nats.
"""

from __future__ import annotations

import math

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kullback.report.numbers import balanced_identity, count, nats, percent, write_number
from kullback.report.terminal.log_log_plot import log_log_plot
from kullback.theory.derivation import Derivation, Terms

__all__ = ["derivation_text"]


def derivation_text(derivation: Derivation) -> RenderableType:
    """All steps of the derivation, in the order of the argument."""
    steps: list[tuple[str, str, list[RenderableType]]] = [
        (
            "Surprisal, entropy, cross-entropy",
            "H(p) = −Σ p log p      H(p, q) = −Σ p log q      H(p, q) ≠ H(q, p)",
            _definition(derivation.own),
        ),
        (
            "The decomposition",
            "H(p, q) = H(p) + KL(p‖q)",
            _decomposition(derivation.own),
        ),
        (
            "A worked example: p is a point mass",
            "H(p) = 0, so H(p, q) = KL(p‖q) = −log q of the true outcome = log(5/3)",
            [*_definition(derivation.example), *_decomposition(derivation.example)],
        ),
        (
            "Gibbs' inequality",
            "KL(p‖q) ≥ 0, with equality only at q = p: no cross-entropy is below H(p)",
            _gibbs(derivation),
        ),
        (
            "Maximum likelihood is the minimisation of cross-entropy",
            "−(1/N) Σ log q(yₙ) = H(p̂, q) = H(p̂) + KL(p̂‖q), minimal at q = p̂",
            _likelihood(derivation),
        ),
        (
            "The training objective: given an input x",
            "−(1/N) Σ log q(yₙ|xₙ) = Σ p̂(x) H(p̂(·|x), q(·|x)), minimum H(Y|X)",
            _conditional(derivation),
        ),
        (
            "The gradient",
            "∂L/∂zᵢ = qᵢ − 1[i = y]: the prediction minus the observation",
            _gradient(derivation),
        ),
        (
            "The excess loss after N samples",
            "KL(p‖fit) ≈ (K − 1)/2N → 0: in the limit the fit is the truth",
            _asymptotics(derivation),
        ),
        (
            "A language model: token by token",
            "−log q(y₁..y_T) = Σ −log q(y_t | y_<t)      perplexity = exp(mean)",
            _sequence(derivation),
        ),
    ]
    parts: list[RenderableType] = []
    for number, (title, formula, body) in enumerate(steps, 1):
        parts.append(Text(f"\n{number}. {title}", style="bold"))
        parts.append(Text(f"   {formula}", style="italic cyan"))
        parts += [Padding(part, (0, 0, 0, 3), expand=False) for part in body]
    parts.append(Text(f"\nseed {derivation.seed}; all numbers in nats (natural logarithms)"))
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):  # as Text: [i = y] is not markup
        table.add_column(Text(column, style="dim"), justify="right" if place else "left")
    return table


def _line(name: str, value: str, remark: str = "") -> Text:
    gap = " " * max(1, 38 - cell_len(name) - len(value))  # p̂ is two characters in one cell
    return Text.assemble(name, gap, (value, "bold"), f"   {remark}" if remark else "")


def _fixed(value: float) -> str:
    """Six decimals, also for a number near 0: columns of these add up by eye."""
    return nats(round(value, 6), 6) if abs(value) >= 1e-5 else nats(0.0, 6)


def _definition(terms: Terms) -> list[RenderableType]:
    table = _table("outcome", "p", "q", "−log p", "−log q", "p log(p/q)")
    columns = zip(terms.p, terms.q, terms.surprisals_p, terms.surprisals_q, strict=True)
    for outcome, (p, q, surprisal_p, surprisal_q) in enumerate(columns):
        weighted = p * (surprisal_q - surprisal_p) if p else 0.0
        table.add_row(
            str(outcome), f"{p:.6g}", f"{q:.6g}", nats(surprisal_p), nats(surprisal_q),
            nats(weighted),
        )  # fmt: skip
    return [
        table,
        _line("H(p)", nats(terms.entropy, 6), f"perplexity {nats(terms.perplexity_p)}"),
        _line("H(p, q)", nats(terms.cross_entropy, 6), f"perplexity {nats(terms.perplexity_q)}"),
        _line("H(q, p)", nats(terms.reverse_cross_entropy, 6), "arguments exchanged"),
    ]


def _decomposition(terms: Terms) -> list[RenderableType]:
    ce, h, kl = _identity(terms.cross_entropy, terms.entropy, terms.kl)
    return [
        Text.assemble((ce, "bold"), " = ", (h, "bold"), " + ", (kl, "bold green")),
        _line(
            "left minus right",
            write_number(terms.residual, 2),
            "each term computed independently",
        ),
        _line("KL(p‖q)", nats(terms.kl, 6)),
        _line("KL(q‖p)", nats(terms.reverse_kl, 6), "KL is not symmetric"),
        _line("JS(p, q)", nats(terms.jensen_shannon, 6), "symmetric, at most log 2"),
    ]


def _identity(ce: float, h: float, kl: float) -> tuple[str, str, str]:
    """The terms with six decimals, or with fewer where six do not add up after rounding."""
    terms = (ce, h, kl)
    if math.isfinite(ce) and round(ce * 1e6) != round(h * 1e6) + round(kl * 1e6):
        return balanced_identity(*terms)
    first, second, third = (nats(term, 6) for term in terms)
    return first, second, third


def _gibbs(derivation: Derivation) -> list[RenderableType]:
    table = _table("random models", "smallest KL", "median KL", "smallest H(p, q)")
    for row in derivation.gibbs:
        table.add_row(
            f"ε = {row.distance:g}, {count(row.tries)} models", nats(row.smallest_kl),
            nats(row.median_kl), nats(row.smallest_cross_entropy, 6),
        )  # fmt: skip
    table.add_row("q = p", nats(0.0), nats(0.0), nats(derivation.own.entropy, 6), style="bold")
    return [
        table,
        Text("q = (1 − ε) p + ε r with random r; if no p is 0, KL falls as ε²"),
    ]


def _likelihood(derivation: Derivation) -> list[RenderableType]:
    step = derivation.likelihood
    table = _table("method", "H(p̂, q)", "steps", "q")
    for fit in step.fits:
        probabilities = " ".join(f"{q:.4f}" for q in fit.probabilities[:4])
        rest = " ..." if len(fit.probabilities) > 4 else ""
        table.add_row(
            fit.method, f"{fit.cross_entropy:.9f}", count(fit.steps), probabilities + rest
        )
    return [
        _line(
            "samples of p, N", count(step.samples), "counts " + " ".join(map(count, step.counts))
        ),
        _line("−(1/N) Σ log q(yₙ)", nats(step.mean_negative_log_likelihood, 9), "sample by sample"),
        _line("H(p̂, q)", nats(step.empirical_cross_entropy, 9), "from the counts: the same number"),
        _line("H(p̂), the minimum", nats(step.empirical_entropy, 9)),
        table,
        Text(
            "largest difference between the three methods in any probability: "
            + write_number(step.largest_disagreement, 2)
        ),
    ]


def _conditional(derivation: Derivation) -> list[RenderableType]:
    step = derivation.conditional
    return [
        Text("x is the toss of a coin; y follows p where x = 0, and p reversed where x = 1"),
        _line("−(1/N) Σ log q(yₙ|xₙ)", nats(step.mean_negative_log_likelihood, 9), "pair by pair"),
        _line("Σ p̂(x) H(p̂(·|x), q(·|x))", nats(step.averaged_cross_entropy, 9), "the same number"),
        _line("H(Y|X), its minimum", nats(step.conditional_entropy, 6)),
        _line("H(Y), without x", nats(step.marginal_entropy, 6)),
        _line("H(Y) − H(Y|X)", nats(step.information, 6), "the mutual information"),
    ]


def _gradient(derivation: Derivation) -> list[RenderableType]:
    step = derivation.gradient
    columns = ["outcome", "z = log q", "q − 1[i = y]", "autograd", "difference"]
    if step.mean_gradient:
        columns.append("mean: q − p")
    table = _table(*columns)
    for place, outcome in enumerate(step.outcomes):
        numbers = [
            step.logits[place],
            step.q_minus_onehot[place],
            step.autograd[place],
            step.central_difference[place],
            *step.mean_gradient[place : place + 1],
        ]
        mark = "  ← y" if place == step.label else ""
        table.add_row(f"{outcome}{mark}", *map(_fixed, numbers))
    return [
        Text("difference: (L(z + h) − L(z − h))/2h; mean: over labels y that follow p"),
        table,
        _line("L = −log q_y", nats(step.loss, 6)),
        _line("error of autograd, at most", write_number(step.largest_error_of_autograd, 2)),
        _line(
            "of the difference, at most", write_number(step.largest_error_of_central_difference, 2)
        ),
    ]


def _asymptotics(derivation: Derivation) -> list[RenderableType]:
    degrees = derivation.degrees_of_freedom
    if not derivation.asymptotics:
        return [Text("p is a point mass (K = 1): (K − 1)/2N = 0, and one sample determines it")]
    table = _table("N", "(K − 1)/2N", "KL(p‖fit)", "KL(p̂‖p)", "all seen", "mean", "variance")
    for row in derivation.asymptotics:
        table.add_row(
            count(row.samples),
            f"{row.predicted:.6f}",
            f"{row.test_excess:.6f} ± {row.test_excess_error:.6f}",
            f"{row.training_gain:.6f}",
            percent(row.seen_fraction),
            f"{row.statistic_mean:.2f}",
            f"{row.statistic_variance:.2f}",
        )
    rows = derivation.asymptotics
    return [
        Text(
            f"{count(derivation.data_sets)} data sets for each N.\n"
            "KL(p‖fit): the excess loss of the fit on new samples, ± standard error; the fit\n"
            "is add-½, because the KL of the maximum-likelihood fit is ∞ where an outcome\n"
            "is unseen.  KL(p̂‖p): the gain on the samples that it is fitted to.\n"
            "The last two columns are about 2N KL(p̂‖p), which tends to χ²(K − 1), with mean\n"
            f"K − 1 = {degrees} and variance {2 * degrees}."
        ),
        table,
        Text(),
        log_log_plot(
            [row.samples for row in rows],
            [row.predicted for row in rows],
            [row.test_excess for row in rows],
        ),
        Text(f"●  measured KL(p‖fit)   ·  predicted (K − 1)/2N, K = {degrees + 1}; log-log axes"),
    ]


def _sequence(derivation: Derivation) -> list[RenderableType]:
    step = derivation.sequence
    table = _table("token", "truth", "bigram", "uniform", "H(truth)", "KL(truth‖bigram)")
    for row in step.tokens:
        table.add_row(
            row.token, *(nats(v) for v in (row.truth, row.bigram, row.uniform, row.entropy, row.kl))
        )
    for name, numbers in (
        ("sum over tokens", step.totals),
        ("per token", step.per_token),
        ("perplexity", step.perplexities),
    ):
        cells = (nats(numbers[model]) for model in ("truth", "bigram", "uniform"))
        table.add_row(name, *cells, style="bold")
    ce, h, kl = _identity(
        step.cross_entropy_per_sentence, step.entropy_per_sentence, step.kl_per_sentence
    )
    sentence = " ".join(row.token for row in step.tokens)
    open_prefix = max(
        (prefix for prefix in step.entropy_after if len(prefix.split()) == 2),
        key=lambda prefix: step.entropy_after[prefix],
    )
    return [
        Text(f"−log q(token | prefix) in one of eight sentences: {sentence}"),
        table,
        _line("−log p(sentence)", nats(-step.sentence_log_prob, 6), "the truth's sum over tokens"),
        Text(f"per sentence: {ce} = {h} + {kl} for the bigram model"),
        _line("its KL summed over prefixes", nats(step.kl_over_prefixes, 6), "the same number"),
        Text(
            f"entropy floor: after “yesterday she” H = {nats(step.entropy_after['yesterday she'])}"
            f", after “{open_prefix}” H = {nats(step.entropy_after[open_prefix])}"
        ),
        Text(
            "an untrained model with a vocabulary of 600 tokens: log 600 = "
            + nats(derivation.untrained_600)
        ),
    ]
