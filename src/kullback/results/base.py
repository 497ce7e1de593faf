"""The base of all results: to and from dictionaries and JSON, HTML, and the notebook's fragment.

A result is a frozen `msgspec.Struct`.  Its JSON begins with ``"schema"``, a name and a version;
fields that follow from others (the interval of a measurement) are written too and ignored when
read. Infinities and NaN, for which JSON has no numbers, are the strings "Infinity", "-Infinity" and
"NaN".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import msgspec

from kullback.errors import InvalidValueError
from kullback.runtime.files import write_atomically
from kullback.runtime.inputs import read_text
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.wording import with_article

__all__ = ["Data", "Json", "Result", "to_builtins"]

#: What `json.dumps` takes.
Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | int | bool | None"


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a result."""

    computed: ClassVar[tuple[str, ...]] = ()
    """Properties that are written beside the fields; None where they are not finite."""
    unwritten: ClassVar[tuple[str, ...]] = ()
    """Fields that are of this process alone."""


class Result(Data, frozen=True, kw_only=True, tag_field="schema", tag="kullback.result/1"):
    """A whole result: what a command prints with ``--json`` and a function returns."""

    named_by: ClassVar[str] = "title"
    """The field that `repr` shows."""

    def to_dict(self) -> dict[str, Any]:
        """The document that `to_json` writes, as dictionaries, lists, strings and numbers."""
        document = to_builtins(self)
        assert isinstance(document, dict)
        return document

    def to_json(self, path: str | Path | None = None, force: bool = False) -> str:
        """The result as strict JSON, written to `path` as well where one is given.

        Raises `InvalidValueError` where `path` may not be written, also where it is a file of
        another kind and `force` is not given, `RunError` where writing fails.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        if path is not None:
            check_outputs(Output("path", path, "result"), force=force)
            # A surrogate, which a damaged name may contain, becomes the escape of JSON.
            write_atomically(Path(path), text.encode(errors="backslashreplace"))
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """The result in a file, or in a string of JSON.

        Raises `InvalidValueError` where the file cannot be read, is no JSON, or holds another kind
        or version of result.
        """
        name, text = "the JSON", str(source)
        if isinstance(source, Path) or not text.lstrip().startswith("{"):
            name = str(source)
            try:
                text = read_text(Path(source))
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidValueError(
                    f"{name} cannot be read: {getattr(error, 'strerror', error)}"
                ) from None
        try:
            document = json.loads(text)
            return msgspec.convert(document, cls, strict=False)
        except (ValueError, RecursionError) as error:
            expected = cls.__struct_config__.tag
            raise InvalidValueError(
                f"{name} does not contain {with_article(cls.__name__)} (schema {expected}): {error}"
            ) from None

    def save_html(self, path: str | Path, force: bool = False) -> None:
        """Write the HTML report: one self-contained file.

        Raises `InvalidValueError` where `path` may not be written, also where it is a file of
        another kind and `force` is not given, `RunError` where writing fails.
        """
        from kullback import report

        report.save_html(self, path, force)

    def _repr_html_(self) -> str:
        from kullback import report

        return report.notebook_html(self)

    def __eq__(self, other: object) -> bool:
        """Whether both are written as the same JSON."""
        return type(other) is type(self) and self.to_dict() == other.to_dict()

    # A result contains dictionaries: it has no hash.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The class and the field that names the result; `str` has the tables."""
        return f"<{type(self).__name__}: {getattr(self, self.named_by)}>"

    def __str__(self) -> str:
        """The tables that the command prints, without colours."""
        from kullback import report

        return report.plain_text(self)


def to_builtins(value: object) -> Json:
    """`value` as JSON's types: structs as dictionaries, with their computed properties."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        fields: dict[str, Json] = {}
        if config.tag_field is not None:
            fields[config.tag_field] = config.tag
        unwritten = getattr(value, "unwritten", ())
        for name in value.__struct_fields__:
            if name in unwritten:
                continue
            fields[name] = to_builtins(getattr(value, name))
        for name in getattr(value, "computed", ()):
            fields[name] = _finite(to_builtins(getattr(value, name)))
        return fields
    if isinstance(value, Mapping):
        return {str(key): to_builtins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtins(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NAMES.get(str(value), "NaN")
    raise TypeError(f"{type(value).__name__} has no JSON form")


_NAMES = {"inf": "Infinity", "-inf": "-Infinity"}


def _finite(value: Json) -> Json:
    """None in place of a property that is not finite, or of a pair of which one is not."""
    parts = value if isinstance(value, list) else [value]
    return None if any(isinstance(part, str) for part in parts) else value
