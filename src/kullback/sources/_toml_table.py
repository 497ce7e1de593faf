"""A TOML table whose values are checked as they are read, with errors that name their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kullback.errors import GrammarError

__all__ = ["TomlTable"]


class TomlTable:
    """A TOML table with its place in the file; each getter checks the type of a value.

    A value that is missing or of another type raises `GrammarError` with its place and value.

    >>> table = TomlTable({"p": 0.5, "names": {"en": "go"}}, "verbs")
    >>> table.probability("p"), table.table("names").string("en")
    (0.5, 'go')
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise GrammarError(f"{where} is {data!r}: it must be a table")
        self.data: dict[str, object] = data
        self.where = where

    def _get(self, key: str, default: object = None) -> object:
        value = self.data.get(key, default)
        if value is None:
            raise GrammarError(f"{self.where} has no {key!r}: add it")
        return value

    def _wrong(self, key: str, wanted: str) -> GrammarError:
        return GrammarError(f"{self.where}.{key} is {self.data[key]!r}: it must be {wanted}")

    def string(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        """A string among `choices`."""
        value = self.string(key)
        if value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """A truth value."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def probability(self, key: str) -> float:
        """A probability in (0, 1]."""
        value = self._get(key)
        if not isinstance(value, int | float) or not 0.0 < value <= 1.0:
            raise self._wrong(key, "a probability in (0, 1]")
        return float(value)

    def probabilities(self, key: str) -> tuple[float, ...]:
        """A list of probabilities in (0, 1]."""
        values = self._get(key)
        if not isinstance(values, list) or not all(
            isinstance(value, float) and 0.0 < value <= 1.0 for value in values
        ):
            raise self._wrong(key, "a list of probabilities in (0, 1]")
        return tuple(values)

    def strings(
        self, key: str, names: Sequence[str], default: str | None = None
    ) -> tuple[str, ...]:
        """A string for each of `names`; a single string in the file is used for all of them."""
        value = self._get(key, default)
        forms = [value] * len(names) if isinstance(value, str) else value
        if not isinstance(forms, list) or len(forms) != len(names):
            raise self._wrong(key, f"a string, or {len(names)} of them, for {', '.join(names)}")
        for form in forms:
            if not isinstance(form, str):
                raise self._wrong(key, "a list of strings")
        return tuple(forms)

    def table(self, key: str) -> TomlTable:
        """A table within this one."""
        return TomlTable(self._get(key), f"{self.where}.{key}")

    def tables(self, key: str) -> list[TomlTable]:
        """A list of tables, at least one."""
        values = self._get(key)
        if not isinstance(values, list) or not values:
            raise self._wrong(key, "a list of tables")
        return [TomlTable(value, f"{self.where}.{key}[{i}]") for i, value in enumerate(values)]

    def named_tables(self, key: str) -> Iterator[tuple[str, TomlTable]]:
        """The tables of a table, with their names."""
        named = self.table(key)
        for name in named.data:
            yield name, named.table(name)

    def keys_among(self, known: Mapping[str, object]) -> Iterator[str]:
        """The keys, each of which must be one of `known`."""
        for key in self.data:
            if key not in known:
                raise GrammarError(
                    f"{self.where} has {key!r}, which is unknown: it must be one of "
                    f"{', '.join(known)}"
                )
            yield key
