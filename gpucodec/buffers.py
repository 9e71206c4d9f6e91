# SPDX-License-Identifier: Apache-2.0
"""What is this buffer, and where do its bytes live?

Frameworks are found through `sys.modules`: a tensor of a library that nobody imported cannot be
here, so none is ever imported for the question.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .dtypes import BY_NAME, DType, from_numpy
from .errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

Bytes: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.uint8]]"


def _is_torch(candidate: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(candidate, torch.Tensor)


_GPU_DEVICES = (2, 13)  # kDLCUDA and kDLCUDAManaged of DLPack


def is_on_gpu(source: Any) -> bool:
    """Whether the elements of an array are in the memory of a CUDA device."""
    if isinstance(source, np.ndarray):
        return False
    if _is_torch(source):
        return bool(source.device.type == "cuda")
    if hasattr(source, "__cuda_array_interface__"):
        return True
    device = getattr(source, "__dlpack_device__", None)
    return device is not None and device()[0] in _GPU_DEVICES


def _require_host(tensor: Any) -> None:
    if tensor.device.type != "cpu":
        message = f"tensor is on {tensor.device}; move it to the CPU first"
        raise UnsupportedError(message)


def _torch_bytes(tensor: Any) -> Bytes:
    """The elements in C order as bytes: a view where torch has them so, else a copy."""
    torch = sys.modules["torch"]
    _require_host(tensor)
    if tensor.layout is not torch.strided:
        message = f"tensor has layout {tensor.layout}; only strided tensors can be encoded"
        raise UnsupportedError(message)
    return memory(tensor.detach().resolve_conj().resolve_neg().contiguous())


def memory(tensor: Any) -> Bytes:
    """The memory of a contiguous torch tensor on the CPU; written through, if it is writable."""
    # of one element or none, strides may be any, and `view` would mind
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return flat.view(sys.modules["torch"].uint8).numpy()  # type: ignore[no-any-return]


def _as_array(source: Any) -> np.ndarray[Any, Any]:
    if isinstance(source, np.ndarray):
        return source
    if is_on_gpu(source):
        message = f"{type(source).__name__} is on a GPU; copy it to the host first"
        raise UnsupportedError(message)
    try:
        view = memoryview(source)
    except TypeError:
        pass
    else:
        return np.asarray(view)
    if hasattr(source, "__dlpack__"):
        return np.from_dlpack(source)
    if hasattr(source, "__array__"):
        return np.asarray(source)
    message = f"cannot encode {type(source).__name__}: not an array, tensor or buffer"
    raise TypeError(message)


def elements(source: Any) -> tuple[Bytes, DType, tuple[int, ...]]:
    """Little-endian bytes of the elements in C order, their type, and the shape.

    Raises
    ------
    TypeError
        Not an array, tensor or buffer; or an object array.
    UnsupportedError
        A data type or device that cannot be encoded.

    """
    if _is_torch(source):
        name = str(source.dtype).removeprefix("torch.")
        if name not in BY_NAME:
            message = f"the format has no type {source.dtype}"
            raise UnsupportedError(message)
        return _torch_bytes(source), BY_NAME[name], tuple(source.shape)
    array = _as_array(source)
    dtype = from_numpy(array.dtype)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8), dtype, array.shape


def encoded(source: Any) -> Bytes:
    """The bytes of a frame, from any contiguous buffer."""
    if isinstance(source, np.ndarray):
        if not source.flags.c_contiguous:
            message = "the encoded frame is not contiguous"
            raise ValueError(message)
        return source.reshape(-1).view(np.uint8)
    if _is_torch(source):
        return _torch_bytes(source)
    return np.frombuffer(source, np.uint8)


def output(target: Any, n_bytes: int) -> tuple[Bytes, Callable[[], None]]:
    """Writable bytes for `n_bytes` of output, and what to call once they are filled.

    Contiguous targets are written in place; others through a copy.

    Raises
    ------
    ValueError
        The target is read-only or of another size.

    """
    if _is_torch(target):
        _require_host(target)
        plain = target.detach()
        dense = plain.contiguous()
        filled = memory(dense)
        finish = _nothing if dense.data_ptr() == plain.data_ptr() else lambda: plain.copy_(dense)
    elif isinstance(target, np.ndarray):
        if not target.flags.writeable:
            message = "out is read-only"
            raise ValueError(message)
        if target.flags.c_contiguous:
            filled, finish = target.reshape(-1).view(np.uint8), _nothing
        else:
            dense = np.empty(target.shape, target.dtype)
            filled = dense.reshape(-1).view(np.uint8)

            def finish() -> None:
                target[...] = dense

    else:
        view = memoryview(target)
        if view.readonly:
            message = "out is read-only"
            raise ValueError(message)
        filled, finish = np.frombuffer(view, np.uint8), _nothing
    if filled.size != n_bytes:
        message = f"out has {filled.size} bytes, the frame decodes to {n_bytes}"
        raise ValueError(message)
    return filled, finish


def _nothing() -> None:
    """The target was written in place."""
