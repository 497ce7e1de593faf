"""GGUF files in llama.cpp, against the same weights in transformers."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import kullback
from gguf_architectures import byte_tokenizer, tiny
from gguf_files import Value, gguf_of, gguf_vocabulary
from kullback.errors import InvalidValueError, MissingExtraError
from kullback.models import _llama_cpp_library
from kullback.models._llama_cpp_errors import no_model
from kullback.models._llama_cpp_library import Library, load_library
from kullback.models._llama_cpp_placement import ALL_LAYERS
from kullback.models._llama_cpp_tokenizer import tokenizer_of
from kullback.models.gguf_file import read_gguf
from kullback.models.llama_cpp import LlamaCppModel, LlamaCppPredictions
from kullback.models.load import load_sized, load_text_model, tokenizer_alone
from tiny_logits import reproducible_gguf
from tiny_models import TEXT, llama_and_gguf

# float32 in another order: what llama.cpp's own attention and products differ by.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, and tiny.gguf with the same weights in float32 beside it."""
    return llama_and_gguf(tmp_path_factory.mktemp("llama"))


def in_llama_cpp(folder: Path, options: str = "") -> LlamaCppModel:
    """The file; with one thread, so that tests may run side by side."""
    model = load_text_model(f"{folder}/tiny.gguf@threads=1{options}")
    assert isinstance(model, LlamaCppModel)
    return model


def ids_of(model: LlamaCppModel, count: int) -> torch.Tensor:
    """The first tokens of a text, as a batch of one."""
    return torch.from_numpy(model.tokenizer.encode(TEXT).ids[:count])[None]


def logits_of(model: LlamaCppModel, ids_1T: torch.Tensor) -> torch.Tensor:
    """All logits."""
    return model.predict(ids_1T).logits(slice(None))


def test_logits_are_those_of_transformers(folder: Path) -> None:
    """The same weights in float32 give the same logits, with a cache in float32, too."""
    reference = load_text_model(str(folder))
    model = in_llama_cpp(folder, ",ctk=f32,ctv=f32,fa=off")
    ids_1T = ids_of(model, 200)
    expected_TV = reference.predict(ids_1T).logits(slice(None))
    assert (logits_of(model, ids_1T) - expected_TV).abs().max() < TOLERANCE


def test_the_tokenizer_is_that_of_the_folder(folder: Path) -> None:
    """Ids and bytes of each token are those of tokenizer.json; the file names no BOS."""
    reference, model = load_text_model(str(folder)), in_llama_cpp(folder)
    ours, theirs = (each.tokenizer.encode(TEXT) for each in (model, reference))
    assert np.array_equal(ours.ids, theirs.ids)
    assert np.array_equal(ours.byte_spans, theirs.byte_spans)
    assert (model.tokenizer.bos_id, model.tokenizer.adds_bos) == (None, False)
    assert model.vocabulary_size == reference.vocabulary_size


def test_a_text_of_more_tokens_than_bytes_is_read(folder: Path) -> None:
    """Where llama.cpp asks for more space it is called again with as much."""
    model = in_llama_cpp(folder)
    library = load_library()
    sizes: list[int] = []

    class Asking:
        """The functions of the library, of which the tokenizer first asks for more space."""

        def __getattr__(self, name: str) -> object:
            return getattr(library.c, name)

        def llama_tokenize(self, *arguments: Any) -> int:
            sizes.append(arguments[4])
            return -99 if len(sizes) == 1 else int(library.c.llama_tokenize(*arguments))

    asking = cast(Library, SimpleNamespace(c=Asking()))
    pointer = model.session.handle.pointer
    header = read_gguf(folder / "tiny.gguf")
    tokenizer = tokenizer_of(asking, pointer, header, model)
    assert tokenizer.ids("hola") == model.tokenizer.ids("hola")
    assert sizes == [6, 99]


