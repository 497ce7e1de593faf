"""Windows: the tokens that are read and scored, against the published loop of each tool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel

from kullback.errors import InvalidValueError
from kullback.text.documents import Document
from kullback.text.plan import plan
from kullback.text.protocol import Protocol, prepare
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import Encoding, TextTokenizer
from kullback.text.tokenizer_training import train_tokenizer
from kullback.text.windows import Window, coverage

TEXTS = ["the cat sat on the mat, así habló él 😀\n" * 3, "x", "a second, longer text. " * 9]
DOCUMENTS = [Document(f"{i}.txt", text) for i, text in enumerate(TEXTS)]
CONTEXT = 32


def tokenizer(adds_bos: bool = True, bos: bool = True, eos: bool = True) -> TextTokenizer:
    """Return a byte-level tokenizer that has and adds special tokens, or does not."""
    trained = train_tokenizer(TEXTS, 290)
    if not adds_bos:
        trained.post_processor = processors.ByteLevel()
    return TextTokenizer(trained, BOS if bos else None, EOS if eos else None)


WITH_BOS, WITHOUT_BOS = tokenizer(), tokenizer(adds_bos=False)


def model() -> GPT2LMHeadModel:
    """Return a random GPT-2 whose predictions depend on all that it reads."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=290, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.4
    )
    random: GPT2LMHeadModel = GPT2LMHeadModel(config).double().train(False)
    return random


MODEL = model()


@torch.inference_mode()
def nll_rows(inputs: Sequence[int], targets: Sequence[int]) -> np.ndarray:
    """The nll of the targets after the last of the inputs."""
    logits = MODEL(torch.tensor([list(inputs)])).logits[0, -len(targets) :].log_softmax(-1)
    rows = torch.arange(len(targets))
    values: np.ndarray = -logits[rows, torch.tensor(list(targets))].numpy()
    return values


def nll(window: Window) -> np.ndarray:
    """The nll of the targets of a window, from its own inputs and rows."""
    with torch.inference_mode():
        logits = MODEL(torch.from_numpy(window.inputs)[None]).logits[0].log_softmax(-1)
    rows = torch.arange(len(window))
    values: np.ndarray = -logits[window.rows][rows, torch.from_numpy(window.targets)].numpy()
    return values


def encode(protocol: Protocol, by: TextTokenizer) -> list[Encoding]:
    """The documents as the protocol reads them."""
    return [by.encode(document.text) for document in prepare(DOCUMENTS, protocol)]


def totals(protocol: Protocol, by: TextTokenizer) -> tuple[float, float]:
    """The weighted sum of nll and the sum of weights."""
    windows = plan(encode(protocol, by), protocol, by, CONTEXT)
    total = sum(window.weight * nll(window).sum() for window in windows)
    return float(total), sum(window.weight * len(window) for window in windows)


@pytest.mark.parametrize("by", [WITH_BOS, WITHOUT_BOS], ids=["bos", "no-bos"])
@pytest.mark.parametrize("stride", [1, 7, 16, 32])
def test_sliding_scores_each_token_once_with_its_context(by: TextTokenizer, stride: int) -> None:
    """Token by token, the default is the nll after BOS (where used) and a full left context."""
    protocol = Protocol(window=CONTEXT, stride=stride)
    encodings = encode(protocol, by)
    scored = {}
    for window in plan(encodings, protocol, by, CONTEXT):
        assert window.n_inputs == len(window.inputs) <= CONTEXT
        for token, value, position in zip(
            window.tokens, nll(window), window.positions, strict=True
        ):
            assert (window.document, token) not in scored
            scored[window.document, int(token)] = (value, int(position))
    assert len(scored) == sum(map(len, encodings))
    for document, encoding in enumerate(encodings):
        ids = encoding.ids.tolist()
        for token in range(len(ids)):
            value, position = scored[document, token]
            leading = [by.bos_id] if by.adds_bos or token == 0 else []
            first = token - position + len(leading)
            # Full context: all there is, or what a window leaves when it has moved by a stride.
            assert first == 0 or position >= CONTEXT - stride + 1
            (expected,) = nll_rows(leading + ids[first:token], [ids[token]])
            assert value == pytest.approx(expected, abs=1e-10)


