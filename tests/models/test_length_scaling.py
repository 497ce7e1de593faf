"""RoPE that is scaled by the length of the input: each input gets what it gets by itself."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from kullback.evaluation.predictors import inputs_at_once
from kullback.models.huggingface import HuggingFaceModel
from kullback.models.length_scaling import LengthScaling
from kullback.models.load_streamed import load_streamed
from tiny_models import byte_tokenizer

SIZES = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
ROPE = {
    "Phi-3 with LongRoPE": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 32,
        "factor": 2.0,
    },
    "Llama with dynamic NTK": {"rope_type": "dynamic", "factor": 4.0},
}
# Below, at and above the length from which LongRoPE is another.
LENGTHS = (64, 20, 48, 32, 33, 7)


def fresh(kind: str) -> PreTrainedModel:
    """The same model each time, which has read nothing."""
    torch.manual_seed(0)
    rope = {"rope_theta": 10_000.0, **ROPE[kind]}
    settings: dict[str, Any] = {**SIZES, "max_position_embeddings": 64, "rope_parameters": rope}
    if kind.startswith("Phi"):
        return Phi3ForCausalLM(Phi3Config(**settings, pad_token_id=0)).eval()
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def ids(length: int) -> torch.Tensor:
    """One input of a length."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 256, (1, length), generator=generator)


def expected(kind: str) -> dict[int, torch.Tensor]:
    """The logits of each input from a model that has read nothing else."""
    with torch.no_grad():
        return {length: fresh(kind)(ids(length)).logits[0] for length in LENGTHS}


def logits(model: HuggingFaceModel, length: int) -> torch.Tensor:
    """Of our adapter."""
    return model.predict(ids(length)).logits(slice(0, length))


@pytest.mark.parametrize("kind", ROPE)
def test_numbers_do_not_depend_on_what_was_read_before(kind: str) -> None:
    """In two orders, and after an input beyond the context, they are those of a fresh model."""
    alone = expected(kind)
    for order in (LENGTHS, LENGTHS[::-1]):
        model = fresh(kind)
        ours = HuggingFaceModel.wrap(model, byte_tokenizer(), kind)
        with torch.no_grad():
            model(ids(90))  # the caller's own use, which dynamic NTK remembers
        for length in order:
            torch.testing.assert_close(logits(ours, length), alone[length], rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # else the test would prove nothing
        model(ids(90))
        changed = model(ids(64)).logits[0]
    is_dynamic = "dynamic" in kind
    assert ((changed - alone[64]).abs().max() > 0.1) == is_dynamic


@pytest.mark.parametrize("kind", ROPE)
def test_threads_read_one_input_at_a_time(kind: str) -> None:
    """Another thread's input does not change the frequencies between two layers' use of them."""
    ours = HuggingFaceModel.wrap(fresh(kind), byte_tokenizer(), kind)
    assert ours.exclusive
    assert inputs_at_once(ours) == 1
    rotary: Any = ours.model.base_model.rotary_emb
    alone, own, lock, crowded = expected(kind), rotary.forward, threading.Lock(), []

    def slow(*arguments: Any, **named: Any) -> Any:
        crowded.append(not lock.acquire(blocking=False))
        time.sleep(0.002)
        result = own(*arguments, **named)
        if lock.locked():
            lock.release()
        return result

    rotary.forward = slow
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(lambda length: logits(ours, length), 2 * LENGTHS))
    assert not any(crowded)
    for length, logits_TV in zip(2 * LENGTHS, read, strict=True):
        torch.testing.assert_close(logits_TV, alone[length], rtol=1e-4, atol=1e-4)


def test_layers_that_are_streamed_get_the_same(tmp_path: Path, tiny_llama_folder: Path) -> None:
    """Every layer's pass over inputs of several lengths begins with the frequencies as made."""
    kind, folder = "Phi-3 with LongRoPE", tmp_path / "phi"
    fresh(kind).save_pretrained(folder)
    for file in tiny_llama_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    alone, model = expected(kind), load_streamed(str(folder), torch.float32)
    assert model.exclusive
    assert model.sharing(64) == "equal lengths"
    model.prepare([ids(length).numpy() for length in LENGTHS], 2)
    for length in LENGTHS:
        read = model.predict(ids(length)).logits(slice(0, length))
        torch.testing.assert_close(read, alone[length], rtol=1e-4, atol=1e-4)


def test_code_of_its_own_is_noted_and_other_models_are_left_alone() -> None:
    """A model without the frequencies that transformers keeps cannot forget, and says so."""
    model = fresh("Llama with dynamic NTK")
    assert LengthScaling(model).notes("m") == []
    other = copy.deepcopy(model)
    rotary: Any = other.base_model.rotary_emb
    del rotary.original_inv_freq
    (note,) = LengthScaling(other).notes("m")
    assert "order" in note
    other.config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    assert not LengthScaling(other).is_used
    assert LengthScaling(other).notes("m") == []