def test_rows_in_any_order_and_number_are_the_same(folder: Path) -> None:
    """Parts of a window, earlier rows and another window in between change no number."""
    model = in_llama_cpp(folder, ",batch=16")
    ids_1T = ids_of(model, 100)
    whole_TV = logits_of(model, ids_1T)
    predictions = model.predict(ids_1T)
    for rows in (slice(90, 100), slice(0, 7), slice(7, 60), slice(40, 45)):
        assert torch.allclose(predictions.logits(rows), whole_TV[rows], atol=TOLERANCE)
    logits_of(model, ids_1T.flip(1))
    chosen = predictions.select(torch.tensor([97, 3, 3, 50]))
    assert isinstance(chosen, LlamaCppPredictions)
    assert torch.allclose(chosen.logits(slice(None)), whole_TV[[97, 3, 3, 50]], atol=TOLERANCE)
    assert torch.equal(
        chosen.logits(slice(1, 2), slice(10, 20)), chosen.logits(slice(1, 2))[:, 10:20]
    )


def test_a_batch_is_its_sequences(folder: Path) -> None:
    """Two inputs give the rows of the first, then those of the second."""
    model = in_llama_cpp(folder)
    first_1T = ids_of(model, 30)
    second_1T = first_1T.flip(1)
    both_MV = logits_of(model, torch.cat([first_1T, second_1T]))
    assert torch.allclose(both_MV[:30], logits_of(model, first_1T), atol=TOLERANCE)
    assert torch.allclose(both_MV[30:], logits_of(model, second_1T), atol=TOLERANCE)


