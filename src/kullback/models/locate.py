"""The kinds of model that a name can mean, and checks of the name before anything is loaded.

========================  =====================================================================
name                      what it is
========================  =====================================================================
a folder, training.json   a run of ``kullback train`` (`kullback.models.mini_gpt`)
any other folder          a Hugging Face folder: config.json, weights, tokenizer; or one of an
                          adapter (`kullback.models.adapters`), which names its model
a file ending in .gguf    a llama.cpp model: llama.cpp runs it (`kullback.models.llama_cpp`), or
                          transformers dequantises its weights (``FILE.gguf@transformers``)
anything else             a name on the Hugging Face hub, or in its cache on this machine
========================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kullback.errors import InvalidValueError
from kullback.models._config_checks import check_sizes
from kullback.models.gguf_file import GGUFFile, read_gguf
from kullback.models.llama_cpp_options import Backend, LlamaCppOptions, split_gguf
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.inputs import check_regular

__all__ = [
    "ADAPTER_CONFIG",
    "SENTENCE_PIECE_FILES",
    "TOKENIZERS",
    "Location",
    "locate",
    "read_json",
]

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
SENTENCE_PIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TOKENIZERS = ("tokenizer.json", *SENTENCE_PIECE_FILES, "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True)
class Location:
    """Where a model is."""

    name: str
    """As the user wrote it."""
    path: Path | None
    """The folder or the .gguf file; None on the hub."""
    header: GGUFFile | None = None
    """Of a .gguf file, over all its parts."""
    backend: Backend | None = None
    """What runs a .gguf file, where the name says it."""
    options: LlamaCppOptions | None = None
    """How llama.cpp runs it, where the name says it."""

    @property
    def gguf(self) -> Path | None:
        """The .gguf file, where it is one."""
        return self.path if self.path is not None and self.path.suffix == ".gguf" else None

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder of ``kullback train``."""
        return self.path is not None and (self.path / "training.json").is_file()

    @property
    def has_adapter(self) -> bool:
        """Whether it is a folder with an adapter, alone or beside weights."""
        return self.path is not None and (self.path / ADAPTER_CONFIG).is_file()

    @property
    def holds_only_adapter(self) -> bool:
        """Whether it is a folder with an adapter and no weights of a model."""
        return self.path is not None and self.has_adapter and not _weights(self.path)

    @property
    def source(self) -> str:
        """The folder or hub name that `transformers` loads from."""
        if self.path is None:
            return self.name
        return str(self.path if self.gguf is None else self.path.absolute().parent)


def locate(name: str) -> Location:
    """Where the model called `name` is.

    Raises `InvalidValueError` where it is a path at which there is no model, a folder in which a
    file is missing or damaged, or a file that is not a whole GGUF.
    """
    if not name:
        raise InvalidValueError("the model's name is empty: give a folder, a .gguf file or a name")
    try:
        file, backend, options = split_gguf(name)
        path = Path(file).expanduser()
    except RuntimeError as error:  # ~ of an unknown user
        raise InvalidValueError(f"there is no model at {name}: {error}") from None
    check_regular(path, "the model")
    if path.is_file():
        return Location(name, path, _header(name, path), backend, options)
    if (path / "training.json").is_file():
        _check_files(path)  # its loader checks the rest
    elif path.is_dir():
        _check_files(path)
        _check_folder(path)
    elif (
        path.is_absolute()
        or path.suffix == ".gguf"
        or name.startswith((".", "~"))
        or name.count("/") > 1
    ):
        raise InvalidValueError(f"there is no model at {name}: no such file or folder")
    else:
        return Location(name, None)
    return Location(name, path)


def _header(name: str, path: Path) -> GGUFFile:
    if path.suffix != ".gguf":
        raise InvalidValueError(
            f"the model {name} is a file: give a folder, a .gguf file or a name on the hub"
        )
    try:
        return read_gguf(path, name)
    except OSError as error:
        raise InvalidValueError(f"the model {name} cannot be read: {error.strerror}") from None


def _check_files(folder: Path) -> None:
    """Raise `InvalidValueError` for a pipe, socket or device among the files of a model."""
    for path in sorted(folder.iterdir()):
        check_regular(path, "the file of the model")


def _weights(folder: Path) -> list[Path]:
    """The files of a model's weights, without those of an adapter."""
    files = {file for pattern in WEIGHTS for file in folder.glob(pattern)}
    return sorted(file for file in files if not file.name.startswith("adapter_model"))


def _check_folder(folder: Path) -> None:
    weights = _weights(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        if not any((folder / file).is_file() for file in ADAPTER_WEIGHTS):
            raise InvalidValueError(
                f"the model {folder} has an {ADAPTER_CONFIG} and no {ADAPTER_WEIGHTS[0]}: download "
                "it again, or remove that file to use the model without an adapter"
            )
        if not weights:
            return
    config = read_json(folder / "config.json")
    if not weights:
        raise InvalidValueError(f"the model {folder} has no weights: no model.safetensors in it")
    check_sizes(folder / "config.json", config, weights)
    for index in folder.glob("*.index.json"):
        shards = read_json(index).get("weight_map")
        if isinstance(shards, dict):
            names = {str(shard) for shard in shards.values()}
            for shard in sorted(names):
                if Path(shard).is_absolute() or ".." in Path(shard).parts or "\0" in shard:
                    raise InvalidValueError(
                        f"{index} names a shard outside the folder, {shard!r}: download it again"
                    )
            missing = sorted(shard for shard in names if not (folder / shard).is_file())
            if missing:
                raise InvalidValueError(
                    f"the model {folder} is incomplete: {len(missing)} of "
                    f"{len(names)} shards are missing, the first is {missing[0]}; "
                    "download it again"
                )
    if not any((folder / file).is_file() for file in TOKENIZERS) and not any(
        folder.glob("*.tiktoken")
    ):
        raise InvalidValueError(
            f"the model {folder} has no tokenizer: no tokenizer.json in it; copy it from the model "
            "that this one was made of"
        )


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of a model folder.

    Raises `InvalidValueError` where the file is missing or damaged.
    """
    try:
        return decode_json(read_bounded(path), dict[str, object])
    except FileNotFoundError:
        raise InvalidValueError(
            f"{path.parent} is not a model: it has no {path.name}; give a Hugging Face folder, a "
            "run of `kullback train`, a .gguf file or a name on the hub"
        ) from None
    except OSError as error:
        raise InvalidValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidValueError(f"{path} is damaged: {error}; download it again") from None
