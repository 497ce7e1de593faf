"""Options of a pass over a text that `evaluate`, `compare` and `record` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from kullback.errors import InvalidValueError, KullbackError, RunError
from kullback.evaluation.memory_remedies import NARROW, memory_remedies
from kullback.models.devices import check_device, own_device
from kullback.models.interface import TextModel
from kullback.models.llama_cpp_options import BACKENDS, Backend, split_gguf
from kullback.models.load import load_sized, model_name
from kullback.models.load_streamed import check_streamable, load_streamed
from kullback.models.placement import DeviceMap
from kullback.models.quantized import SizedModel, split_scheme
from kullback.models.streamed import StreamedModel
from kullback.models.weight_matrices import weights_count
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.free_memory import free_on
from kullback.runtime.memory import lacks_memory
from kullback.runtime.progress import Progress
from kullback.runtime.ranks import process_count
from kullback.runtime.workers import ProcessGroup
from kullback.text.documents import STANDARD_INPUT, Document
from kullback.text.formats import ROWS, has_fields
from kullback.text.inputs import Text, documents_of, paths_of, size_of
from kullback.text.protocol import Bos, Preset, Protocol
from kullback.text.special_spellings import Spelled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Model", "PassOptions", "model_name", "named_paths"]

#: A name, a path, a loaded transformers model with its tokenizer, or what `load_model` returned.
Model: TypeAlias = (
    "str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | TextModel | SizedModel"
)

# Bytes of a text that takes seconds to read: a stage says so.
LONG_TEXT = 64 << 20
# Bytes from which on a second copy of a model is read layer by layer.
LARGE_COPY = 256 << 20


def named_paths(*models: Model) -> list[str | Path]:
    """Those of the models that are given by a name or a path."""
    return [model for model in models if isinstance(model, str | Path)]


def _has_fields(name: str) -> bool:
    """Whether it is a file with fields, contains one, or is missing, which its reader says."""
    path = Path(name).expanduser()
    if name != STANDARD_INPUT and not path.exists():
        return True
    files = path.rglob("*") if path.is_dir() else [path]
    return any(map(has_fields, files))


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """The options by their names in the API; None is an option that was not given."""

    field: str | None = None
    """The column of files with rows: .jsonl, .json, .csv, .tsv, .parquet ("text")."""
    protocol: Preset | None = None
    """"sliding", "hf-stride", "lm-eval" or "llama.cpp"."""
    window: int | None = None
    stride: int | None = None
    bos: Bos | None = None
    joined: bool | None = None
    special_tokens: Spelled | None = None
    dtype: str | torch.dtype | None = None
    device: str | torch.device | None = None
    device_map: DeviceMap | None = None
    trust_remote_code: bool | None = None
    backend: Backend | None = None
    """What runs .gguf files: "llama.cpp" or "transformers"."""
    stream: bool | None = None
    """Whether models are read layer by layer, which may then be larger than memory."""

    @property
    def given(self) -> list[str]:
        """The options that were given, as flags of the command line."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return [f"--{name.replace('_', '-')}" for name in names]

    def to_protocol(self) -> Protocol:
        """The protocol that the options describe; raises `InvalidValueError` as it does."""
        return Protocol(
            self.protocol or "sliding", self.window, self.stride, self.bos or "auto", self.joined,
            self.special_tokens,
        )  # fmt: skip

    def documents(self, text: Text, progress: Progress) -> list[Document]:
        """The documents of `text`; `progress` is told of files that are skipped.

        Raises `InvalidValueError` where a field is given and no file has fields, and for standard
        input under torchrun.
        """
        if STANDARD_INPUT in map(str, paths_of(text)) and process_count("WORLD_SIZE") > 1:
            raise InvalidValueError(
                f"text is {STANDARD_INPUT}, standard input, which each process of torchrun would "
                "take a part of: write it to a file, and give the name of that"
            )
        if self.field is not None and not any(map(_has_fields, paths_of(text))):
            raise InvalidValueError(
                f"field (--field) is {self.field!r}, and no file of this text has fields: "
                f"{', '.join(ROWS)} files have; leave it out"
            )
        size = size_of(text)
        if size >= LONG_TEXT:
            progress.stage(f"reading {shown_bytes(size)} of text")
        return documents_of(text, self.field, progress.note)

    def load(
        self,
        model: Model,
        dtype: torch.dtype | None = None,
        progress: Progress | None = None,
        remedy: str | None = None,
    ) -> SizedModel:
        """The model, in `dtype` where that is given and else as the options say.

        Raises `InvalidValueError` where the memory is too small for it, with `remedy` (by default
        the options that were not given), and as `load_sized` and `load_streamed` do.
        """
        try:
            return self._loaded(model, dtype, progress or Progress())
        except (KullbackError, RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            raise InvalidValueError(
                f"the model {model_name(model)} does not fit into memory: "
                f"{remedy or memory_remedies([model], vars(self))}"
            ) from error

    def _loaded(self, model: Model, dtype: torch.dtype | None, progress: Progress) -> SizedModel:
        if self.stream:
            streamed = load_streamed(model, dtype or self.dtype, self.device or "auto")
            streamed.progress = progress
            if self._is_narrow:
                name = str(streamed.dtype).removeprefix("torch.")
                streamed.add_note(
                    f"what {name} changes against float32 was not measured: the model would be "
                    "read a second time"
                )
            return SizedModel(streamed, streamed.size_bytes, streamed.size_bytes)
        return load_sized(
            model,
            dtype or self.dtype,
            "auto" if self.device is None else self.device,
            bool(self.trust_remote_code),
            progress.advance,
            self.backend,
            self.device_map,
        )

    def check_device(self, *models: Model) -> None:
        """Raise `InvalidValueError` where a model is to be put on a device that torch cannot use.

        Loading finds that too, after the text was read.  llama.cpp has devices of its own.
        """
        if self.device is None or str(self.device) == "auto":
            return
        for model in named_paths(*models):
            base, scheme = split_scheme(str(model))
            file, backend, _ = split_gguf(base)
            is_gguf = file.endswith(".gguf")
            dequantised = scheme is not None or (backend or self.backend) == "transformers"
            is_recording = not is_gguf and Path(file).is_file()
            if not is_recording and (dequantised or not is_gguf):
                check_device(own_device(self.device))
                return

    def check_spread(self, *models: Model, schemes: Sequence[str] = ()) -> None:
        """Raise `InvalidValueError` where models are to be spread that are quantised or loaded."""
        if self.device_map is None:
            return
        names = [str(name) for name in named_paths(*models)]
        quantised = [name for name in names if split_scheme(name)[1] is not None]
        if quantised or schemes:
            raise InvalidValueError(
                "device_map (--device-map) spreads weights as they are stored, and "
                f"{[*quantised, *schemes][0]} quantises them: leave out one of the two"
            )
        if len(names) < len(models):
            raise InvalidValueError("device_map is for models by their names: leave it out")

    def check_stream(self, *models: Model, schemes: Sequence[str] = ()) -> None:
        """Raise `InvalidValueError` where models are to be read layer by layer and cannot be.

        That is seen in their names, and in options that need whole models.
        """
        if not self.stream:
            return
        others = [
            option for option in self.given
            if option in ("--device-map", "--backend", "--trust-remote-code")
        ]  # fmt: skip
        if others or schemes:
            raise InvalidValueError(
                f"stream (--stream) reads models layer by layer, which {[*others, *schemes][0]} "
                "does not allow: leave out one of the two"
            )
        for model in models:
            check_streamable(model)

    def check_processes(self, processes: ProcessGroup) -> None:
        """Raise `InvalidValueError` where several processes cannot share the passes."""
        if self.stream and processes.world_size > 1:
            raise InvalidValueError(
                "stream (--stream) reads a model once, and each process of torchrun would read it: "
                "start one process"
            )

    def check_backend(self, *models: Model) -> None:
        """Raise `InvalidValueError` for an unknown backend, and for one without a .gguf file."""
        if self.backend is None:
            return
        if self.backend not in BACKENDS:
            raise InvalidValueError(
                f"backend is {self.backend!r}: it must be one of {', '.join(BACKENDS)}"
            )
        split = [split_scheme(str(name)) for name in named_paths(*models)]
        files = [part for part in split if split_gguf(part[0])[0].endswith(".gguf")]
        if not files:
            raise InvalidValueError(
                f"backend (--backend) is {self.backend}, which is about .gguf files, and no model "
                "is one: leave it out"
            )
        if self.backend == "llama.cpp" and all(scheme is not None for _, scheme in files):
            raise InvalidValueError(
                f"backend (--backend) is llama.cpp, and {files[0][0]} is quantised further, which "
                "is done in transformers: leave out the scheme, or the backend"
            )

    @property
    def _is_narrow(self) -> bool:
        """Whether 16 bits were asked for."""
        return str(self.dtype).removeprefix("torch.") in NARROW

    def in_float32(
        self, model: Model, loaded: TextModel, progress: Progress | None = None
    ) -> Callable[[], TextModel] | None:
        """Loads the model in float32 where the options ask for 16 bits; None elsewhere.

        `loaded` is the model as it is.  A large one is read layer by layer where that can be done,
        each widened while the tokens that it is loaded for pass through it; else what is returned
        raises `RunError` where the memory that is free is too small for a copy, and as `load` does.
        """
        # A streamed model would be read a second time as a whole.
        if not self._is_narrow or not isinstance(model, str | Path) or self.stream:
            return None

        def load() -> TextModel:
            streamed = self.layer_by_layer(model, loaded, torch.float32, progress)
            if streamed is not None:
                return streamed
            needed, free = 4 * weights_count(loaded), free_on(loaded.device)
            if self.device_map is None and free is not None and needed > free:
                raise RunError(
                    f"a float32 copy beside the model takes {shown_bytes(needed)}, and "
                    f"{shown_bytes(free)} are free"
                )
            return self.load(model, torch.float32).model

        return load

    def layer_by_layer(
        self, model: str | Path, loaded: TextModel, dtype: torch.dtype, progress: Progress | None
    ) -> StreamedModel | None:
        """A model in another type than `loaded` has, read layer by layer.

        None where a copy is small enough to be held as a whole, or the model is not read so.
        """
        is_large = dtype.itemsize * weights_count(loaded) >= LARGE_COPY
        if not is_large or self.device_map or self.trust_remote_code:
            return None
        progress = progress or Progress()
        try:
            streamed = load_streamed(model, dtype, self.device or "auto")
        except InvalidValueError as error:
            progress.note(
                f"its noise is measured with a whole copy in {str(dtype).removeprefix('torch.')} "
                f"beside it ({shown_bytes(dtype.itemsize * weights_count(loaded))}): {error}"
            )
            return None
        streamed.progress = _Steps(progress)
        return streamed


class _Steps(Progress):
    """Forwards the advance alone: neither stages nor notes."""

    def __init__(self, progress: Progress) -> None:
        self.advance = progress.advance  # type: ignore[method-assign]

    def note(self, text: str) -> None:
        """Leave it out."""
