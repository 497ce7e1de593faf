"""A model of the hub that cannot be asked for is refused at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub import errors as hub

from kullback.errors import InvalidValueError
from kullback.models import hub as module
from kullback.models.hub import check_reachable
from kullback.models.locate import Location

MODEL = Location("someone/no-such-model", None)
# The library of HTTP that this huggingface_hub uses, httpx or a successor.
http = import_module(hub.Response.__module__.partition(".")[0])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """Replace what asks the hub; the addresses that it is asked for are listed."""

    def replace(answer: Callable[[], object]) -> list[str]:
        urls: list[str] = []

        def ask(url: str, timeout: float) -> object:
            assert 0 < timeout <= 10
            urls.append(url)
            return answer()

        monkeypatch.setattr(file_download, "get_hf_file_metadata", ask)
        return urls

    return replace


def raising(error: Exception) -> Callable[[], object]:
    """An answer that is an error."""

    def answer() -> object:
        raise error

    return answer


@pytest.mark.parametrize(
    "error", [http.ConnectError("[Errno -2]"), http.ReadTimeout("slow"), ConnectionResetError()]
)
def test_without_a_connection_it_is_asked_once(asked, error: Exception) -> None:
    """The sentence has the name and both remedies."""
    urls = asked(raising(error))
    with pytest.raises(InvalidValueError, match=r"no-such-model .*cannot be reached.*connection"):
        check_reachable(MODEL)
    assert len(urls) == 1
    assert urls[0].endswith("/someone/no-such-model/resolve/main/config.json")


def test_a_hub_that_does_not_answer_is_not_waited_for(asked, monkeypatch) -> None:
    """Whatever the library below waits for."""
    monkeypatch.setattr(module, "SECONDS", 0.1)
    never = threading.Event()
    asked(never.wait)
    try:
        with pytest.raises(InvalidValueError, match="cannot be reached"):
            check_reachable(MODEL)
    finally:
        never.set()


def test_what_the_hub_answers_is_left_to_the_loader(asked) -> None:
    """A name that it does not know, and a file that it has."""
    request = http.Request("GET", "https://huggingface.co/x")
    answer = http.Response(404, request=request)
    for reply in (raising(hub.RepositoryNotFoundError("no", response=answer)), lambda: None):
        asked(reply)
        check_reachable(MODEL)


def test_what_is_on_this_machine_is_not_asked_for(asked, monkeypatch, tmp_path: Path) -> None:
    """Neither a folder nor a model in the cache; offline, one that is not there is refused."""
    urls = asked(lambda: None)
    check_reachable(Location("model", tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidValueError, match=r"no-such-model.*HF_HUB_OFFLINE"):
        check_reachable(MODEL)
    cached = tmp_path / "models--someone--no-such-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    check_reachable(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_reachable(MODEL)
    assert urls == []


def test_an_impossible_name_is_named() -> None:
    """Before anything is asked."""
    with pytest.raises(InvalidValueError, match="nor a possible name"):
        check_reachable(Location("a b c", None))
