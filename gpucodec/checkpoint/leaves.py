# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch and arrays of NumPy, seen alike."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import elements, memory
from ..dtypes import BY_NAME, DType, from_numpy
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .grid import Box

    Array = np.ndarray[Any, np.dtype[Any]]


def torch_module() -> Any:
    """PyTorch. Raises UnsupportedError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        message = "tensors need PyTorch, which is not installed: pip install 'gpucodec[torch]'"
        raise UnsupportedError(message) from error
    return torch


def is_torch(candidate: object) -> bool:
    """Whether this is a tensor of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(candidate, torch.Tensor)


@dataclass(frozen=True)
class Leaf:
    """A tensor of a state dict."""

    name: str
    path: tuple[Any, ...]
    """The keys and indices that lead to it."""
    source: Any
    dtype: DType
    shape: tuple[int, ...]
    library: str

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_view(self) -> bool:
        """Whether `chunk` needs no memory of its own, if chunks are stretches of memory."""
        if self.library == "numpy":
            return bool(self.source.flags.c_contiguous)
        return self.source.device.type == "cpu" and bool(self.source.is_contiguous())

    def chunk(self, box: Box) -> Array:
        """The elements of a box on the host, C-contiguous and little-endian."""
        part = self.source[box]
        if self.library == "torch":
            part = part.detach().cpu()
        raw, dtype, shape = elements(part)
        return raw.view(dtype.numpy).reshape(shape)


def leaf(name: str, path: tuple[Any, ...], source: Any) -> Leaf:
    """Describe a tensor or array.

    Raises
    ------
    UnsupportedError
        A tensor that is not simply elements in memory, or of a data type that is not encoded.

    """
    if isinstance(source, np.ndarray):
        return Leaf(name, path, source, from_numpy(source.dtype), source.shape, "numpy")
    refuse_special(name, source)
    label = str(source.dtype).removeprefix("torch.")
    if label not in BY_NAME:
        raise UnsupportedError(f"{name} has type {source.dtype}, which gpucodec does not encode")
    return Leaf(name, path, source, BY_NAME[label], tuple(source.shape), "torch")


def refuse_special(name: str, tensor: Any) -> None:
    """Refuse tensors that are more, or less, than elements in the memory of this process.

    Raises
    ------
    UnsupportedError
        With what to do instead.

    """
    torch = torch_module()
    names = {cls.__name__ for cls in type(tensor).__mro__}
    if names & {"DTensor", "ShardedTensor"}:
        raise UnsupportedError(
            f"{name} is a {type(tensor).__name__}, of which this process has a part: save it with "
            "torch.distributed.checkpoint and gpucodec.checkpoint.dcp.ZarrWriter"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsupportedError(f"{name} has layout {tensor.layout}, {tensor.dtype}: not dense")
    if tensor.is_meta or "UninitializedTensorMixin" in names:
        raise UnsupportedError(f"{name} has no elements: it is on the meta device or uninitialized")
    if hasattr(type(tensor), "__tensor_flatten__"):
        raise UnsupportedError(
            f"{name} is a {type(tensor).__name__}, made of several tensors: dequantize it, or save "
            "its parts (tensor.__tensor_flatten__() names them)"
        )


def identity(source: Any) -> Any:
    """Equal for tensors that are the same memory seen in the same way, else not."""
    if isinstance(source, np.ndarray):
        face = source.__array_interface__
        memory, place = face["data"][0], "numpy"
    else:
        memory, place = source.data_ptr(), str(source.device)
    if not memory or not prod(source.shape):
        return id(source)
    strides = source.strides if place == "numpy" else source.stride()
    signs = () if place == "numpy" else (source.is_conj(), source.is_neg())
    return place, memory, str(source.dtype), tuple(source.shape), tuple(strides), signs


def empty(dtype: DType, shape: tuple[int, ...], library: str) -> tuple[Any, Array]:
    """A new tensor or array on the host, and its memory as an array."""
    if library == "numpy":
        array = np.empty(shape, dtype.numpy)
        return array, array
    torch = torch_module()
    tensor = torch.empty(shape, dtype=torch_type(dtype))
    return tensor, memory_of(tensor, dtype)


def memory_of(tensor: Any, dtype: DType) -> Array:
    """A contiguous tensor on the host as an array that shares its memory."""
    return memory(tensor).view(dtype.numpy).reshape(tuple(tensor.shape))


def torch_type(dtype: DType) -> Any:
    """The data type of PyTorch. Raises UnsupportedError if this version has none."""
    found = getattr(torch_module(), dtype.name, None)
    if found is None:
        raise UnsupportedError(f"this version of PyTorch has no data type {dtype.name}")
    return found
