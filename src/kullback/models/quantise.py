"""`kullback.quantise`: a quantised copy of a model as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

from kullback.models.quantization import Scheme
from kullback.models.quantized_folder import save_quantised
from kullback.results.quantised import QuantisedFolder
from kullback.runtime.progress import Progress

__all__ = ["quantise"]


def quantise(
    model: str | Path,
    scheme: str,
    output: str | Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> QuantisedFolder:
    """Quantise the linear layers of `model`, a folder, hub name or .gguf file, into `output`.

    `scheme` is a name such as ``int8``, ``int4-g32``, ``fp8`` or ``bf16``.  The folder holds the
    model that ``MODEL@SCHEME`` is.  Raises `InvalidValueError` where the folder is not new or
    empty, the model cannot be loaded or the scheme is unknown or does not fit, `RunError` where the
    folder is in use or cannot be written, `MissingExtraError` without transformers or torchao.
    """
    return save_quantised(model, Scheme.parse(scheme), output, trust_remote_code, progress)
