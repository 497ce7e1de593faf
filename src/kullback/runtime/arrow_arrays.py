"""Arrow arrays of the memory of numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

__all__ = ["arrow_array"]


def arrow_array(values: Shaped[np.ndarray, "m ..."], kind: pa.DataType) -> pa.Array:
    """Numbers in an Arrow type of their own size; rows of them in a list of fixed size.

    Without pandas, which `pyarrow.array` imports: Ctrl-C in an import ends the process, and rows
    that are to be kept would be lost.

    >>> arrow_array(np.arange(3, dtype=np.int32), pa.int32()).to_pylist()
    [0, 1, 2]
    """
    is_list = pa.types.is_fixed_size_list(kind)
    number = kind.value_type if is_list else kind
    assert number.bit_width == 8 * values.itemsize, "Arrow's booleans are bits"
    buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
    flat = pa.Array.from_buffers(number, values.size, buffers)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind) if is_list else flat