@given(
    n=st.integers(1, 60), window=st.integers(2, 20), stride=st.integers(1, 20), bos=st.booleans()
)
def test_sliding_covers_every_token_once(n: int, window: int, stride: int, bos: bool) -> None:
    """For any length, window and stride the scored tokens are 0 to n − 1 in order."""
    by = WITH_BOS if bos else WITHOUT_BOS
    encoding = Encoding(np.arange(n) + 5, np.stack([np.arange(n), np.arange(n) + 1], axis=1))
    windows = plan([encoding], Protocol(window=window, stride=min(stride, window)), by, None)
    tokens = np.concatenate([w.tokens for w in windows])
    np.testing.assert_array_equal(tokens, np.arange(n))
    assert all(w.n_inputs <= window and w.rows.start >= 0 for w in windows)
    assert coverage([encoding], windows).complete


def test_bos_is_never_doubled() -> None:
    """Under `auto` and `always` each window of a tokenizer that adds BOS holds exactly one."""
    for bos in ("auto", "always"):
        protocol = Protocol(window=16, bos=bos)
        for window in plan(encode(protocol, WITH_BOS), protocol, WITH_BOS, CONTEXT):
            assert window.inputs[0] == WITH_BOS.bos_id
            assert (window.inputs == WITH_BOS.bos_id).sum() == 1


def test_bos_never_leaves_the_first_token_unscored() -> None:
    """Without BOS nothing predicts a document's first token, and the coverage says so."""
    protocol = Protocol(window=16, bos="never")
    encodings = encode(protocol, WITH_BOS)
    covered = coverage(encodings, plan(encodings, protocol, WITH_BOS, CONTEXT))
    assert covered.scored_tokens == covered.tokens - 3
    assert not covered.complete
    assert covered.bytes == sum(document.n_bytes for document in DOCUMENTS)
    assert covered.bytes - covered.scored_bytes == sum(
        encoding.byte_spans[0, 1] for encoding in encodings
    )


def test_the_first_token_follows_the_start_token_there_is() -> None:
    """Where no BOS is added, BOS or else EOS predicts the first token; without, nothing does."""
    protocol = Protocol(window=16)
    for by, start in ((WITHOUT_BOS, 0), (tokenizer(False, bos=False), 1)):
        windows = plan(encode(protocol, by), protocol, by, CONTEXT)
        assert windows[0].inputs.tolist() == [start]
        assert windows[1].inputs.tolist() == by.encode(TEXTS[0]).ids[:16].tolist()
    neither = tokenizer(False, bos=False, eos=False)
    encodings = encode(protocol, neither)
    covered = coverage(encodings, plan(encodings, protocol, neither, CONTEXT))
    assert covered.tokens - covered.scored_tokens == 3
    with pytest.raises(InvalidValueError, match="bos is 'always'"):
        plan(encodings, Protocol(bos="always"), neither, CONTEXT)


@pytest.mark.parametrize("by", [WITH_BOS, WITHOUT_BOS], ids=["bos", "no-bos"])
@pytest.mark.parametrize(("window", "stride"), [(32, 16), (32, 32), (20, 7), (32, 31)])
def test_hf_stride_is_the_loop_of_the_guide(by: TextTokenizer, window: int, stride: int) -> None:
    """hf-stride gives the sums of the guide's loop, with the model's own loss."""
    ids = by.encode("\n\n".join(TEXTS)).ids.tolist()
    input_ids = torch.tensor([[by.bos_id, *ids] if by.adds_bos else ids])
    length = input_ids.shape[1]
    nll_sum, n_tokens, end_before = 0.0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        target_ids = input_ids[:, begin:end].clone()
        target_ids[:, : -(end - end_before)] = -100
        with torch.no_grad():
            loss = MODEL(input_ids[:, begin:end], labels=target_ids).loss
        n_labels = int((target_ids != -100).sum()) - 1
        if n_labels:
            nll_sum += float(loss) * n_labels
        n_tokens += n_labels
        end_before = end
        if end == length:
            break
    total_nll, weight = totals(Protocol("hf-stride", window, stride), by)
    # The model's loss is computed in float32.
    assert total_nll == pytest.approx(nll_sum, rel=1e-6)
    assert weight == pytest.approx(n_tokens, rel=1e-12)