def test_at_most_a_bounded_number_of_rows_is_held(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a long window are never in memory all at once."""
    monkeypatch.setattr("kullback.models.llama_cpp.LOGITS_BYTES", 64 * 4 * 260)
    model = in_llama_cpp(folder)
    predictions = model.predict(ids_of(model, 300))
    predictions.logits(slice(0, 300))
    assert model.session.rows == 64
    assert len(model.session._logits_PV) <= 64


def test_options_are_part_of_name_and_backend(folder: Path) -> None:
    """A quantised cache is another model, and changes the numbers a little."""
    plain, quantised = in_llama_cpp(folder), in_llama_cpp(folder, ",ctk=q8_0,ctv=q8_0,fa=on")
    assert quantised.name == "tiny.gguf@ctk=q8_0,ctv=q8_0,fa=on,threads=1"
    assert "ctk=q8_0" in quantised.backend
    assert "llama.cpp" in plain.backend
    ids_1T = ids_of(plain, 100)
    distance = (logits_of(plain, ids_1T) - logits_of(quantised, ids_1T)).abs().max()
    assert 0 < distance < 1


def test_the_length_of_a_window_decides_its_rope_factors(tmp_path: Path) -> None:
    """As in transformers, and not what was read before it."""
    short, long, original = [1.0, 1.5, 2.0, 3.0], [1.0, 3.0, 5.0, 9.0], 256
    rotation = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": short,
        "long_factor": long, "original_max_position_embeddings": original,
        "attention_factor": 1.0,
    }  # fmt: skip
    reference = tiny(
        "Phi3",
        rope_parameters=rotation,
        original_max_position_embeddings=original,
        max_position_embeddings=1024,
    )
    tensors = {
        "rope_factors_short.weight": np.array(short, np.float32),
        "rope_factors_long.weight": np.array(long, np.float32),
    }
    entries = {"rope.scaling.original_context_length": original}
    path = gguf_of(tmp_path / "m.gguf", reference, byte_tokenizer(), "phi3", entries, tensors)
    model = load_text_model(f"{path}@threads=1,ctk=f32,ctv=f32,fa=off")
    assert isinstance(model, LlamaCppModel)
    assert any("up to 256 tokens" in note and "RoPE factors" in note for note in model.notes)
    generator = torch.Generator().manual_seed(3)
    for length in (200, 300, 200):
        ids_1T = torch.randint(0, 256, (1, length), generator=generator)
        with torch.inference_mode():
            right_TV = reference(ids_1T).logits[0]
        assert (logits_of(model, ids_1T) - right_TV).abs().max() < 1e-3
    fixed = load_text_model(f"{path}@threads=1,ctx=1024")
    assert any("long RoPE factors, as ctx is 1,024" in note for note in fixed.notes)


def test_on_the_cpu_a_gpu_multiplies_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for a GPU is given no device; on one, the backend says so."""
    library, given = load_library(), []

    class WithGpu:
        """The functions of the library, which says that it computes on a GPU."""

        def __getattr__(self, name: str) -> object:
            return getattr(library.c, name)

        def llama_supports_gpu_offload(self) -> bool:
            return True

        def llama_model_load_from_file(self, path: bytes, parameters: Any) -> object:
            given.append((bool(parameters.devices), parameters.n_gpu_layers))
            return library.c.llama_model_load_from_file(path, parameters)

        def llama_init_from_model(self, model: Any, parameters: Any) -> object:
            given.append((parameters.op_offload, parameters.offload_kqv))
            return library.c.llama_init_from_model(model, parameters)

    with_gpu = Library(cast(ctypes.CDLL, WithGpu()), "it")
    monkeypatch.setattr("kullback.models.llama_cpp.load_library", lambda: with_gpu)
    header = read_gguf(folder / "tiny.gguf")
    on_cpu, on_gpu = (LlamaCppModel.load(header, "m", device=place) for place in ("cpu", "auto"))
    assert given == [(True, 0), (False, ALL_LAYERS)]
    logits_of(on_cpu, ids_of(on_cpu, 5))
    assert given[2:] == [(False, False)]
    assert ("GPU" in on_cpu.backend, "GPU" in on_gpu.backend) == (False, True)


@pytest.mark.parametrize(
    ("model", "key", "values"),
    [
        ("llama", "scores", ([-1.0, -2.0, -3.0], [-3.0, -2.0, -1.0])),
        ("gpt2", "merges", (["a b", "b a"], ["b a", "a b"])),
    ],
)
def test_other_ranks_of_the_same_tokens_are_another_tokenizer(
    tmp_path: Path, model: str, key: str, values: tuple[list[Any], list[Any]]
) -> None:
    """They make other ids of a text."""
    fingerprints = []
    for i, value in enumerate((*values, values[0])):
        entries: dict[str, Value] = {
            "llama.block_count": 1, "llama.context_length": 8, "llama.embedding_length": 8,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": model,
            "tokenizer.ggml.pre": "gpt-2", f"tokenizer.ggml.{key}": value,
        }  # fmt: skip
        path = gguf_vocabulary(tmp_path / f"{i}.gguf", ["a", "b", "ab"], entries)
        read = tokenizer_alone(f"{path}@llama.cpp")
        assert read is not None
        fingerprints.append(read().fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_sizes_are_those_of_the_file(folder: Path) -> None:
    """Size and fingerprint are of the file's bytes."""
    sized = load_sized(folder / "tiny.gguf")
    assert sized.size_bytes == sized.saved_bytes == (folder / "tiny.gguf").stat().st_size
    assert len(sized.model.weights_fingerprint()) == 64
    assert sized.model.context == 512


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ctk=q9_0", ["q9_0", "q8_0"]),
        ("kv=q8_0", ["'kv'", "ctk", "ngl"]),
        ("batch=none", ["batch", "none"]),
        ("fa=on,fa=off", ["fa", "twice"]),
        ("ngl=99", ["ngl is 99", "accelerator"]),
    ],
)
def test_a_wrong_option_is_named(folder: Path, options: str, words: list[str]) -> None:
    """One sentence with the option and what it may be."""
    with pytest.raises(InvalidValueError) as error:
        load_sized(f"{folder}/tiny.gguf@{options}")
    assert all(word in str(error.value) for word in words)


def test_what_llama_cpp_cannot_do_is_refused(folder: Path) -> None:
    """A type of the arithmetic, a longer window than the context, a scheme with options."""
    path = folder / "tiny.gguf"
    with pytest.raises(InvalidValueError, match=r"dtype.*bfloat16.*@transformers"):
        load_sized(path, "bfloat16")
    with pytest.raises(InvalidValueError, match="at most 64"):
        in_llama_cpp(folder, ",ctx=64").predict(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match="@"):
        load_sized(f"{path}@threads=1@int8")


