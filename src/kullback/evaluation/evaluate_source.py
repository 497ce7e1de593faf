"""`kullback.evaluate_source`: one model on a source whose entropy is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kullback.errors import InvalidValueError, RunError
from kullback.evaluation.on_source import evaluate_on_process, evaluate_parts
from kullback.evaluation.options import Model, PassOptions, model_name
from kullback.models.devices import check_float32_products
from kullback.models.interface import LanguageModel
from kullback.models.mini_gpt import GPTModel
from kullback.models.quantized import split_scheme
from kullback.results.evaluation import NonZeroRank
from kullback.results.source import SourceEvaluation
from kullback.runtime.progress import Progress
from kullback.runtime.ranges import LENGTHS, SEEDS, SENTENCES
from kullback.runtime.workers import process_group
from kullback.sources.catalogue import AnySource, Source, source_from_spec
from kullback.sources.facts import window_of
from kullback.sources.finding import find_source, open_named
from kullback.sources.floor import vocabulary_of
from kullback.sources.process import Process
from kullback.training.description import read_description

__all__ = ["evaluate_source"]


def evaluate_source(
    model: Model,
    source: str | Path | Source | Process | None = None,
    sentences: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    window: int | None = None,
) -> SourceEvaluation | NonZeroRank:
    """Cross-entropy = entropy + KL(truth‖model) of `model` on a source, by slot and by position.

    `model` is a run folder, or any model whose vocabulary is the source's, such as one that was
    trained on what `kullback source export` writes.  `source` is a name, a grammar, process or text
    file, the folder or ``floor.json`` of an export, or an opened source; by default what a run was
    trained on, and for other folders the source whose tokenizer they have.  The sums are over all
    prefixes where that is feasible, else, or where a number of `sentences` is given, over a sample
    drawn with `seed`.  Of a process, sentences are windows of `window` symbols (default: those of
    the export, or 64), the first of which is given.  Under torchrun the processes share the
    prefixes, and non-zero ranks get a `NonZeroRank`.

    Raises `InvalidValueError` where the source is unknown or has another vocabulary, `RunError` for
    a damaged run folder.
    """
    progress = progress or Progress()
    SEEDS.check("seed", seed)
    if sentences is not None:
        SENTENCES.check("sentences", sentences)
    if window is not None:
        LENGTHS.check("window", window)
    opened, exported = _source(model, source, window)
    if isinstance(model, str) and split_scheme(model)[1] is not None:
        raise InvalidValueError(
            f"{model}: on a source no scheme is applied; save the quantised model first (kullback "
            "quantise), or give a text (--text FILE)"
        )
    window = window_of(opened, exported if window is None else window, or_text=True)
    with process_group() as processes:
        progress.stage(f"loading {model_name(model)}")
        loaded = _load(model)
        if (device := getattr(loaded, "device", None)) is not None:
            check_float32_products(device)
        _note_other_words(model, loaded, opened, progress)
        padded = _is_padded(model, loaded, opened, progress)
        if not isinstance(opened, Process):
            return evaluate_parts(loaded, opened, sentences, seed, progress, padded, processes)
        context = getattr(loaded, "context", None)
        if context is not None and context < window - 1:
            progress.note(
                f"{loaded.name} reads {context} tokens: windows have {context + 1} symbols, "
                f"not {window}"
            )
            window = context + 1
        return evaluate_on_process(
            loaded, opened, window, sentences, seed, progress, padded, processes
        )


def _source(
    model: Model, source: str | Path | Source | Process | None, window: int | None
) -> tuple[AnySource, int | None]:
    """The source, and the symbols of the windows of its export, where no `window` is given."""
    if isinstance(source, Source | Process):
        return source, None
    if source is not None:
        return open_named(str(source))
    folder = Path(model) if isinstance(model, str | Path) else None
    if folder is None or not (folder / "training.json").exists():
        is_model = folder is None or (folder / "config.json").exists() or folder.suffix == ".gguf"
        known = None if folder is None else find_source(folder, window)
        if known is not None:
            return known
        if is_model:
            raise InvalidValueError(
                f"{model_name(model)} was not trained by kullback on a source, and its tokenizer "
                "is that of no export near it: name a text (--text FILE), a source or the folder "
                "of an export (--source NAME) to evaluate it on"
            )
    assert folder is not None
    data = read_description(folder).data
    if "source" not in data:
        raise InvalidValueError(
            f"{folder} was trained on a text, whose entropy is unknown: name a source "
            "(--source) or a text (--text)"
        )
    return _source_of_run(folder, data), None


def _source_of_run(folder: Path, data: Mapping[str, Any]) -> Source:
    """What a run was trained on; `RunError` where it is not described, or has changed since."""
    try:
        source = source_from_spec(data["source"])
    except (KeyError, TypeError) as error:  # a description that was edited
        missing = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RunError(
            f"{folder / 'training.json'} does not describe the source of its run: {missing}; "
            "restore it, or name the source to evaluate on (--source NAME)"
        ) from None
    if source.fingerprint() != data["fingerprint"]:
        raise RunError(
            f"{source.name}, which {folder} was trained on, has changed since (its fingerprint "
            "differs): restore it, or name the source to evaluate on (--source NAME)"
        )
    return source


def _note_other_words(
    model: Model, loaded: LanguageModel, source: AnySource, progress: Progress
) -> None:
    """Note where a model's tokenizer has another word than the source for one of its ids."""
    known = vocabulary_of(Path(model)) if isinstance(model, str | Path) else None
    if known is None:
        return
    for id_, (theirs, word) in enumerate(zip(known[0], _vocabulary(source), strict=False)):
        if theirs != word:
            progress.note(
                f"the token {id_} is {theirs!r} in the tokenizer of {loaded.name} and {word!r} in "
                f"{source.name}: its ids are measured as those of {source.name}"
            )
            return


def _vocabulary(source: AnySource) -> Sequence[str]:
    return source.vocabulary if isinstance(source, Process) else source.training.vocabulary


def _is_padded(model: Model, loaded: LanguageModel, source: AnySource, progress: Progress) -> bool:
    """Whether a model has ids beyond those of the source's tokenizer, which it has; that is noted.

    Trainers pad the embeddings to a multiple of 8, 64 or 128.
    """
    own = _vocabulary(source)
    more = loaded.vocabulary_size - len(own)
    if more <= 0 or not isinstance(model, str | Path):
        return False
    known = vocabulary_of(Path(model))
    if known is None or known[0] != own:
        return False
    progress.note(
        f"{loaded.name} has {more:,} ids without a token: what it gives them counts as KL"
    )
    return True


def _load(model: Model) -> LanguageModel:
    """A mini-GPT of a run folder, or a model that transformers loads."""
    if isinstance(model, str | Path) and not _is_foreign(Path(model)):
        return GPTModel.load(Path(model))
    return PassOptions().load(model, remedy="use a machine with more memory").model


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds a model that is not one of our runs."""
    if folder.suffix == ".gguf":
        return True
    return (folder / "config.json").exists() and not (folder / "training.json").exists()
