"""Results made by hand for the reports: ordinary, hostile and nearly empty."""

from __future__ import annotations

import math

from kullback.results.text import (
    ComparisonResults,
    Curve,
    MeasurementData,
    StoredResults,
    TextResults,
    TextToken,
)

#: Markup, template code, quotes, entities, control characters, a lone surrogate, a text that runs
#: backwards, what Rich takes for style, and a terminal's escape.
HOSTILE = "<script>alert(1)</script>{{7*7}}{% raw %}\"'&amp;\x00\x08\x1b[31m\ud800\u202e[red]\ufffe"
TOP = [(" the", 0.5), ("\n", 0.25), (HOSTILE, 0.125), ("", 1e-9)]


def measured(
    value: float | None = 2.5, half: float | None = 0.25, unit: str = "nats/token"
) -> MeasurementData:
    """value ± half."""
    interval = None if half is None or value is None else (value - half, value + half)
    return {
        "value": value,
        "unit": unit,
        "interval": interval,
        "n": 1000,
        "effective_n": 250.0,
        "design_effect": 4.0,
        "method": "20 documents: ratio of sums, Student t with 19.0 degrees of freedom",
    }


def curve() -> Curve:
    """Three places: an ordinary one, one without an interval, one without a number."""
    return {
        "x": [0.0, 1.5, 40.0],
        "mean": [3.0, 2.0, None],
        "low": [2.5, None, None],
        "high": [3.5, None, None],
        "count": [100, 2, 1],
    }


def tokens() -> list[TextToken]:
    """Scored and not, dear and infinite, with and without alternatives."""
    return [
        {"text": "Once", "nll": None},
        {"text": " upon", "nll": 0.01, "rank": 1, "top": TOP},
        {"text": HOSTILE, "nll": 5.5, "rank": 12_345, "top": TOP},
        {"text": "\n\n", "nll": math.inf},
    ]


def text_results(hostile: bool = False) -> TextResults:
    """An evaluation; `hostile` puts `HOSTILE` wherever a string goes."""
    name = HOSTILE if hostile else "book.txt"
    return {
        "title": f"model on {name}",
        "created": "2026-01-02T03:04:05+00:00",
        "command": f"kullback evaluate model --text {name}",
        "model": "model",
        "fingerprint": "0123456789abcdef",
        "protocol": {
            "text": "a" * 64,
            "protocol": {"preset": "sliding", "window": 512, "bos": name, "joined": False},
            "dtype": "float32",
            "device": "cpu",
            "versions": {"torch": None},
        },
        "notes": [name],
        "documents": 20,
        "tokens": 1001,
        "scored_tokens": 1000,
        "bytes": 4321,
        "words": 800,
        "seconds": 12.5,
        "tokens_per_second": 80.0,
        "measures": {
            "cross_entropy": measured(2.51234, 0.0345),
            "bits_per_byte": measured(0.81234, 0.0123, "bits/byte"),
            "perplexity": {**measured(12.3, None, ""), "interval": (11.9, 13.1)},
            "word_perplexity": measured(math.inf, None, ""),
            "top1_accuracy": measured(0.451, 0.0123, ""),
            "overconfidence": measured(None, None, ""),
            name: measured(0.0, 0.0, ""),
        },
        "nll_by_position": curve(),
        "nll_histogram": {"edges": [0.0, 1.0, 2.0, math.inf], "share": [0.5, 0.25, 0.25]},
        "reliability": [
            {"low": 0.0, "high": 0.5, "confidence": 0.25, "accuracy": 0.25, "weight": 0.75},
            {"low": 0.5, "high": 1.0, "confidence": 0.75, "accuracy": 0.5, "weight": 0.25},
            {"low": 1.0, "high": 1.0, "confidence": 1.0, "accuracy": 0.0, "weight": 0.0},
        ],
        "target_reliability": [
            {"low": 0.0, "high": 1.0, "confidence": 0.25, "accuracy": 0.5, "weight": 1.0},
        ],
        "passages": [{"document": name, "byte_start": 7, "tokens": tokens()}],
    }


