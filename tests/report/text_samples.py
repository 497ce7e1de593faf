"""Results made by hand for the reports: ordinary, hostile and nearly empty."""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from kullback.results.comparison import (
    CandidateComparison,
    Comparison,
    DifferentBytes,
    LayerSensitivity,
    Operand,
    RankedCandidate,
    WorstToken,
)
from kullback.results.evaluation import (
    Curve,
    Evaluation,
    Histogram,
    Passage,
    ReliabilityBin,
    TextToken,
)
from kullback.results.measurement import Measurement

#: Markup, template code, quotes, entities, control characters, a lone surrogate, a text that runs
#: backwards, what Rich takes for style, and a terminal's escape.
HOSTILE = "<script>alert(1)</script>{{7*7}}{% raw %}\"'&amp;\x00\x08\x1b[31m\ud800\u202e[red]\ufffe"
TOP = ((" the", 0.5), ("\n", 0.25), (HOSTILE, 0.125), ("", 1e-9))
NO_CURVE = Curve((), (), (), (), ())
METHOD = "20 documents: ratio of sums, Student t with 19.0 degrees of freedom"


def measured(
    value: float = 2.5,
    half: float | None = 0.25,
    unit: str = "nats/token",
    ends: tuple[float, float] | None = None,
) -> Measurement:
    """value ± half, or value [ends]; design effect 4 and effective n 250."""
    if ends is None and half is not None:
        ends = (value - half, value + half)
    return Measurement(
        value,
        unit,
        0.5 if ends else math.inf,
        1000,
        20,
        METHOD,
        degrees_of_freedom=19.0,
        independent_error=0.25,
        bounds=ends,
    )


def curve() -> Curve:
    """Three places: an ordinary one, one without an interval, one without a number."""
    return Curve(
        x=(0.0, 1.5, 40.0),
        mean=(3.0, 2.0, None),
        low=(2.5, None, None),
        high=(3.5, None, None),
        count=(100, 2, 1),
    )


def tokens() -> tuple[TextToken, ...]:
    """Scored and not, of high and of infinite nll, with and without alternatives."""
    return (
        TextToken(text="Once", nll=None),
        TextToken(text=" upon", nll=0.01, rank=1, top=TOP),
        TextToken(text=HOSTILE, nll=5.5, rank=12_345, top=TOP),
        TextToken(text="\n\n", nll=math.inf),
    )


def protocol(hostile: bool = False) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "text": "a" * 64,
        "protocol": {
            "preset": "sliding",
            "window": 512,
            "bos": HOSTILE if hostile else "book.txt",
            "joined": False,
        },
        "dtype": "float32",
        "device": "cpu",
        "versions": {"torch": None},
    }


def text_results(hostile: bool = False) -> Evaluation:
    """An evaluation; `hostile` puts `HOSTILE` wherever a string goes."""
    name = HOSTILE if hostile else "book.txt"
    return Evaluation(
        title=f"model on {name}",
        text=name,
        created="2026-01-02T03:04:05+00:00",
        command=f"kullback evaluate model --text {name}",
        model="model",
        fingerprint="0123456789abcdef",
        protocol=protocol(hostile),
        notes=(name,),
        documents=20,
        total_tokens=1001,
        scored_tokens=1000,
        bytes=4321,
        words=800,
        seconds=12.5,
        tokens_per_second=80.0,
        measures={
            "cross_entropy": measured(2.51234, 0.0345),
            "bits_per_byte": measured(0.81234, 0.0123, "bits/byte"),
            "perplexity": measured(12.3, None, "", (11.9, 13.1)),
            "word_perplexity": measured(math.inf, None, ""),
            "top1_accuracy": measured(0.451, 0.0123, ""),
            "overconfidence": measured(math.nan, None, ""),
            name: measured(0.0, 0.0, ""),
        },
        nll_by_position=curve(),
        nll_histogram=Histogram((0.0, 1.0, 2.0, math.inf), (0.5, 0.25, 0.25)),
        reliability=(
            ReliabilityBin(0.0, 0.5, 0.25, 0.25, 0.75),
            ReliabilityBin(0.5, 1.0, 0.75, 0.5, 0.25),
            ReliabilityBin(1.0, 1.0, 1.0, 0.0, 0.0),
        ),
        target_reliability=(ReliabilityBin(0.0, 1.0, 0.25, 0.5, 1.0),),
        passages=(Passage(name, 7, tokens()),),
    )


