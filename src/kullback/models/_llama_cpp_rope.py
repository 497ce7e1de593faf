"""RoPE factors of a file for short and for long windows ("longrope"), as llama.cpp takes them.

llama.cpp takes the long ones where its context, not the window, is longer than the model's original
length.  Contexts are sized here so that the length of each window decides, whatever was read before
it, as in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

from kullback.models.gguf_file import GGUFFile
from kullback.models.gguf_rope import FREQUENCIES, LONG, SHORT

__all__ = ["RopeFactors"]

# Of which llama.cpp makes the size of a context a multiple.
PADDING = 256


@dataclass(frozen=True)
class RopeFactors:
    """The length that divides windows with short factors from those with long ones."""

    original: int
    """Contexts that are longer have the long ones."""

    @classmethod
    def of(cls, file: GGUFFile) -> RopeFactors | None:
        """Those of a file; None where it has none, or the same for every length."""
        names = {tensor.name for tensor in file.tensors}
        original = file.of_model("rope.scaling.original_context_length")
        original = file.context_length if original is None else original
        if FREQUENCIES in names or not {LONG, SHORT} & names or not isinstance(original, int):
            return None
        return cls(original)

    @property
    def short_limit(self) -> int:
        """The longest window that has short factors: that of the longest context with them."""
        return self.original // PADDING * PADDING

    def fits(self, size: int, length: int) -> bool:
        """Whether a context of `size` tokens has the factors of a window of `length`."""
        return (size > self.short_limit) == (length > self.short_limit)

    def sized(self, size: int, length: int) -> int:
        """The size of a context for a window of `length`.

        `size` is what it would be if no factors depended on it.
        """
        if length <= self.short_limit:
            return min(size, self.short_limit)
        return max(size, self.original + 1)

    def note(self, name: str, context: int | None) -> str:
        """Which factors are used; `context` is the size that the options give."""
        if context is not None:
            kind = "long" if context > self.short_limit else "short"
            return f"all windows of {name} have its {kind} RoPE factors, as ctx is {context:,}"
        return (
            f"windows of {name} up to {self.short_limit:,} tokens have its short RoPE factors, "
            "longer ones the long factors"
        )
