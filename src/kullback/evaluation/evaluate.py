"""`kullback.evaluate`: one model on a text, from what the user has at hand to the result."""

from __future__ import annotations

from pathlib import Path

import torch

from kullback.errors import InvalidValueError
from kullback.evaluation.on_text import TextTask, evaluate_text
from kullback.evaluation.options import Model, PassOptions, model_name, named_paths
from kullback.evaluation.token_records_writer import check_groups
from kullback.models.llama_cpp_options import Backend
from kullback.models.placement import DeviceMap
from kullback.results.evaluation import Evaluation, NonZeroRank
from kullback.runtime.outputs import Output, check_outputs
from kullback.runtime.progress import Progress
from kullback.runtime.workers import process_group
from kullback.text.inputs import Text, paths_of
from kullback.text.protocol import Bos, Preset
from kullback.text.special_spellings import Spelled

__all__ = ["check_parquet", "evaluate"]


def evaluate(
    model: Model,
    text: Text,
    *,
    protocol: Preset | None = None,
    window: int | None = None,
    stride: int | None = None,
    bos: Bos | None = None,
    joined: bool | None = None,
    special_tokens: Spelled | None = None,
    field: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
    backend: Backend | None = None,
    stream: bool = False,
    records: str | Path | None = None,
    force: bool = False,
    temperature: bool = False,
    passages: bool = True,
    progress: Progress | None = None,
    command: str = "",
) -> Evaluation | NonZeroRank:
    """Cross-entropy, perplexity, bits per byte, accuracy and calibration of `model` on `text`.

    `model` is a run folder, a Hugging Face folder or hub name, a .gguf file (``MODEL@SCHEME``
    quantises it), or a transformers model and its tokenizer as a pair.  `text` is a file or folder,
    a `Document`, or several of these.  `protocol`, `window`, `stride` and `bos` say how the text is
    cut, `joined` whether documents are read as one, `special_tokens` ("text" or "tokens") how the
    spelling of a special token is read; `dtype` and `device` ("auto": cuda, mps, cpu) what it is
    computed in, `device_map` ("auto") spreads it over all devices, `backend` says whether llama.cpp
    (the default, where it is installed) or transformers runs a .gguf file.  `stream` reads the
    model layer by layer, which may then be larger than memory.  `records` names a
    Parquet file for one row a token, after which a killed run resumes; `force` lets it replace a
    file that is no records.  `temperature` finds the temperature that minimises the nll; `passages`
    keeps the beginning of the text for a report.
    Every measure has a 95 % interval that allows for the correlation of tokens.  Under torchrun the
    processes share the windows, and non-zero ranks get a `NonZeroRank`.  (As many options as the
    protocol and the arithmetic have parts.)

    Raises `InvalidValueError` for a text, protocol or model that cannot be measured,
    `MissingExtraError` without transformers, `RunError` where the records cannot be written.
    """
    path = None if records is None else Path(records)
    read = [*named_paths(model), *paths_of(text)]
    check_outputs(Output("records", records, "records"), inputs=read, force=force)
    check_parquet("records", path)
    options = PassOptions(
        field=field, protocol=protocol, window=window, stride=stride, bos=bos, joined=joined,
        special_tokens=special_tokens, dtype=dtype, device=device, device_map=device_map,
        trust_remote_code=trust_remote_code or None, backend=backend,
        stream=stream or None,
    )  # fmt: skip
    options.check_backend(model)
    options.check_device(model)
    options.check_spread(model)
    options.check_stream(model)
    progress = progress or Progress()
    cut, documents = options.to_protocol(), options.documents(text, progress)
    with process_group() as processes:
        progress.stage(f"loading {model_name(model)}")
        options.check_processes(processes)
        loaded = options.load(model, progress=progress).model
        task = TextTask(
            records=path, passages=passages, temperature=temperature,
            exact=options.in_float32(model, loaded, progress), command=command,
        )  # fmt: skip
        return evaluate_text(loaded, documents, cut, task, processes, progress)


def check_parquet(option: str, path: Path | None) -> None:
    """Raise `InvalidValueError` where a file of records would be called something else."""
    if path is not None and path.suffix != ".parquet":
        raise InvalidValueError(
            f"{option} is {path}: the records of tokens are a Parquet file; give a name that ends "
            "in .parquet"
        )
    if path is not None:
        check_groups(path)
