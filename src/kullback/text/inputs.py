"""Texts as users give them: file names, paths, documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from kullback.errors import InvalidValueError
from kullback.runtime.temporary import TemporaryBytes
from kullback.runtime.wording import count_of
from kullback.text.documents import IN_MEMORY, Document, read_documents

__all__ = ["Text", "documents_of", "paths_of", "size_of", "text_name"]

#: A file or folder, a document, or several; text itself is given as a `Document`.
Text: TypeAlias = "str | Path | Document | Sequence[str | Path | Document]"

SHOWN = 40  # characters of a wrong name in an error


def documents_of(
    text: Text, field: str | None = None, note: Callable[[str], None] = lambda text: None
) -> list[Document]:
    """The documents in files and folders, and those that are documents already, in order.

    `field` is the column of files with rows (.jsonl, .csv, ...), "text" by default; `note` is told
    which files of a folder are skipped.  Raises `InvalidValueError` as `read_documents` does.

    >>> documents_of(Document("greeting", "hello"))[0].name
    'greeting'
    """
    documents: list[Document] = []
    stored = TemporaryBytes(IN_MEMORY)
    for item in _items(text):
        if isinstance(item, Document):
            documents.append(item)
        elif isinstance(item, str | Path):
            documents += read_documents(
                [_checked(item)], "text" if field is None else field, note, stored
            )
        else:
            raise _no_text(item)
    if not documents:
        raise InvalidValueError("there is no text: give a file, a folder, or a Document")
    return documents


def paths_of(text: Text | None) -> list[str]:
    """The files and folders among them."""
    return (
        [] if text is None else [str(item) for item in _items(text) if isinstance(item, str | Path)]
    )


def size_of(text: Text) -> int:
    """The bytes of the files among them, where that is known without reading; folders are not."""
    files = [Path(path) for path in paths_of(text)]
    return sum(path.stat().st_size for path in files if _exists(str(path)) and path.is_file())


def text_name(documents: Sequence[Document]) -> str:
    """The files of the documents, and how many documents, in a few words.

    >>> text_name([Document("docs.jsonl:1", "a"), Document("docs.jsonl:2", "b")])
    'docs.jsonl (2 documents)'
    >>> text_name([Document(name, "a") for name in ("a.txt", "b.txt", "c.jsonl:1", "c.jsonl:2")])
    'a.txt and 2 more files (4 documents)'
    """
    files: dict[str, None] = {}
    for document in documents:
        name, _, line = document.name.rpartition(":")
        files[name if name and line.isdecimal() else document.name] = None
    first, *others = files
    if len(others) == 1:
        first += f" and {others[0]}"
    elif others:
        first += f" and {len(others):,} more files"
    if len(documents) == 1 or (len(files) == len(documents) == 2):
        return first
    return f"{first} ({count_of(len(documents), 'document')})"


def _items(text: Text) -> list[str | Path | Document]:
    if isinstance(text, str | Path | Document):
        return [text]
    if isinstance(text, bytes) or not isinstance(text, Iterable):
        raise _no_text(text)
    return list(text)


def _checked(name: str | Path) -> str | Path:
    """`name`; `InvalidValueError` where it is empty, or text itself, and no file has that name."""
    if name == "":
        raise InvalidValueError("text is '': give the name of a file or folder")
    if isinstance(name, str) and any(map(str.isspace, name)) and not _exists(name):
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        raise InvalidValueError(
            f"text is {shown!r}, and no file has that name: give the name of a file, or "
            "kullback.Document(name, text) for text itself"
        )
    return name


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL
        return False


def _no_text(value: object) -> InvalidValueError:
    return InvalidValueError(
        f"text has the type {type(value).__name__}: give the name of a file, or "
        "kullback.Document(name, text) for text itself"
    )
