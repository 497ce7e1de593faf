"""The devices of this machine that llama.cpp uses in this process."""

from __future__ import annotations

import ctypes
from typing import Any

from kullback.errors import InvalidValueError
from kullback.models._llama_cpp_library import Library
from kullback.models.llama_cpp_options import LlamaCppOptions
from kullback.runtime.workers import local_processes

__all__ = ["ALL_LAYERS", "place"]

ALL_LAYERS = 1 << 16
NO_DEVICES = (ctypes.c_void_p * 1)(None)
# LLAMA_SPLIT_MODE_NONE of llama.h: all layers are on `main_gpu`.
NOT_SPLIT = 0


def place(
    parameters: Any, library: Library, name: str, options: LlamaCppOptions, device: str
) -> bool:
    """Set in `parameters`, llama.cpp's `llama_model_params`, where the layers are.

    Under torchrun they are on the GPU of this process's rank: every process would spread them over
    all GPUs.  Returns whether llama.cpp computes on a GPU.  Raises `InvalidValueError` where the
    library was built without one and `options` or `device` ask for it.
    """
    offloads = bool(library.c.llama_supports_gpu_offload())
    if (options.ngl or device == "cuda") and not offloads:
        what = f"ngl is {options.ngl}" if options.ngl else f"device (--device) is {device}"
        raise InvalidValueError(
            f"{what}: {library.name}, which runs {name}, was built without an accelerator; "
            "leave it out, or install a build for yours"
        )
    if not offloads or device == "cpu":
        parameters.n_gpu_layers = 0
        # It would multiply large matrices on a GPU also where that has no layer.
        parameters.devices = ctypes.addressof(NO_DEVICES)
        return False
    parameters.n_gpu_layers = ALL_LAYERS if options.ngl is None else options.ngl
    rank, count = local_processes()
    if count > 1:
        parameters.split_mode, parameters.main_gpu = NOT_SPLIT, rank
    return True
