"""Short names of candidates, models and paths."""

from __future__ import annotations

from msgspec.structs import replace
from rich.cells import cell_len
from text_samples import comparison_results, several_candidates

from kullback.report.names import candidate_names, short_names, shorten
from kullback.results.comparison import Operand


def named(reference: str, *names: str) -> list[str]:
    """The short names of candidates of these names."""
    result = comparison_results()
    first = result.candidates[0]
    candidates = tuple(replace(first, operand=replace(first.operand, name=name)) for name in names)
    compared = replace(result, reference=Operand(name=reference), candidates=candidates)
    return list(candidate_names(compared).values())


def test_names_lose_what_all_of_them_share():
    """Only whole folders and model names are dropped, and never all of a name."""
    assert short_names(["/x/y/q4.gguf", "/z/q8.gguf", "orga/m"]) == ["q4.gguf", "q8.gguf", "m"]
    assert short_names(["a/b@int4-g32", "a/b@int4-g64"]) == ["int4-g32", "int4-g64"]
    assert short_names(["a/model", "a/model@int8"]) == ["model", "model@int8"]
    assert short_names(["a/b@int8", "a/b@int8"]) == ["b@int8", "b@int8"]
    assert short_names([]) == []


def test_equal_base_names_stay_distinct():
    """With as many folders as tell them apart; a name that another ends with stays whole."""
    assert short_names(["/a/x/m", "/b/x/m", "/b/y/m"]) == ["a/x/m", "b/x/m", "y/m"]
    assert short_names(["m", "b/m"]) == ["m", "b/m"]
    assert short_names(["a/m", "a/m/", "c/n"]) == ["a/m", "a/m/", "n"]
    assert named("/data/llama/model", "/a/v1/model", "/a/v2/model") == ["v1/model", "v2/model"]


def test_candidates_are_named_by_their_scheme():
    """The reference's own quantisations by the scheme, others without what all share."""
    assert list(candidate_names(several_candidates()).values()) == [
        *("int4", "bf16", "int8", "nf4", "broken"),
    ]
    assert named("runs/m", "runs/m@int8", "runs/other") == ["int8", "other"]
    assert named("runs/m@bf16", "runs/m@int8") == ["int8"]
    assert named("m", "m") == ["m"]
    assert named("book", "runs/book@int8") == ["int8"]


def test_names_that_would_be_equal_stay_whole():
    """Two candidates never share a short name."""
    assert named("m", "m@int8", "int8") == ["m@int8", "int8"]


def test_a_long_path_loses_its_middle():
    """The text fits the width and keeps its first words and the end of the path."""
    text = "comparing /home/somebody/models/SmolLM2-135M@int8"
    for width in range(24, 60):
        shown = shorten(text, width)
        assert cell_len(shown) <= width
        assert shown.startswith("comparing")
        assert shown.endswith("int8")
    assert shorten(text, 5) == "comp…"
    assert cell_len(shorten("模型" * 30, 20)) <= 20
