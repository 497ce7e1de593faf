"""`kullback.compare`: which comparison the operands allow, and which options apply to it.

================================  ==================================================
among the operands                what is compared
================================  ==================================================
a logits file of llama.cpp        with another, or with a model
token records (.parquet)          with others, a recording, or a model: no KL
recordings alone                  two of them, without reading the text again
a top-k recording                 with a model: bounds of the KL
exact recordings and models       everything (`kullback.comparison.models`)
================================  ==================================================

An option that was given and cannot apply is an error: none is ignored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace

from kullback.comparison.by_bytes import compare_by_bytes
from kullback.comparison.kinds import (
    Kind,
    check_distinct,
    check_models_exist,
    is_recorded,
    kinds_of,
    labels_of,
    place_of,
    protocol_of_files,
    recorded_parts,
)
from kullback.comparison.logits_files import compare_logits_files, compare_logits_with_model
from kullback.comparison.logits_tokens import check_cut
from kullback.comparison.models import Candidate, Task, compare_models
from kullback.comparison.operands import ModelOperand, RecordingOperand, check_is_text
from kullback.comparison.recordings import compare_recorded
from kullback.comparison.request import Request, as_tuple, check_values
from kullback.comparison.token_records import TokenRows, compare_records
from kullback.errors import InvalidValueError
from kullback.evaluation.memory_remedies import memory_remedies
from kullback.evaluation.options import Model, PassOptions, model_name, named_paths
from kullback.models.interface import TextModel
from kullback.models.llama_cpp import LlamaCppModel
from kullback.models.llama_cpp_options import Backend, split_gguf
from kullback.models.load import context_alone, load_sized, tokenizer_alone
from kullback.models.placement import DeviceMap
from kullback.models.quantization import Scheme
from kullback.models.quantized import SizedModel, check_scheme_fits, split_scheme
from kullback.results.comparison import Comparison
from kullback.results.evaluation import NonZeroRank
from kullback.runtime.byte_sizes import parse_byte_size
from kullback.runtime.progress import Progress
from kullback.runtime.workers import ProcessGroup, process_group
from kullback.text.documents import Document
from kullback.text.inputs import Text
from kullback.text.protocol import Bos, Preset, Protocol
from kullback.text.special_spellings import Spelled

__all__ = ["compare"]

TOLERANCE = 0.01
NO_TEXT = "text is missing (--text FILE): name the text on which the models are compared"
NO_CANDIDATE = "there is no candidate: name a model or a file, or schemes (--schemes)"


def compare(
    reference: Model,
    candidates: Model | Sequence[Model] = (),
    text: Text | None = None,
    *,
    schemes: str | Sequence[str] = (),
    noise_floor: bool = False,
    sensitivity: bool = False,
    by_bytes: bool = False,
    tolerance: float | None = None,
    budget: int | str | None = None,
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
    trust_remote_code: bool | None = None,
    backend: Backend | None = None,
    stream: bool = False,
    passages: bool = True,
    progress: Progress | None = None,
    command: str = "",
) -> Comparison | NonZeroRank:
    """How far the candidates are from the reference on `text`: KL, ΔCE, agreement, ranking.

    An operand is a model as for `kullback.evaluate` (``MODEL@SCHEME`` quantises it), or a file that
    `kullback.record` or ``llama-perplexity --kl-divergence-base`` wrote.  `schemes` are
    quantisations of the reference, as further candidates.  `noise_floor` measures the reference
    against itself, `sensitivity` quantises one group of layers at a time, `by_bytes` compares
    models whose tokenizers differ.  `tolerance` is the ΔCE in nats/token within which the smallest
    candidate is chosen (0.01), `budget` the bytes ("90MB") within which the nearest is.  The
    protocol of a recorded file is adopted where none is given.  The other options, one for each
    part of the protocol and the arithmetic, are those of `kullback.evaluate`.  Under torchrun the
    processes share the windows that models and exact recordings are compared on, and non-zero ranks
    get a `NonZeroRank`.

    Raises `InvalidValueError` where the operands cannot be compared, an option cannot apply, or
    text, tokenizer or protocol differ, before any model is loaded where that can be known.
    """
    request = Request(
        reference=reference,
        candidates=as_tuple(candidates),
        text=text,
        schemes=(schemes,) if isinstance(schemes, str) else tuple(schemes),
        noise_floor=noise_floor,
        sensitivity=sensitivity,
        by_bytes=by_bytes,
        tolerance=tolerance,
        budget=None if budget is None else parse_byte_size("budget (--budget)", budget),
        passages=passages,
        options=PassOptions(
            field=field, protocol=protocol, window=window, stride=stride, bos=bos, joined=joined,
            special_tokens=special_tokens, dtype=dtype, device=device, device_map=device_map,
            trust_remote_code=trust_remote_code or None, backend=backend,
            stream=stream or None,
        ),
        progress=progress or Progress(),
    )  # fmt: skip
    check_values(request)
    kinds = kinds_of(request.operands)
    if request.text is not None:  # that it is missing is said first
        check_models_exist(request.operands, kinds)
    with process_group() as processes:
        request.options.check_processes(processes)
        result = _dispatch(request, kinds, processes)
    return result if isinstance(result, NonZeroRank) else replace(result, command=command)


def _dispatch(
    request: Request, kinds: list[Kind], processes: ProcessGroup
) -> Comparison | NonZeroRank:
    """The comparison that the kinds of operands allow; only that of models is shared."""
    models_wanted = bool(request.schemes or request.sensitivity or request.noise_floor)
    stored = bool({"records", "logits", "top-k"} & set(kinds)) or (
        len(kinds) > 1 and "model" not in kinds
    )
    if not (request.by_bytes or stored):
        return _models(request, kinds, processes)
    if not processes.is_rank_zero:
        return NonZeroRank(rank=processes.rank, world_size=processes.world_size)
    if not request.candidates:
        raise InvalidValueError(NO_CANDIDATE)
    choosing = request.tolerance is not None or request.budget is not None
    if len(request.candidates) != 1 or models_wanted or choosing:
        raise InvalidValueError(
            "token records, top-k recordings, logits files, two recordings and --by-bytes compare "
            "one candidate, without --schemes, --sensitivity, --noise-floor, --tolerance and "
            "--budget: these need the models themselves"
        )
    if request.by_bytes:
        return _by_bytes(request, kinds)
    if "model" not in kinds:
        _check_nothing_is_read(request, text="logits" in kinds)
    elif request.text is None and "logits" not in kinds:
        raise InvalidValueError(
            "text is missing (--text FILE): the model must read what was recorded"
        )
    if "logits" in kinds:
        return _logits(request, kinds)
    cut, documents = _checked_text(request, kinds)
    if "records" in kinds:
        return _records(request, kinds, documents, cut)
    reference, candidate = (_open(operand, request) for operand in request.operands)
    first, second = labels_of(request.operands, kinds)
    return compare_recorded(reference, candidate, documents, cut, request.progress, (first, second))


def _check_nothing_is_read(request: Request, text: bool) -> None:
    """Raise `InvalidValueError` for an option that says how to read, or to compute."""
    given = [flag for flag in request.options.given if flag != "--field" or request.text is None]
    if text and request.text is not None:
        given.insert(0, "--text")
    if given:
        raise InvalidValueError(
            f"{', '.join(given)}: both operands are files, and no model reads a text here; leave "
            f"{'that' if len(given) == 1 else 'these'} out"
        )


def _checked_text(request: Request, kinds: list[Kind]) -> tuple[Protocol, list[Document]]:
    """Protocol and documents, checked against what the files say before any model is loaded."""
    cut = protocol_of_files(request.operands, kinds, request.options)
    if request.text is None:
        return cut, []
    documents = request.options.documents(request.text, request.progress)
    for operand, kind in zip(request.operands, kinds, strict=True):
        parts = recorded_parts(operand, kind)
        if parts:
            check_is_text(model_name(operand), parts, documents)
    return cut, documents


def _open(operand: Model, request: Request) -> ModelOperand | RecordingOperand:
    """The recording or the model."""
    if isinstance(operand, str | Path) and is_recorded(Path(operand)):
        return RecordingOperand.open(Path(operand))
    request.progress.stage(f"loading {model_name(operand)}")
    return ModelOperand(_load(operand, request))


def _load(operand: Model, request: Request) -> SizedModel:
    """A model; where it does not fit, options that the comparison allows are named."""
    asked = ("schemes", "noise_floor", "sensitivity")
    given = vars(request.options) | {name: getattr(request, name) for name in asked}
    remedy = memory_remedies(request.operands, given)
    return request.options.load(operand, progress=request.progress, remedy=remedy)


def _by_bytes(request: Request, kinds: list[Kind]) -> Comparison:
    if set(kinds) != {"model"}:
        raise InvalidValueError("--by-bytes (by_bytes) needs two models that read the text now")
    if request.text is None:
        raise InvalidValueError(NO_TEXT)
    options = request.options
    cut, documents = options.to_protocol(), options.documents(request.text, request.progress)
    models = []
    for operand in request.operands:
        request.progress.stage(f"loading {model_name(operand)}")
        models.append(_load(operand, request))
    first, second = models
    return compare_by_bytes(
        first.model, second.model, documents, cut, request.progress,
        (first.size_bytes, second.size_bytes),
    )  # fmt: skip


def _logits(request: Request, kinds: list[Kind]) -> Comparison:
    """A logits file of llama.cpp, and another or a model."""
    base, candidate = Path(str(request.reference)), request.candidates[0]
    if kinds[1] == "logits":
        return compare_logits_files(base, Path(str(candidate)), request.progress)
    options = request.options
    check_cut(options, has_text=request.text is not None)
    if options.stream:
        raise InvalidValueError("stream (--stream) does not go with a logits file: leave it out")
    documents = [] if request.text is None else options.documents(request.text, request.progress)
    operand = _open(candidate, request)
    assert isinstance(operand, ModelOperand)
    return compare_logits_with_model(
        base, operand, model_name(candidate), options.bos or "auto", documents, request.progress,
        options.special_tokens,
    )  # fmt: skip


def _records(
    request: Request, kinds: list[Kind], documents: list[Document], cut: Protocol
) -> Comparison:
    # A file first: what is wrong with it, or with the text, is found before a model reads.
    order = (1, 0) if kinds[0] == "model" else (0, 1)
    rows: dict[int, TokenRows] = {}
    for i in order:
        name = request.operands[i]
        if kinds[i] == "records":
            rows[i] = TokenRows.of_file(Path(str(name)))
            continue
        operand = _open(name, request)
        if isinstance(operand, RecordingOperand):
            rows[i] = TokenRows.of_recording(operand)
            continue
        rows[i] = TokenRows.of_model(
            operand.model, documents, cut, request.progress, rows[order[0]], operand.size_bytes
        )
    return compare_records(rows[0], rows[1], documents)


def _models(
    request: Request, kinds: list[Kind], processes: ProcessGroup
) -> Comparison | NonZeroRank:
    """Models and exact recordings."""
    if request.text is None:
        raise InvalidValueError(NO_TEXT)
    candidates, scheme = _with_schemes(request)
    cut, documents = _checked_text(request, kinds)
    request.progress.plan(_stages(request, candidates, kinds))
    labels = labels_of([request.reference, *candidates], kinds)
    opened = [
        Candidate(
            label,
            partial(_open, model, request),
            tokenizer_alone(model, request.options.backend),
            context_alone(model),
        )
        for label, model in zip(labels[1:], candidates, strict=True)
    ]
    reference = _open(request.reference, request)
    _check_schemes_fit(request.reference, reference.model, candidates)
    task = Task(
        reference_name=labels[0],
        noise=request.noise_floor,
        noise_dtype=_in_bfloat16(request, reference.model, processes),
        sensitivity=scheme,
        tolerance=TOLERANCE if request.tolerance is None else request.tolerance,
        budget=request.budget,
        passages=request.passages,
    )
    return compare_models(reference, opened, documents, cut, task, request.progress, processes)


def _with_schemes(request: Request) -> tuple[list[Model], Scheme | None]:
    """All candidates, and the scheme to try on single layers where that was asked for.

    Raises `InvalidValueError` where schemes or sensitivity do not fit the reference, and where a
    candidate is named twice.
    """
    named = isinstance(request.reference, str | Path)
    base, own = split_scheme(str(request.reference)) if named else ("", None)
    if request.schemes and not named:
        raise InvalidValueError(
            "schemes (--schemes) quantise the reference by its name: give its name or folder"
        )
    if request.schemes and own is not None:
        raise InvalidValueError(
            f"schemes (--schemes) quantise the reference, and {request.reference} is quantised "
            f"already: give {base}"
        )
    if request.schemes and is_recorded(Path(base)):
        raise InvalidValueError(
            f"schemes (--schemes) quantise the reference, and {base} is a recording: name the "
            "quantised models, MODEL@SCHEME, as candidates"
        )
    file, backend, _ = split_gguf(base)
    if backend == "llama.cpp":  # its options are not about the weights, which the schemes quantise
        base = file
    candidates = [*request.candidates, *(f"{base}@{name}" for name in request.schemes)]
    if not candidates:
        raise InvalidValueError(NO_CANDIDATE)
    check_distinct(candidates)
    if not request.sensitivity:
        return candidates, None
    first = candidates[0]
    _, scheme = split_scheme(str(first)) if isinstance(first, str | Path) else ("", None)
    if scheme is None or own is not None:
        raise InvalidValueError(
            "sensitivity (--sensitivity) needs a scheme to apply to the reference's layers: give "
            "schemes (--schemes NAME), and a reference that is not quantised"
        )
    return candidates, scheme


def _check_schemes_fit(
    reference: Model, model: TextModel | None, candidates: Sequence[Model]
) -> None:
    """Raise `InvalidValueError` for a quantisation of the reference that its layers do not allow.

    A recording says nothing of layers, nor does the reference of those of other models.
    """
    if model is None or not isinstance(reference, str | Path):
        return
    base, _ = split_scheme(str(reference))
    for name in named_paths(*candidates):
        other, scheme = split_scheme(str(name))
        if scheme is not None and place_of(other) == place_of(base):
            check_scheme_fits(model, scheme)


def _in_bfloat16(
    request: Request, model: TextModel | None, processes: ProcessGroup
) -> list[Callable[[], TextModel | None]]:
    """Ways to load the reference in bfloat16; none where its noise there is not defined.

    A large one is read layer by layer where that can be done, and by one process.
    """
    operand, options = request.reference, request.options
    # llama.cpp computes in the types of the file, whatever the type of its logits.
    if model is None or model.dtype != torch.float32 or isinstance(model, LlamaCppModel):
        return []
    if isinstance(operand, tuple):
        transformer, tokenizer = operand
        return [lambda: load_sized((copy.deepcopy(transformer).bfloat16(), tokenizer)).model]
    if not isinstance(operand, str | Path) or split_scheme(str(operand))[1] is not None:
        return []
    ways: list[Callable[[], TextModel | None]] = [
        partial(options.layer_by_layer, operand, model, torch.bfloat16, request.progress),
        lambda: options.load(operand, torch.bfloat16).model,
    ]
    return ways if processes.world_size == 1 else ways[1:]


def _stages(request: Request, candidates: Sequence[Model], kinds: Sequence[Kind]) -> int:
    """How many stages there will be: loading and comparing each, then what was asked for beside."""
    loaded = sum(kind == "model" for kind in kinds) + len(request.schemes)
    loaded *= 2 if request.options.stream else 1  # and then passed through
    noise = 2 if request.noise_floor else 0
    return loaded + len(candidates) + noise + request.sensitivity
