"""The derivation in English and Spanish: correct numbers, and the same formulas and examples."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import kullback

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"english": DOCS / "derivation.md", "spanish": DOCS / "derivation.es.md"}


def run(page: Path) -> doctest.TestResults:
    """Run every example of a page in one namespace, as `python -m doctest` does."""
    return doctest.testfile(str(page), module_relative=False, report=False, verbose=False)


def examples(text: str) -> list[tuple[str, str]]:
    """Each example's code and what it must print."""
    return [(e.source, e.want) for e in doctest.DocTestParser().get_examples(text)]


def headings(text: str) -> list[str]:
    """The headings outside code, by their number of `#`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^(#+) ", prose, flags=re.MULTILINE)


def formulas(text: str) -> list[str]:
    """The displayed formulas."""
    return re.findall(r"^```math\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("language", PAGES)
def test_every_number_of_the_page_is_computed(language: str) -> None:
    """All examples of the page run and print the output that the page shows."""
    failures, attempted = run(PAGES[language])
    assert failures == 0
    assert attempted > 65


def test_a_wrong_number_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed digit in the output of an example makes exactly this example fail."""
    text = PAGES["english"].read_text("utf-8")
    page = tmp_path / "wrong.md"
    page.write_text(text.replace("(1.333074, 1.406705)", "(1.333074, 1.406706)"), "utf-8")
    assert run(page).failed == 1
    assert "1.406706" in capsys.readouterr().out


def test_the_two_languages_are_in_step() -> None:
    """English and Spanish have the same sections, the same formulas and the same examples."""
    english, spanish = (page.read_text("utf-8") for page in PAGES.values())
    assert headings(english) == headings(spanish)
    assert headings(english).count("##") == 10
    assert formulas(english) == formulas(spanish)
    assert len(formulas(english)) > 10
    assert examples(english) == examples(spanish)


def test_a_page_that_falls_behind_is_noticed() -> None:
    """A section, a formula or an example that only one page has makes the comparison fail."""
    text = PAGES["spanish"].read_text("utf-8")
    assert headings(text.replace("## 9.", "9.")) != headings(text)
    assert formulas(text.replace("\nH(p) =", "\nH(q) =", 1)) != formulas(text)
    assert examples(text.replace(">>> h\n", ">>> kl\n", 1)) != examples(text)


@pytest.mark.parametrize("language", PAGES)
def test_code_and_formulas_are_closed(language: str) -> None:
    """Fences are closed, every $ has a partner, no formula contains what GitHub would remove."""
    text = PAGES[language].read_text("utf-8")
    fences = re.findall(r"^```.*$", text, flags=re.MULTILINE)
    assert set(fences[::2]) == {"```python", "```math"}
    assert set(fences[1::2]) == {"```"}
    # Without the empty line doctest would read the fence as output.
    assert text.count("\n\n```\n") == fences.count("```python")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in prose.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph
        for formula in paragraph.split("$")[1::2]:
            # In Markdown \, is a comma and * may be emphasis, inside of $ as well.
            assert not re.search(r"\\[^a-zA-Z]|\*", formula), formula
    assert r"\," not in "".join(formulas(text))
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert (DOCS / target).is_file(), target


def test_the_pages_name_commands_and_files_that_exist() -> None:
    """Every `kullback.module` and every path in backticks exists."""
    root, package = DOCS.parent, Path(kullback.__file__).parent
    for page in PAGES.values():
        names = set(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
        modules = {".".join(n.split(".")[1:3]) for n in names if n.startswith("kullback.")}
        assert {"theory.losses", "theory.autograd"} <= modules
        assert all(
            (package / module.replace(".", "/")).with_suffix(".py").is_file() for module in modules
        )
        assert all((root / n).is_file() for n in names if n.startswith("examples/"))
