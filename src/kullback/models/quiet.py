"""Libraries that load and quantise models, without their log messages and progress bars.

Each context manager puts back the levels and settings that it found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

from kullback.runtime.progress import Steps

__all__ = ["no_steps", "quiet_loggers", "quiet_transformers"]

# At import, torchao warns that its CUDA libraries do not load on a CPU, and torch that torchao
# registers its enums in a deprecated way; huggingface_hub logs each attempt to reach the hub, and
# accelerate which weights are in host memory or on the disk.
LOGGERS = ("torchao", "torch.utils._pytree", "huggingface_hub", "accelerate.big_modeling")


def no_steps(done: int, total: int) -> None:
    """Progress that is not shown."""


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """No log messages of torchao and huggingface_hub below errors that stop the program."""
    if find_spec("huggingface_hub"):
        # Imported inside the block, it would set its level anew.
        import huggingface_hub.utils.logging  # noqa: F401
    loggers = [logging.getLogger(name) for name in LOGGERS]
    # A new level clears what thousands of loggers have cached: not inside another such block.
    levels = [(each, each.level) for each in loggers if each.level != logging.CRITICAL]
    for logger, _ in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


@contextmanager
def quiet_transformers(progress: Steps = no_steps, gguf: bool = False) -> Iterator[None]:
    """No warnings and progress bars of transformers; `progress` is told of its loops instead.

    `gguf` is for weights of .gguf files, whose loader takes a second to import.  Where transformers
    is not installed nothing is done.
    """
    if not find_spec("transformers"):
        yield
        return
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    def counted(create: Callable[..., Any], arguments: tuple[Any, ...], settings: Any) -> Any:
        if not arguments:
            return create(**settings)
        iterable, *rest = arguments
        return create(_counted(iterable, progress), *rest, **settings)

    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    hub_bars = not are_progress_bars_disabled()
    transformers_logging.set_verbosity(logging.ERROR)
    if bars or hub_bars:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # theirs
    hook = transformers_logging.set_tqdm_hook(counted)
    try:
        with _quiet_gguf() if gguf else nullcontext():
            yield
    finally:
        transformers_logging.set_tqdm_hook(hook)
        transformers_logging.set_verbosity(level)
        if bars:
            # This enables the bars of huggingface_hub, too.
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call] # theirs
        if bars and not hub_bars:
            disable_progress_bars()


@contextmanager
def _quiet_gguf() -> Iterator[None]:
    """The loader of GGUF files draws a bar that follows no setting: not here."""
    from transformers import modeling_gguf_pytorch_utils as loader

    bar = loader.tqdm  # type: ignore[attr-defined] # theirs
    loader.tqdm = partial(bar, disable=True)  # type: ignore[attr-defined] # theirs
    try:
        yield
    finally:
        loader.tqdm = bar  # type: ignore[attr-defined] # theirs


def _counted(iterable: Iterable[Any], progress: Steps) -> Iterable[Any]:
    """`iterable`, telling `progress` of each element; as it is where it has no length."""
    try:
        total = len(iterable)  # type: ignore[arg-type] # this is what is tried
    except TypeError:
        return iterable

    def elements() -> Iterator[Any]:
        for done, element in enumerate(iterable):
            progress(done, total)
            yield element
        progress(total, total)

    return elements()