def ranked_candidates(model: str) -> tuple[RankedCandidate, ...]:
    """Five schemes: of KL 0, near, further, dominated, and of infinite KL."""
    return tuple(
        RankedCandidate(
            name=f"{model}@{scheme}",
            size_bytes=size,
            share_of_original=size / 4_000_000,
            kl=measured(kl, None if math.isinf(kl) else kl / 5),
            delta_cross_entropy=measured(0.01, 0.02),
            delta_perplexity=measured(0.01, 0.02, ""),
            top1_agreement=measured(0.9, 0.01, ""),
            on_pareto_front=better is None,
            dominated_by=None if better is None else f"{model}@{better}",
            above_noise=kl > 0,
            noise_ratio=None,
            within_tolerance=True,
        )
        for scheme, size, kl, better in (
            ("bf16", 4_000_000, 0.0, None),
            ("int8", 2_000_000, 0.001, None),
            ("int4", 1_000_000, 0.0123, None),
            ("nf4", 1_100_000, 0.02, "int4"),
            ("broken", 900_000, math.inf, None),
        )
    )


def comparison_results(hostile: bool = False) -> Comparison:
    """A comparison of several schemes, with everything measured."""
    name = HOSTILE if hostile else "book.txt"
    model = HOSTILE if hostile else "runs/model"
    compared = tuple(
        replace(token, kl=kl, candidate_nll=1.5, candidate_top=TOP)
        for token, kl in zip(tokens(), (0.0, 0.02, 5.0, math.inf), strict=True)
    )
    worst = WorstToken(
        document=name,
        byte_start=99,
        before=f"before {name}",
        token=name,
        after=f"{name} after",
        kl=5.0,
        reference_nll=0.5,
        candidate_nll=math.inf,
        reference_top=TOP,
        candidate_top=(),
    )
    candidate = CandidateComparison(
        operand=Operand(
            name=f"{model}@int4",
            size_bytes=1_000_000,
            fingerprint="fedcba9876543210",
            protocol=protocol(hostile),
        ),
        measures={
            "kl": measured(0.01234, 0.00056),
            "delta_cross_entropy": measured(0.0046, 0.0021),
            "top1_agreement": measured(0.955, 0.0123, ""),
            name: measured(math.inf, None, ""),
        },
        above_noise=True,
        kl_quantiles={"median": 0.003, "99 %": 0.25, "maximum": math.inf},
        kl_histogram=Histogram((-3.0, -2.0, -1.0, 0.0), (0.5, 0.5, 0.0)),
        kl_by_position=curve(),
        kl_by_confidence=replace(curve(), x=(0.05, 0.5, 0.999)),
        kl_by_token_class={"word begins": measured(0.02, 0.01), name: measured(math.nan, None)},
        worst_tokens=(worst,),
        passages=(Passage(name, 0, compared),),
    )
    return Comparison(
        title=f"{model}@int4 against {model}",
        created="2026-01-02T03:04:05+00:00",
        command=f"kullback compare {model} --text {name}",
        kind="models",
        reference=Operand(
            name=model,
            size_bytes=4_000_000,
            fingerprint="0123456789abcdef",
            protocol=protocol(hostile),
        ),
        candidates=(candidate,),
        scored_tokens=1000,
        documents=20,
        bytes=4321,
        seconds=250.0,
        notes=(name,),
        ranked=(ranked_candidates(model)[2],),
        choice=f"{model}@int4",
        noise_floor={"batch shape": measured(3.21e-7, 0.43e-7), name: measured(math.nan, None)},
        sensitivity=tuple(
            LayerSensitivity(
                layer=f"model.layers.{i}.{name}", kl=measured(kl, kl / 3), bytes_saved=1000
            )
            for i, kl in enumerate((0.008, 0.003, 0.0))
        ),
        sensitivity_sum=0.011,
        sensitivity_whole=0.0123,
    )