def test_transformers_reads_the_dequantised_weights_on_request(folder: Path) -> None:
    """``@transformers`` loads the weights, with a note and the folder's numbers."""
    model = load_text_model(f"{folder}/tiny.gguf@transformers")
    assert any("dequantised" in note for note in model.notes)
    ids_1T = torch.arange(20)[None]
    expected_TV = load_text_model(str(folder)).predict(ids_1T).logits(slice(None))
    assert torch.allclose(model.predict(ids_1T).logits(slice(None)), expected_TV, atol=1e-5)


def test_a_refused_file_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    """An architecture that llama.cpp does not know is named."""
    path = tmp_path / "zork.gguf"
    path.write_bytes((folder / "tiny.gguf").read_bytes().replace(b"llama", b"zorka"))
    with pytest.raises(InvalidValueError, match=r"'zorka'.*llama\.cpp") as error:
        load_sized(path)
    assert "\n" not in str(error.value)


def test_another_version_of_the_library_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an unknown version nor other defaults of a struct are called."""
    monkeypatch.setattr(_llama_cpp_library, "find_spec", lambda name: name == "xllamacpp" or None)
    monkeypatch.setattr(_llama_cpp_library, "version", lambda name: "1999.1.1")
    with pytest.raises(InvalidValueError, match=r"1999\.1\.1.*kullback\[gguf\]"):
        _llama_cpp_library.load_library.__wrapped__()
    c = ctypes.CDLL(load_library().c._name)  # with types of its own
    moved = _llama_cpp_library._ModelParameters
    with pytest.raises(InvalidValueError, match="laid out in another way"):
        _llama_cpp_library._check_defaults(
            c, "it", "llama_context_default_params", moved, {"split_mode": 1}
        )


def test_without_a_library_the_weights_are_dequantised(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note names the extra; asked for by name, llama.cpp's absence is an error that does."""
    monkeypatch.setattr(_llama_cpp_library, "find_spec", lambda name: None)
    model = load_text_model(str(folder / "tiny.gguf"))
    assert any("kullback[gguf]" in note for note in model.notes)
    monkeypatch.setattr("kullback.models.llama_cpp.load_library", load_library.__wrapped__)
    with pytest.raises(MissingExtraError, match=r"kullback\[gguf\]"):
        load_text_model(f"{folder}/tiny.gguf@llama.cpp")


def test_a_model_that_is_not_causal_is_refused(folder: Path, tmp_path: Path) -> None:
    """By the file's own entry, which transformers' path refuses, too."""
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    path = gguf_of(tmp_path / "both.gguf", model, tokenizer, entries={"attention.causal": False})
    with pytest.raises(InvalidValueError, match="not a causal"):
        load_text_model(str(path))


def test_devices_that_llama_cpp_does_not_choose_are_refused(folder: Path) -> None:
    """One GPU of several, and layers on a GPU beside the CPU."""
    path = folder / "tiny.gguf"
    with pytest.raises(InvalidValueError, match="CUDA_VISIBLE_DEVICES=1"):
        load_text_model(str(path), device="cuda:1")
    with pytest.raises(InvalidValueError, match=r"--device\) is cpu, and ngl is 20"):
        load_text_model(f"{path}@ngl=20", device="cpu")
    with pytest.raises(InvalidValueError, match="auto, cpu or cuda"):
        load_text_model(str(path), device="mps")


def test_a_batch_of_another_size_is_a_context_of_its_own(folder: Path) -> None:
    """The same weights give other roundings, and the first model keeps its options."""
    model = in_llama_cpp(folder)
    other = model.in_batches(16)
    assert (other.options.batch, other.session.batch, model.options.batch) == (16, 16, None)
    assert other.session.handle is model.session.handle
    ids_1T = ids_of(model, 100)
    assert 0 < (logits_of(model, ids_1T) - logits_of(other, ids_1T)).abs().max() < 0.1


