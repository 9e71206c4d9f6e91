# SPDX-License-Identifier: Apache-2.0
"""Arrays on a GPU, whatever library they are of: CuPy, torch, or any that speaks a protocol."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import is_on_gpu
from ..dtypes import BY_NAME, DType, from_numpy
from ..errors import UnsupportedError
from . import dlpack

if TYPE_CHECKING:
    from .device import Device


@dataclass
class DeviceArray:
    """An array in device memory, contiguous unless it has strides."""

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
    strides: tuple[int, ...] | None = None
    """In bytes, if it is not contiguous."""
    readonly: bool = False

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


def _uneven(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int
) -> tuple[int, ...] | None:
    """The strides, unless they say that the array is contiguous in C order."""
    expected = itemsize
    if strides is None or 0 in shape:
        return None
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return strides
        expected *= n
    return None


def _index(source: Any, address: int) -> int:
    """The device of an address: as the array says, or the driver."""
    told = getattr(getattr(source, "device", None), "id", None)
    if told is None and "cupy" in sys.modules and address:
        return int(sys.modules["cupy"].cuda.runtime.pointerGetAttributes(address).device)
    return told or 0


def _of_interface(source: Any) -> DeviceArray:
    interface = source.__cuda_array_interface__
    kind = np.dtype(getattr(source, "dtype", None) or interface["typestr"])
    if kind.byteorder == ">":
        message = f"array has type {kind}: on a GPU only little-endian arrays can be encoded"
        raise UnsupportedError(message)
    try:
        dtype = from_numpy(kind)
    except UnsupportedError:
        dtype = None
    address, readonly = interface["data"]
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    index, stream = _index(source, address), interface.get("stream")
    found = address or 0, prod(shape) * kind.itemsize, shape, dtype, str(kind), index
    return DeviceArray(
        *found, stream, source, _uneven(shape, strides, kind.itemsize), bool(readonly)
    )


def _of_dlpack(source: Any) -> DeviceArray:
    told = dlpack.read(source)
    found = told.address, prod(told.shape) * told.itemsize, told.shape, told.dtype, told.type_name
    index = int(source.__dlpack_device__()[1])
    strides = _uneven(told.shape, told.strides, told.itemsize)
    return DeviceArray(*found, index, dlpack.LEGACY_STREAM, told.capsule, strides, told.readonly)


class _Words:
    """Elements of any type as unsigned words, as which CuPy knows all of them."""

    def __init__(self, found: DeviceArray) -> None:
        assert found.strides is not None
        itemsize = found.n_bytes // prod(found.shape)
        width = gcd(itemsize, 8)
        self.__cuda_array_interface__ = {
            "data": (found.address, found.readonly),
            "shape": (*found.shape, itemsize // width),
            "strides": (*found.strides, width),
            "typestr": f"<u{width}",
            "version": 3,
            "stream": found.stream,
        }


def _dense(found: DeviceArray) -> DeviceArray:
    """A contiguous copy, by CuPy."""
    if "cupy" not in sys.modules:
        message = (
            f"array of shape {found.shape} has strides {found.strides} bytes: not contiguous, and "
            "CuPy, which could copy it, is not imported"
        )
        raise UnsupportedError(message)
    cupy = sys.modules["cupy"]
    dense = cupy.ascontiguousarray(cupy.asarray(_Words(found)))
    interface = dense.__cuda_array_interface__
    address, stream = interface["data"][0], interface.get("stream")
    # the elements are CuPy's now, and so are results like it
    return replace(found, address=address, stream=stream, owner=dense, strides=None)


def describe(source: Any) -> DeviceArray:
    """What is where of an array on a GPU, with its strides; of tensors of torch as `view`.

    Raises
    ------
    UnsupportedError
        The array is big-endian, or sparse.

    """
    assert is_on_gpu(source), type(source)
    if _is_torch(source):
        return _of_torch(source)
    if hasattr(source, "__cuda_array_interface__"):
        return _of_interface(source)
    return _of_dlpack(source)


def view(source: Any) -> DeviceArray:
    """What is where of an array on a GPU; a contiguous copy of it if it is not contiguous.

    Raises
    ------
    UnsupportedError
        The array is big-endian, sparse, or not contiguous while there is no CuPy to copy it.

    """
    found = describe(source)
    return found if found.strides is None else _dense(found)


def writable(out: Any) -> DeviceArray:
    """`view` of an array that is written: it must be contiguous.

    Raises
    ------
    ValueError
        It is read-only, or not contiguous.

    """
    found = describe(out)
    strides = found.strides
    if _is_torch(out) and found.address != out.data_ptr():
        strides = tuple(out.stride())
    if found.readonly:
        message = "out is read-only"
        raise ValueError(message)
    if strides is not None and found.n_bytes:
        message = f"out of shape {found.shape} has strides {strides}: not contiguous"
        raise ValueError(message)
    return found


def target(out: Any, n_bytes: int) -> DeviceArray:
    """`writable`, of exactly this size.

    Raises
    ------
    ValueError
        It is read-only, not contiguous, or of another size.

    """
    found = writable(out)
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
