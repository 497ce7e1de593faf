"""The base of all results: JSON and back, equality, `repr`."""

from __future__ import annotations

import msgspec
from text_samples import comparison_results, text_results


def test_a_result_equals_what_its_json_says():
    """Equality is that of the documents: a table of tokens, which JSON omits, plays no part."""
    for result in (text_results(), comparison_results()):
        again = type(result).from_json(result.to_json())
        assert again == result
        assert again != msgspec.structs.replace(result, title="another")
    assert text_results() != comparison_results()


def test_repr_is_short():
    """A notebook's cell that ends in a list of results stays readable."""
    assert repr(text_results()) == "<Evaluation: model on book.txt>"
    assert len(repr(comparison_results())) < 100
