"""What `kullback train --text FILE` does before its first step, as its benchmark sees it."""

from __future__ import annotations

from pathlib import Path

from first_step import stages

# Each takes most of a second to import, torch._dynamo with sympy two.
HEAVY = (
    "torch._dynamo", "torch._inductor", "sympy", "triton", "scipy", "matplotlib", "pyarrow",
    "transformers", "pandas", "torch.distributed.fsdp", "torch.distributed.tensor",
)  # fmt: skip


def test_nothing_heavy_is_imported_before_the_first_step(tmp_path: Path) -> None:
    """The compiler, SciPy, Matplotlib and Parquet are not; the stages are those of a text."""
    text = tmp_path / "text.txt"
    text.write_text("A b c, d e f; and so on in a line of text.\n" * 200)
    ends, imported = stages(text, tmp_path / "run", "torch", *HEAVY)
    assert imported == ["torch"]
    assert [name for name, *_ in ends][-5:] == [
        "reading the text", "training the tokenizer", "encoding the text", "timing a few steps",
        "the first step",
    ]  # fmt: skip
    assert not (tmp_path / "run" / "report.html").exists()