def with_candidate(result: Comparison, **changes: Any) -> Comparison:
    """The comparison with these fields of its first candidate."""
    first, *others = result.candidates
    return replace(result, candidates=(replace(first, **changes), *others))


def stored_results(hostile: bool = False) -> Comparison:
    """A comparison of files, with all that any of them has."""
    name = HOSTILE if hostile else "book.rec"
    span = DifferentBytes(
        document=name,
        byte_start=99,
        text=f" {name}",
        reference_nll=0.5,
        candidate_nll=math.inf,
    )
    candidate = CandidateComparison(
        operand=Operand(
            name=name,
            fingerprint="0123456789abcdef",
            protocol={**protocol(hostile), "dtype": "bfloat16"},
        ),
        measures={
            "kl_lower_bound": measured(0.01234, 0.00056),
            "kl_upper_bound": measured(math.inf, None),
            name: measured(math.nan, None),
        },
        kl_quantiles={"median": 0.003, "99 %": 0.25, "maximum": math.inf},
        spans=(span,),
    )
    return Comparison(
        title=f"{name} against a.rec",
        created="2026-01-02T03:04:05+00:00",
        command=f"kullback compare a.rec {name}",
        kind="bounds",
        reference=Operand(name="a.rec", fingerprint="fedcba9876543210", protocol=protocol(hostile)),
        candidates=(candidate,),
        scored_tokens=12_345,
        notes=(name,),
        llama_cpp=f"Mean KLD: 0.5\n{name}",
    )


def nearly_empty_stored() -> Comparison:
    """A comparison of files that say nothing of themselves."""
    result = stored_results()
    return replace(
        result,
        reference=Operand(name="a.rec"),
        candidates=(CandidateComparison(operand=Operand(name="book.rec"), measures={}),),
        notes=(),
        llama_cpp="",
    )


def nearly_empty_text() -> Evaluation:
    """An evaluation of which nothing but its name is known."""
    return replace(
        text_results(),
        protocol={},
        notes=(),
        measures={},
        nll_by_position=NO_CURVE,
        nll_histogram=Histogram((), ()),
        reliability=(),
        target_reliability=(),
        passages=(),
    )


def nearly_empty_comparison() -> Comparison:
    """A comparison of which nothing but its name is known."""
    return replace(
        comparison_results(),
        candidates=(CandidateComparison(operand=Operand(name="runs/model@int4"), measures={}),),
        reference=Operand(name="runs/model"),
        documents=None,
        bytes=None,
        seconds=None,
        notes=(),
        noise_floor={},
        ranked=(),
        sensitivity=(),
        sensitivity_sum=None,
        sensitivity_whole=None,
    )


def several_candidates(hostile: bool = False) -> Comparison:
    """The same with a candidate for each row of the table, and figures for two of them."""
    result = comparison_results(hostile)
    first = result.candidates[0]
    ranked = ranked_candidates(result.reference.name)
    second, *others = (
        replace(
            first,
            operand=replace(first.operand, name=other.name, size_bytes=other.size_bytes),
            above_noise=other.above_noise,
        )
        for other in ranked
        if other.name != first.name
    )
    undrawn: dict[str, Any] = dict.fromkeys(("kl_histogram", "kl_by_position", "kl_by_confidence"))
    return replace(
        result,
        title=f"5 candidates against {result.reference.name}",
        candidates=(
            first,
            second,
            *(replace(other, kl_by_token_class={}, **undrawn) for other in others),
        ),
        ranked=ranked,
    )
