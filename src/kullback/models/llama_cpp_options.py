"""Options of a GGUF file, after an @ of its name: ``MODEL.gguf@ctk=q8_0,ctv=q8_0,fa=on``.

``MODEL.gguf@transformers`` reads the dequantised weights in transformers, ``MODEL.gguf@llama.cpp``
runs the file in llama.cpp, which is the default where a library is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from kullback.errors import InvalidValueError
from kullback.runtime.ranges import Range
from kullback.runtime.wording import suggestion

__all__ = ["BACKENDS", "Backend", "LlamaCppOptions", "split_gguf"]

Backend = Literal["llama.cpp", "transformers"]
BACKENDS: tuple[Backend, ...] = ("llama.cpp", "transformers")

#: Types of the KV cache, with their numbers in ggml.h.
CACHE_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6,
    "q5_1": 7,
}  # fmt: skip
#: Flash attention, with its numbers in llama.h.
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
NUMBERS = {
    "ctx": Range(2, 1 << 24), "batch": Range(1, 1 << 14), "threads": Range(1, 1 << 10),
    "ngl": Range(0, 1 << 16),
}  # fmt: skip
CHOICES = {"ctk": CACHE_TYPES, "ctv": CACHE_TYPES, "fa": FLASH_ATTENTION}
HELP = (
    "ctk and ctv (types of the KV cache), fa (flash attention: on, off, auto), ngl (layers on a "
    "GPU), ctx (tokens of context), batch (tokens at a time) and threads"
)


@dataclass(frozen=True)
class LlamaCppOptions:
    """How llama.cpp runs a file, by the short names of its own tools; None is its default.

    >>> str(LlamaCppOptions.parse("fa=on,ctk=q8_0"))
    'ctk=q8_0,fa=on'
    """

    ctk: str | None = None
    ctv: str | None = None
    fa: str | None = None
    ngl: int | None = None
    ctx: int | None = None
    batch: int | None = None
    threads: int | None = None

    @classmethod
    def parse(cls, text: str) -> LlamaCppOptions:
        """The options in `text`; raises `InvalidValueError` for one that is unknown or wrong."""
        values: dict[str, str | int] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in NUMBERS and name not in CHOICES:
                raise InvalidValueError(
                    f"{name!r} is no option of a GGUF file"
                    f"{suggestion(name, [*NUMBERS, *CHOICES])}: they are {HELP}, as in "
                    "MODEL.gguf@ctk=q8_0,ctv=q8_0"
                )
            if name in values:
                raise InvalidValueError(f"the option {name} of a GGUF file is given twice")
            values[name] = _choice(name, value) if name in CHOICES else _number(name, value)
        return cls(**values)  # type: ignore[arg-type]  # each of its type

    def __str__(self) -> str:
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ",".join(f"{name}={value}" for name, value in given if value is not None)


def split_gguf(name: str) -> tuple[str, Backend | None, LlamaCppOptions | None]:
    """The file, the backend and the options that a model's name gives; None is what it does not.

    Raises as `LlamaCppOptions.parse` does; of any other name all of it is the first.

    >>> split_gguf("m.gguf@transformers")
    ('m.gguf', 'transformers', None)
    >>> split_gguf("m.gguf@int8")
    ('m.gguf@int8', None, None)
    """
    base, at, text = name.rpartition("@")
    if not at or not base.lower().endswith(".gguf"):
        return name, None, None
    for backend in BACKENDS:
        if text == backend:
            return base, backend, None
    if "=" not in text and text not in (*NUMBERS, *CHOICES):
        return name, None, None
    return base, "llama.cpp", LlamaCppOptions.parse(text)


def _choice(name: str, value: str) -> str:
    allowed = CHOICES[name]
    if value not in allowed:
        raise InvalidValueError(
            f"{name} is {value!r}: it must be one of {', '.join(allowed)}"
            f"{suggestion(value, list(allowed))}"
        )
    return value


def _number(name: str, value: str) -> int:
    try:
        return int(NUMBERS[name].parse(value))
    except ValueError as error:
        raise InvalidValueError(f"the option {name} of a GGUF file: {error}") from None
