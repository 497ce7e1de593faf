"""Protocols: presets, what they refuse, and how documents are prepared."""

from __future__ import annotations

import pytest

from kullback.errors import InvalidValueError
from kullback.text.documents import Document
from kullback.text.protocol import Protocol, count_words, prepare


def test_presets_have_their_own_windows() -> None:
    """Fields that are None become those of each tool, within the model's context."""
    resolved = {
        (preset, context): Protocol(preset).resolve(context)
        for preset in ("sliding", "hf-stride", "lm-eval", "llama.cpp")
        for context in (256, 8192)
    }
    windows = {key: (p.window, p.stride, p.joined) for key, p in resolved.items()}
    assert windows == {
        ("sliding", 256): (256, 128, False),
        ("sliding", 8192): (2048, 1024, False),
        ("hf-stride", 256): (256, 256, True),
        ("hf-stride", 8192): (8192, 512, True),
        ("lm-eval", 256): (256, None, False),
        ("lm-eval", 8192): (8192, None, False),
        ("llama.cpp", 256): (256, None, True),
        ("llama.cpp", 8192): (512, None, True),
    }
    assert Protocol().resolve(None).window == 2048
    with pytest.raises(InvalidValueError, match="window is not given"):
        Protocol("hf-stride").resolve(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "gptq"}, "protocol is 'gptq'.*sliding.*hf-stride"),
        ({"preset": "slidng"}, "protocol is 'slidng'.*did you mean sliding"),
        ({"bos": "maybe"}, "bos is 'maybe'.*auto.*always.*never"),
        ({"window": 1}, "window is 1.* 2"),
        ({"stride": 0}, "stride is 0.* 1"),
        ({"window": 8, "stride": 9}, "stride is 9.*window, 8"),
        ({"preset": "lm-eval", "stride": 9}, "stride is 9.*lm-eval"),
    ],
)
def test_impossible_protocols_are_refused(arguments: dict[str, str], message: str) -> None:
    """An impossible protocol is refused: the message has the value and its limits."""
    with pytest.raises(InvalidValueError, match=message):
        Protocol(**arguments)  # type: ignore[arg-type] # wrong on purpose


def test_words_are_counted_as_the_preset_counts_them() -> None:
    """Runs between whitespace; lm-eval's split adds one for whitespace at either end."""
    document = Document("d", " two words\n")
    assert count_words(document, Protocol()) == 2
    assert count_words(document, Protocol("lm-eval")) == 4


def test_documents_are_joined_and_cut_as_the_preset_does() -> None:
    """Joined by a blank line on request or by preset; llama.cpp drops a final newline."""
    documents = [Document("a", "x\n"), Document("b", "y\n")]
    assert prepare(documents, Protocol()) == documents
    for protocol in (Protocol(joined=True), Protocol("hf-stride")):
        assert [d.text for d in prepare(documents, protocol)] == ["x\n\n\ny\n"]
    assert [d.text for d in prepare(documents, Protocol("llama.cpp"))] == ["x\n\n\ny"]
    assert [d.text for d in prepare(documents[:1], Protocol("llama.cpp"))] == ["x"]
