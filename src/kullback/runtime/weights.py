"""Memory, bytes and fingerprints of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["allocate_on_cpu", "tensor_bytes", "weights_fingerprint", "weights_sample"]

# Of a tensor on a GPU that are in host memory at a time.
BYTES_AT_ONCE = 64 << 20
# Numbers of each tensor in a sample.
SAMPLED = 8


def allocate_on_cpu(model: nn.Module) -> None:
    """Replace the parameters of a model on "meta" by some with memory, whose numbers are not set.

    Unlike `Module.to_empty` it does not import sympy, which takes most of a second.
    """
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
            module.register_parameter(name, nn.Parameter(empty, weight.requires_grad))


def tensor_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor's numbers, in the order of its rows.

    >>> bytes(tensor_bytes(torch.tensor([1, 2], dtype=torch.int16)))
    b'\\x01\\x00\\x02\\x00'
    """
    # As bytes, because NumPy has no bfloat16.
    flat = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data


def weights_fingerprint(
    weights: Mapping[str, Tensor],
    read: Callable[[str, Tensor], Tensor] = lambda name, weight: weight,
    tied: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 over the name, type, shape and bytes of every tensor, in the order of the names.

    Tied weights are hashed once: a later name refers to the first one.  A quantised tensor counts
    as the tensors that it is made of.  `read` gives the numbers of a "meta" tensor, one at a time,
    and `tied` names which of these are others.

    >>> weights_fingerprint({"a": torch.zeros(2)}) == weights_fingerprint({"a": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.sha256()
    first_names: dict[tuple[object, ...], str] = {}
    for name, weight in sorted(_inner_tensors(weights).items()):
        place = (tied or {}).get(name, name) if weight.is_meta else weight.data_ptr()
        memory = (place, weight.shape, weight.stride(), weight.dtype)
        first_name = first_names.setdefault(memory, name)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        if first_name != name and weight.numel():
            digest.update(f"is {first_name}".encode())
            continue
        for piece in _pieces(read(name, weight)):
            digest.update(piece)
    return digest.hexdigest()


def weights_sample(weights: Mapping[str, Tensor]) -> str:
    """A hash of the names, types and shapes of the tensors, and of a few numbers of each.

    Other models have another one; it takes milliseconds, and is no fingerprint.

    >>> weights_sample({"a": torch.zeros(2)}) == weights_sample({"a": torch.ones(2)})
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(_inner_tensors(weights).items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        if weight.numel() and not weight.is_meta and weight.is_contiguous():
            flat = weight.detach().view(-1)
            digest.update(tensor_bytes(flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED]))
    return digest.hexdigest()


def _pieces(weight: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor; from a GPU a part at a time, beside what that computes."""
    if weight.device.type != "cuda" or not weight.is_contiguous():
        yield tensor_bytes(weight)
        return
    stream = torch.cuda.Stream(weight.device)  # type: ignore[no-untyped-call] # theirs
    stream.wait_stream(torch.cuda.current_stream(weight.device))
    flat = weight.detach().view(-1).view(torch.uint8)
    for start in range(0, len(flat), BYTES_AT_ONCE):
        with torch.cuda.stream(stream):
            part = flat[start : start + BYTES_AT_ONCE].cpu()
        yield part.numpy().data


def _inner_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with tensors that wrap others (quantised ones) replaced by what they wrap."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if hasattr(weight, "__tensor_flatten__"):
            parts, _ = weight.__tensor_flatten__()
            inner = {f"{name}.{part}": getattr(weight, part) for part in parts}
            tensors.update(_inner_tensors(inner))
        else:
            tensors[name] = weight
    return tensors
