"""The base of all results: JSON and back, equality, `repr`, pickling, tables of a notebook."""

from __future__ import annotations

import os
import pickle

import msgspec
import pytest
from text_samples import comparison_results, measured, text_results

from kullback.errors import InvalidValueError
from kullback.results.evaluation import Evaluation, NonZeroRank
from kullback.results.measurement import Measurement
from kullback.results.table import Table


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


def test_repr_of_a_non_zero_rank_says_which_it_is():
    """It has no title: it shows its number, and survives a copy to another process."""
    rank = NonZeroRank(rank=1, world_size=2)
    assert repr(rank) == "<NonZeroRank: rank 1 of 2>"
    assert repr(pickle.loads(pickle.dumps(rank))) == repr(rank)


def test_results_survive_pickling():
    """An evaluation keeps its table of tokens, also the columns that are not computed yet."""
    table = Table({"text": lambda: ["a", "b"], "nll": [0.5, 1.5]})
    result = msgspec.structs.replace(text_results(), token_table=table)
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.tokens.to_dict() == {"text": ["a", "b"], "nll": [0.5, 1.5]}
    comparison = comparison_results()
    assert pickle.loads(pickle.dumps(comparison)) == comparison


def test_an_evaluation_from_json_says_where_its_tokens_are():
    """An empty table would look like an empty text; whatever else it shows needs no tokens."""
    result = Evaluation.from_json(text_results().to_json())
    with pytest.raises(InvalidValueError, match=r"JSON.*records=FILE\.parquet"):
        _ = result.tokens
    assert result.to_dict() == text_results().to_dict()
    assert result._repr_html_()
    assert str(result)


def test_a_comparison_without_ranking_tabulates_what_it_measures():
    """Of token records there is a ΔCE and no KL; where there is neither, an error says so."""
    whole = comparison_results()
    change = measured(0.25, 0.125)
    candidate = msgspec.structs.replace(
        whole.candidates[0], measures={"delta_cross_entropy": change}
    )
    result = msgspec.structs.replace(whole, candidates=(candidate,), ranked=())
    (row,) = result.ranking.rows()
    assert row["candidate"] == candidate.name
    ends = [row[f"delta_cross_entropy{end}"] for end in ("", "_low", "_high")]
    assert ends == [0.25, 0.125, 0.375]
    nothing = msgspec.structs.replace(candidate, measures={})
    with pytest.raises(InvalidValueError, match="no ranking"):
        _ = msgspec.structs.replace(result, candidates=(nothing,)).ranking


@pytest.mark.parametrize(
    ("kind", "name"), [(Evaluation, "an Evaluation"), (type(comparison_results()), "a Comparison")]
)
def test_another_kind_of_json_is_named(kind, name):
    """The message says what the file should contain."""
    with pytest.raises(InvalidValueError, match=f"does not contain {name} "):
        kind.from_json("{}")


def test_json_that_is_nested_or_a_pipe_is_refused(tmp_path):
    """A hundred thousand brackets are no crash, and nothing waits for a writer."""
    with pytest.raises(InvalidValueError, match="schema"):
        Evaluation.from_json('{"a": ' + "[" * 100_000)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InvalidValueError, match="named pipe"):
        Evaluation.from_json(tmp_path / "pipe.json")


@pytest.mark.parametrize("write", ["to_json", "save_html"])
def test_a_result_replaces_only_its_own_kind(write, tmp_path):
    """A file of somebody else stays unless it is forced; an earlier result is replaced."""
    path = tmp_path / "results"
    for name in ("", "-", "/dev/null", tmp_path):
        with pytest.raises(InvalidValueError, match="path is"):
            getattr(text_results(), write)(name)
    path.write_text("my letter")
    with pytest.raises(InvalidValueError, match="force=True"):
        getattr(text_results(), write)(path)
    assert path.read_text() == "my letter"
    getattr(text_results(), write)(path, force=True)
    getattr(text_results(), write)(str(path))
    assert path.stat().st_size > 1000
    if write == "to_json":
        assert Evaluation.from_json(path) == text_results()


def test_an_exact_number_without_a_unit_ends_with_its_digits():
    """No space is left where the unit would be."""
    assert str(Measurement(0.5, "", 0.0, 9, 0, "exact")) == "0.500000"