def comparison_results(hostile: bool = False) -> ComparisonResults:
    """A comparison of several schemes, with everything measured."""
    name = HOSTILE if hostile else "book.txt"
    model = HOSTILE if hostile else "runs/model"
    compared: list[TextToken] = [
        {**token, "kl": kl, "candidate_nll": 1.5, "candidate_top": TOP}
        for token, kl in zip(tokens(), (0.0, 0.02, 5.0, math.inf), strict=True)
    ]
    return {
        "title": f"{model}@int4 against {model}",
        "created": "2026-01-02T03:04:05+00:00",
        "command": f"kullback compare {model} --text {name}",
        "reference": model,
        "candidate": f"{model}@int4",
        "fingerprint": "fedcba9876543210",
        "protocol": text_results(hostile)["protocol"],
        "notes": [name],
        "documents": 20,
        "scored_tokens": 1000,
        "bytes": 4321,
        "seconds": 250.0,
        "measures": {
            "kl": measured(0.01234, 0.00056),
            "delta_cross_entropy": measured(0.0046, 0.0021),
            "top1_agreement": measured(0.955, 0.0123, ""),
            name: measured(math.inf, None, ""),
        },
        "noise_floor": {"batch shape": measured(3.21e-7, 0.43e-7), name: measured(None, None)},
        "above_noise": True,
        "kl_quantiles": {"median": 0.003, "99 %": 0.25, "maximum": math.inf},
        "kl_histogram": {"edges": [-3.0, -2.0, -1.0, 0.0], "share": [0.5, 0.5, 0.0]},
        "kl_by_position": curve(),
        "kl_by_confidence": {**curve(), "x": [0.05, 0.5, 0.999]},
        "kl_by_token_class": {"word begins": measured(0.02, 0.01), name: measured(None, None)},
        "worst": [
            {
                "document": name,
                "byte_start": 99,
                "before": f"before {name}",
                "token": name,
                "after": f"{name} after",
                "kl": 5.0,
                "reference_nll": 0.5,
                "candidate_nll": math.inf,
                "reference_top": TOP,
                "candidate_top": [],
            }
        ],
        "passages": [{"document": name, "byte_start": 0, "tokens": compared}],
        "schemes": [
            {
                "name": f"{model}@{scheme}",
                "bytes": size,
                "kl": measured(kl, None if kl is None else kl / 5),
                "delta_cross_entropy": measured(0.01, 0.02),
                "top1_agreement": measured(0.9, 0.01, ""),
                "on_pareto_front": front,
                "above_noise": kl > 0,
            }
            for scheme, size, kl, front in (
                ("bf16", 4_000_000, 0.0, True),
                ("int8", 2_000_000, 0.001, True),
                ("int4", 1_000_000, 0.0123, True),
                ("nf4", 1_100_000, 0.02, False),
                ("broken", 900_000, math.inf, False),
            )
        ],
        "sensitivity": [
            {"layer": f"model.layers.{i}.{name}", "kl": measured(kl, kl / 3), "bytes_saved": 1000}
            for i, kl in enumerate((0.008, 0.003, 0.0))
        ],
        "sensitivity_sum": 0.011,
        "sensitivity_whole": 0.0123,
    }


def stored_results(hostile: bool = False) -> StoredResults:
    """A comparison of files, with all that any of them has."""
    name = HOSTILE if hostile else "book.rec"
    protocol = text_results(hostile)["protocol"]
    return {
        "title": f"{name} against a.rec",
        "created": "2026-01-02T03:04:05+00:00",
        "command": f"kullback compare a.rec {name}",
        "reference": "a.rec",
        "candidate": name,
        "fingerprint": "fedcba9876543210",
        "protocol": protocol,
        "candidate_fingerprint": "0123456789abcdef",
        "candidate_protocol": {**protocol, "dtype": "bfloat16"},
        "notes": [name],
        "scored_tokens": 12_345,
        "measures": {
            "kl_lower_bound": measured(0.01234, 0.00056),
            "kl_upper_bound": measured(math.inf, None),
            name: measured(None, None),
        },
        "kl_quantiles": {"median": 0.003, "99 %": 0.25, "maximum": math.inf},
        "spans": [
            {
                "document": name,
                "byte_start": 99,
                "text": f" {name}",
                "reference_nll": 0.5,
                "candidate_nll": math.inf,
            }
        ],
        "llama_cpp": f"Mean KLD: 0.5\n{name}",
    }


def nearly_empty_stored() -> StoredResults:
    """A comparison of files that say nothing of themselves."""
    found: StoredResults = {
        **stored_results(),
        "fingerprint": "",
        "protocol": {},
        "candidate_fingerprint": "",
        "candidate_protocol": {},
        "notes": [],
        "measures": {},
        "kl_quantiles": {},
        "spans": [],
    }
    del found["llama_cpp"]  # type: ignore[misc]  # it need not be there
    return found


def nearly_empty_text() -> TextResults:
    """An evaluation of which nothing but its name is known."""
    empty: Curve = {"x": [], "mean": [], "low": [], "high": [], "count": []}
    return {
        **text_results(),
        "protocol": {},
        "notes": [],
        "measures": {},
        "nll_by_position": empty,
        "nll_histogram": {"edges": [], "share": []},
        "reliability": [],
        "target_reliability": [],
        "passages": [],
    }


def nearly_empty_comparison() -> ComparisonResults:
    """A comparison of which nothing but its name is known."""
    nothing = nearly_empty_text()
    return {
        **comparison_results(),
        "protocol": {},
        "notes": [],
        "measures": {},
        "noise_floor": {},
        "above_noise": None,
        "kl_quantiles": {},
        "kl_histogram": nothing["nll_histogram"],
        "kl_by_position": nothing["nll_by_position"],
        "kl_by_confidence": nothing["nll_by_position"],
        "kl_by_token_class": {},
        "worst": [],
        "passages": [],
        "schemes": [],
        "sensitivity": [],
        "sensitivity_sum": None,
        "sensitivity_whole": None,
    }