def test_the_tokenizer_alone_is_checked_as_the_model_is(folder: Path, tmp_path: Path) -> None:
    """A token that is there twice would end the process."""
    path = gguf_vocabulary(tmp_path / "twice.gguf", ["a", "b", "a"], {"llama.block_count": 1})
    with pytest.raises(InvalidValueError, match="'a' is a token twice"):
        tokenizer_alone(str(path))


def test_an_installed_package_is_upgraded_or_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing another package changes nothing where llama-cpp-python is taken first."""

    def broken() -> tuple[str, str, type, type]:
        raise OSError("no such symbol")

    monkeypatch.setattr(_llama_cpp_library, "find_spec", lambda name: name == "llama_cpp" or None)
    monkeypatch.setattr(_llama_cpp_library, "_of_llama_cpp_python", broken)
    with pytest.raises(InvalidValueError, match=r"no such symbol.*uninstall llama-cpp-python"):
        _llama_cpp_library.load_library.__wrapped__()


def test_an_unknown_pre_tokenizer_names_what_may_know_it(folder: Path, tmp_path: Path) -> None:
    """A newer llama.cpp, not the same one again."""
    path = tmp_path / "zork.gguf"
    path.write_bytes((folder / "tiny.gguf").read_bytes().replace(b"gpt-2", b"zorks"))
    with pytest.raises(InvalidValueError, match=r"'zorks'.*upgrade"):
        LlamaCppModel.load(read_gguf(path), "zork")


def test_processes_of_torchrun_share_gpus_and_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the GPU of its rank and its part of the cores; too few GPUs are an error."""
    library, given = load_library(), []

    class WithGpus:
        """The functions of the library, which says that it computes on two GPUs."""

        def __getattr__(self, name: str) -> object:
            return getattr(library.c, name)

        def llama_supports_gpu_offload(self) -> bool:
            return True

        def llama_model_load_from_file(self, path: bytes, parameters: Any) -> object:
            given.append((parameters.split_mode, parameters.main_gpu))
            parameters.split_mode, parameters.main_gpu = 1, 0
            return library.c.llama_model_load_from_file(path, parameters)

        def llama_init_from_model(self, model: Any, parameters: Any) -> object:
            given.append(parameters.n_threads)
            return library.c.llama_init_from_model(model, parameters)

    with_gpus = Library(cast(ctypes.CDLL, WithGpus()), "it")
    monkeypatch.setattr("kullback.models.llama_cpp.load_library", lambda: with_gpus)
    monkeypatch.setattr("kullback.runtime.workers.cores", lambda: 6)
    header = read_gguf(folder / "tiny.gguf")
    LlamaCppModel.load(header, "m")
    for name, value in (("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    model = LlamaCppModel.load(header, "m")
    assert given == [(1, 0), (0, 1)]
    logits_of(model, ids_of(model, 5))
    assert given[2:] == [3]
    said = ["llama_model_load_from_file_impl: invalid value for main_gpu: 1 (available devices: 1)"]
    error = no_model("m.gguf", said, "llama.cpp 1")
    assert isinstance(error, InvalidValueError)
    assert "--nproc-per-node 1" in str(error)


def test_the_protocol_of_llama_cpp_gives_the_perplexity_that_its_tool_prints(
    tmp_path: Path,
) -> None:
    """Of all chunks of the text and of the first three, in the file that the tool read.

    ``llama-perplexity -m tiny.gguf -f text.txt -c 64 -b 64 -ctk f32 -ctv f32 -fa off -t 1`` (of
    llama.cpp 0.6.0-dev) printed them: [3]46944.6086 and the final estimate.
    """
    path = reproducible_gguf(tmp_path / "model")
    model = f"{path}@ctk=f32,ctv=f32,fa=off,threads=1"
    for text, printed in ((TEXT, 41999.7221), (TEXT[: 3 * 64 + 20], 46944.6086)):
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        result = kullback.evaluate(model, tmp_path / "text.txt", protocol="llama.cpp", window=64)
        assert result.measures["perplexity"].value == pytest.approx(printed, rel=1e-5)
