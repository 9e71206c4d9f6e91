# SPDX-License-Identifier: Apache-2.0
"""Arrays on a GPU, whatever library they are of: CuPy, torch, or any that speaks a protocol."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import is_on_gpu
from ..dtypes import BY_NAME, DType, from_numpy
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .device import Device


@dataclass
class DeviceArray:
    """A contiguous array in device memory."""

    address: int
    n_bytes: int
    shape: tuple[int, ...]
    dtype: DType | None
    """None if the format has no such type; bytes are bytes all the same."""
    type_name: str
    index: int
    """Number of the device."""
    stream: int | None
    """Where the array is made, if its owner said so."""
    owner: Any
    """What keeps the memory, and what results should be like."""

    def require_dtype(self) -> DType:
        """The data type, or UnsupportedError."""
        if self.dtype is None:
            message = f"the format has no type {self.type_name}; encode a view as uint8 instead"
            raise UnsupportedError(message)
        return self.dtype


def _is_torch(candidate: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(candidate, torch.Tensor)


def _of_torch(tensor: Any) -> DeviceArray:
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        message = f"tensor has layout {tensor.layout}; only strided tensors can be encoded"
        raise UnsupportedError(message)
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    n_bytes = plain.numel() * plain.element_size()
    shape, index = tuple(plain.shape), plain.device.index
    return DeviceArray(
        plain.data_ptr(), n_bytes, shape, BY_NAME.get(name), name, index, stream, plain
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    expected = itemsize
    if strides is None or 0 in shape:
        return True
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True


def _of_interface(source: Any) -> DeviceArray:
    interface = source.__cuda_array_interface__
    kind = np.dtype(getattr(source, "dtype", None) or interface["typestr"])
    shape = tuple(interface["shape"])
    if not _is_contiguous(shape, interface.get("strides"), kind.itemsize):
        if "cupy" not in sys.modules:
            message = f"array of shape {shape} has strides {interface['strides']}: not contiguous"
            raise UnsupportedError(message)
        cupy = sys.modules["cupy"]
        return _of_interface(cupy.ascontiguousarray(cupy.asarray(source)))
    if kind.byteorder == ">":
        message = f"array has type {kind}: on a GPU only little-endian arrays can be encoded"
        raise UnsupportedError(message)
    try:
        dtype = from_numpy(kind)
    except UnsupportedError:
        dtype = None
    index = getattr(getattr(source, "device", None), "id", 0)
    address, n_bytes = interface["data"][0], prod(shape) * kind.itemsize
    return DeviceArray(
        address, n_bytes, shape, dtype, str(kind), index, interface.get("stream"), source
    )


def view(source: Any) -> DeviceArray:
    """What is where of an array on a GPU; a contiguous copy of it if it is not contiguous.

    Raises
    ------
    UnsupportedError
        The array is big-endian, sparse, or of a library that CuPy would have to read.

    """
    assert is_on_gpu(source), type(source)
    if _is_torch(source):
        return _of_torch(source)
    if hasattr(source, "__cuda_array_interface__"):
        return _of_interface(source)
    try:
        import cupy
    except ImportError as error:
        message = f"reading {type(source).__name__} on a GPU needs CuPy ({error})"
        raise UnsupportedError(message) from error
    return _of_interface(cupy.from_dlpack(source))


def target(out: Any, n_bytes: int) -> DeviceArray:
    """`view` of an array that is written: it must be contiguous and have this size.

    Raises
    ------
    ValueError
        It is read-only, not contiguous, or of another size.

    """
    found = view(out)
    if _is_torch(out):
        copied = found.address != out.data_ptr()
    else:
        interface = getattr(out, "__cuda_array_interface__", {"data": (found.address, False)})
        copied = found.address != interface["data"][0]
        if interface["data"][1]:
            message = "out is read-only"
            raise ValueError(message)
    if copied and found.n_bytes:
        message = "out is not contiguous"
        raise ValueError(message)
    if found.n_bytes != n_bytes:
        message = f"out has {found.n_bytes} bytes, the frame decodes to {n_bytes}"
        raise ValueError(message)
    return found


def new(device: Device, like: Any, dtype: DType, shape: tuple[int, ...]) -> Any:
    """A new array: of torch if `like` is a tensor, else of the device's library."""
    if _is_torch(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device=like.device)
    return device.array(dtype, shape)
