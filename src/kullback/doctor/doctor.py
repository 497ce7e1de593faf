"""`diagnose`: export, train with the user's command, evaluate, compare, name the likely bug."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from kullback.callbacks.fixed_rows import logits_of, open_rows
from kullback.doctor.command import check_command, model_folder, run_command
from kullback.doctor.diagnosis import findings_of
from kullback.doctor.folder import DATA, OUT, OUTPUT
from kullback.doctor.probes import averaging_curve, probe
from kullback.doctor.reference import reference_run
from kullback.doctor.source import LONGEST_ROW, doctor_source
from kullback.errors import InvalidValueError, MissingExtraError, RunError
from kullback.models.quiet import quiet_loggers, quiet_transformers
from kullback.results.doctor import Diagnosis
from kullback.runtime.decoding import decode_json, read_bounded
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import PASSES
from kullback.sources.catalogue import Source
from kullback.sources.export import export_source
from kullback.sources.floor import vocabulary_of
from kullback.text.special_tokens import EOS_ID

__all__ = ["FACTOR", "MARGIN", "TOKENS", "diagnose", "load_model"]

TOKENS = 100_000
VALIDATION = 10_000
FORMATS = ("text", "npy", "jsonl", "datasets", "parquet", "nanogpt")
# Documents that KL is measured on: its standard error is then about 1 % of it.
EVALUATED = 2_000
# Nats/token above the reference, or times its KL, that are still the same floor.
MARGIN, FACTOR = 0.02, 2.0


class _State(msgspec.Struct):
    """What is read of a ``trainer_state.json``."""

    epoch: float | None = None


def diagnose(
    command: Sequence[str],
    folder: Path,
    minutes: float = 10.0,
    tokens: int = TOKENS,
    passes: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Run the training command on an export in `folder`/data; its model must be in `folder`/out.

    The reference run reads the training split as often as the command did: `passes`, by default
    those of a ``trainer_state.json``, else 1.  Raises `InvalidValueError` for a bad argument and a
    model of another vocabulary, `RunError` where the command fails or writes no model.
    """
    progress = progress or Progress()
    check_command(command)
    if find_spec("transformers") is None:
        raise MissingExtraError("kullback doctor needs transformers: pip install 'kullback[hf]'")
    source = doctor_source()
    data, out = folder / DATA, folder / OUT
    export_source(source, tokens, data, seed, VALIDATION, FORMATS, progress=progress)
    progress.stage(f"running {command[0]}")
    seconds = run_command(command, data, out, minutes, folder / OUTPUT)
    saved = model_folder(out)
    progress.stage(f"evaluating {saved}")
    model = load_model(saved, source)
    rows = open_rows(source, EVALUATED, None, seed)
    evaluation = rows.evaluation(model, logits_of, saved.name)
    probes = probe(model, source.training, seed)
    if passes is None:
        passes, known_from = _passes(out)
    else:
        known_from = "--passes"
    progress.stage("a reference run on a model of this shape")
    train = source.training.sample(_documents(data), np.random.default_rng([seed, 4]))
    reference = reference_run(model.config, train, passes, rows, seed, progress)
    kl = evaluation.kl.value
    return Diagnosis(
        command=shlex.join(command),
        folder=str(saved),
        seconds=seconds,
        evaluation=evaluation,
        reference_kl=reference.kl,
        tokens_trained=reference.tokens,
        passes=passes,
        passes_from=known_from,
        reaches_floor=kl <= max(FACTOR * reference.kl, reference.kl + MARGIN),
        probes=probes,
        findings=findings_of(probes, averaging_curve(source.training)),
        notes=()
        if probes.open_nll is not None
        else ("this architecture takes no mask of its own: a leak while training is not seen",),
    )


def load_model(folder: Path, source: Source) -> Any:
    """The model in evaluation mode and float32; `RunError` and `InvalidValueError` as above."""
    vocabulary = source.training.vocabulary
    known = vocabulary_of(folder)
    if (folder / "tokenizer.json").exists() and (known is None or known[0] != vocabulary):
        raise InvalidValueError(
            f"the tokenizer in {folder} has another vocabulary than the data: train with the "
            "tokenizer.json of {data} and its ids"
        )
    try:
        with quiet_loggers(), quiet_transformers():
            import transformers

            # transformers has no types.
            factory: Any = transformers.AutoModelForCausalLM
            model, info = factory.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # safetensors and huggingface_hub have their own
        raise RunError(
            f"transformers cannot load {folder} ({_first_line(error)}): save the model with "
            "save_pretrained"
        ) from None
    if info["missing_keys"]:
        raise RunError(
            f"{folder} lacks the weights {', '.join(sorted(info['missing_keys'])[:5])}: save the "
            "whole model with save_pretrained"
        )
    if model.config.vocab_size < len(vocabulary):
        raise InvalidValueError(
            f"the model in {folder} has {model.config.vocab_size} ids, and the data has "
            f"{len(vocabulary)}: train with the tokenizer.json of {{data}} and its ids"
        )
    model = model.float().eval()
    try:
        with torch.no_grad():
            logits_of(model, torch.full((1, LONGEST_ROW), EOS_ID))
    except Exception as error:  # an IndexError or RuntimeError, as a rule
        raise InvalidValueError(
            f"the model in {folder} cannot read a row of {LONGEST_ROW} tokens "
            f"({_first_line(error)}): the longest document of the data has as many; give the model "
            "a context of at least so many"
        ) from None
    return model


def _passes(out: Path) -> tuple[float, str]:
    """How often the trainer read its data, and where that is known from."""
    states = [
        path
        for path in (out / "trainer_state.json", *out.glob("*/trainer_state.json"))
        if path.is_file()
    ]
    for path in sorted(states, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            epoch = decode_json(read_bounded(path), _State).epoch
        except (OSError, ValueError):  # of another program
            continue
        if epoch is not None and epoch in PASSES:
            return epoch, "trainer_state.json"
    return 1.0, "assumed (--passes)"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _documents(data: Path) -> int:
    """How many documents the training split has."""
    floor = decode_json(read_bounded(data / "floor.json"), dict[str, Any])
    return int(floor["splits"]["train"]["rows"])