@pytest.mark.parametrize("by", [WITH_BOS, WITHOUT_BOS], ids=["bos", "no-bos"])
@pytest.mark.parametrize("window", [32, 13])
def test_lm_eval_is_its_rolling_loglikelihood(by: TextTokenizer, window: int) -> None:
    """lm-eval gives the sum of rolling windows as the harness describes and cuts them."""
    total = n_tokens = 0.0
    for text in TEXTS:
        tokens = by.encode(text).ids.tolist()
        if by.adds_bos:
            tokens = [by.bos_id, *tokens]
        pairs = [([by.bos_id, *tokens[: window - 1]][: len(tokens)], tokens[:window])]
        for done in range(window, len(tokens), window):
            end = min(done + window, len(tokens))
            pairs.append((tokens[end - window - 1 : end - 1], tokens[done:end]))
        total += sum(nll_rows(read, predicted).sum() for read, predicted in pairs)
        n_tokens += len(tokens)
    total_nll, weight = totals(Protocol("lm-eval", window), by)
    assert total_nll == pytest.approx(total, rel=1e-12)
    assert weight == n_tokens


def test_lm_eval_counts_a_scored_bos_as_no_bytes() -> None:
    """The BOS that the harness scores has no bytes, so that bytes are still counted once."""
    protocol = Protocol("lm-eval", window=13)
    encodings = encode(protocol, WITH_BOS)
    windows = plan(encodings, protocol, WITH_BOS, CONTEXT)
    assert windows[0].tokens[0] == -1
    assert windows[0].byte_spans(encodings[0])[0].tolist() == [0, 0]
    covered = coverage(encodings, windows)
    assert covered.complete
    assert covered.bytes == sum(document.n_bytes for document in DOCUMENTS)
    assert sum(map(len, windows)) == covered.tokens + len(DOCUMENTS)


@pytest.mark.parametrize("by", [WITH_BOS, WITHOUT_BOS], ids=["bos", "no-bos"])
@pytest.mark.parametrize("window", [32, 9])
def test_llama_cpp_scores_second_halves(by: TextTokenizer, window: int) -> None:
    """llama.cpp gives the sum over whole chunks, BOS in the first place, of the second halves."""
    ids = by.encode("\n\n".join(TEXTS).removesuffix("\n")).ids.tolist()
    tokens = [by.bos_id, *ids] if by.adds_bos else ids
    total, count, half = 0.0, 0, window // 2
    for chunk in range(len(tokens) // window):
        read = tokens[chunk * window : (chunk + 1) * window]
        targets = read[half + 1 :]
        if by.adds_bos:
            read = [by.bos_id, *read[1:]]
        total += nll_rows(read[:-1], targets).sum()
        count += window - half - 1
    total_nll, weight = totals(Protocol("llama.cpp", window), by)
    assert total_nll == pytest.approx(total, rel=1e-12)
    assert weight == count


def test_a_window_longer_than_the_context_is_refused() -> None:
    """The message has both numbers."""
    with pytest.raises(InvalidValueError, match=r"window is 33.* 32 tokens"):
        plan(encode(Protocol(), WITH_BOS), Protocol(window=33), WITH_BOS, CONTEXT)
    with pytest.raises(InvalidValueError, match=r"stride is 33.*window, 32"):
        plan(encode(Protocol(), WITH_BOS), Protocol(stride=33), WITH_BOS, CONTEXT)


def test_short_texts() -> None:
    """One token is scored after BOS; where nothing can be scored the message says why."""
    single, empty = WITH_BOS.encode("x"), WITH_BOS.encode("")
    (window,) = plan([single, empty], Protocol(), WITH_BOS, CONTEXT)
    assert (window.inputs.tolist(), window.targets.tolist()) == ([0], single.ids.tolist())
    for protocol, by in (
        (Protocol(bos="never"), WITH_BOS),
        (Protocol("hf-stride"), WITHOUT_BOS),
    ):
        with pytest.raises(InvalidValueError, match="the text has 1 token,"):
            plan([single], protocol, by, CONTEXT)
    with pytest.raises(InvalidValueError, match="the text has 0 tokens,"):
        plan([empty], Protocol("lm-eval"), WITH_BOS, CONTEXT)
    with pytest.raises(InvalidValueError, match=r"2 tokens: llama\.cpp"):
        plan([single], Protocol("llama.cpp"), WITH_BOS, CONTEXT)
