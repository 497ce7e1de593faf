"""The HTML report of a comparison: the verdict, the candidates' table, then the detail of each.

A group of radio buttons selects the candidate whose detail is shown, with no script: the style
sheet hides the others.  One file that loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kullback.report.candidates import candidate_table
from kullback.report.html.comparison_figures import candidate_figures, comparison_figures
from kullback.report.html.environment import render
from kullback.report.html.parts import (
    MeasureRow,
    draw,
    measure_rows,
    methods_of,
    protocol_parts,
)
from kullback.report.html.passages import Beginning, beginning
from kullback.report.labels import NOT_ABOVE, NOT_ABOVE_MEANS, measure
from kullback.report.names import candidate_names
from kullback.report.numbers import write
from kullback.report.verdict import comparison_verdict, floor_text
from kullback.results.comparison import (
    MOVED_IS_NOT_WORSE,
    CandidateComparison,
    Comparison,
)
from kullback.runtime.escaping import visible

__all__ = ["render_comparison"]

# Their detail is shown; each takes about 60 kB.  The table has all.
_MOST_DETAILED = 8
_SHOWN_WORST = 10


def render_comparison(result: Comparison) -> str:
    """The report as HTML."""
    names = candidate_names(result)
    detailed = result.candidates[:_MOST_DETAILED]
    details = [
        _Detail.of(i, names[candidate.name], candidate)
        for i, candidate in enumerate(detailed, start=1)
    ]
    shown = comparison_figures(result, names)
    figures = dict(shown.figures)
    for detail in details:
        figures |= candidate_figures(detail.candidate, detail.number)
    # Of identical ones, too: the style sheet counts a token's candidates as it counts the details.
    differ = any(not candidate.identical for candidate in detailed)
    text = beginning(
        [candidate.passages for candidate in detailed] if differ else [], models=1 + len(detailed)
    )
    verdict = comparison_verdict(result)
    return render(
        "comparison.html.jinja",
        draw(figures),
        result=result,
        verdict=[
            (names[candidate.name], line.removeprefix(f"{names[candidate.name]}: "))
            for candidate, line in zip(result.candidates, verdict.lines, strict=True)
        ],
        conclusion=verdict.conclusion,
        intervals=verdict.intervals,
        caveat="" if MOVED_IS_NOT_WORSE not in result.notes else f"{MOVED_IS_NOT_WORSE}.",
        notes=[note for note in result.notes if note != MOVED_IS_NOT_WORSE],
        sections=_sections(result, details, text),
        table=candidate_table(result) if result.ranked else None,
        not_above=f"{NOT_ABOVE} {NOT_ABOVE_MEANS}.",
        noise=[(visible(name), floor_text(floor)) for name, floor in result.noise_floor.items()],
        left_out=", ".join(shown.left_out),
        details=details,
        undetailed=len(result.candidates) - len(detailed),
        layers=[
            (visible(layer.layer), write(layer.kl, measure("kl")), layer.bytes_saved)
            for layer in result.sensitivity
        ],
        layers_left_out=shown.layers_left_out,
        text=text,
        operands=_operands(result, names),
        printed=[visible(line) for line in result.llama_cpp.splitlines()],
    )


# --- the detail of a candidate -------------------------------------------------------------


@dataclass(frozen=True)
class _Detail:
    """What is shown of one candidate."""

    number: int
    """From 1: the radio button that selects it."""
    name: str
    candidate: CandidateComparison
    rows: list[MeasureRow]
    methods: list[tuple[str, str]]
    letter: str
    """Of the classes that colour its tokens."""

    @classmethod
    def of(cls, number: int, name: str, candidate: CandidateComparison) -> _Detail:
        measures = candidate.measures
        letter = chr(ord("a") + number - 1)
        return cls(number, name, candidate, measure_rows(measures), methods_of(measures), letter)

    @property
    def worst(self) -> tuple[object, ...]:
        """The tokens with the largest KL that are shown."""
        return self.candidate.worst_tokens[:_SHOWN_WORST]


def _operands(
    result: Comparison, names: Mapping[str, str]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Title, fingerprint and parts of the reference, and of candidates those that differ."""
    reference = result.reference
    parts = protocol_parts(reference.protocol)
    operands = []
    if reference.fingerprint:
        operands.append((f"Reference: {reference.name}", reference.fingerprint, parts))
    for candidate in result.candidates:
        operand = candidate.operand
        if operand.fingerprint:
            own = [part for part in protocol_parts(operand.protocol) if part not in parts]
            operands.append((names[operand.name], operand.fingerprint, own))
    return operands


def _sections(result: Comparison, details: list[_Detail], text: Beginning) -> list[tuple[str, str]]:
    """Anchor and title of each section that is shown, in order."""
    candidates = [detail.candidate for detail in details]
    different = [candidate for candidate in candidates if not candidate.identical]
    quantiles = any(candidate.kl_quantiles for candidate in different)
    curves = any(candidate.kl_by_position for candidate in different)
    worst = any(candidate.worst_tokens for candidate in different)
    sections = (
        ("candidates", "Candidates", bool(result.ranked)),
        ("layers", "Layers", bool(result.sensitivity)),
        ("measures", "Measures", True),
        ("distribution", "KL of single tokens", quantiles),
        ("where", "Where the KL is", curves),
        ("worst", "Tokens with the largest KL", worst),
        ("spans", "Largest differences", any(candidate.spans for candidate in candidates)),
        ("text", "Token by token", bool(text.passages)),
        ("llama-cpp", "As llama.cpp prints it", bool(result.llama_cpp)),
        ("protocol", "Protocol", True),
    )
    return [(anchor, title) for anchor, title, present in sections if present]
