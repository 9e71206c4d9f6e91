# SPDX-License-Identifier: Apache-2.0
"""Arrays of zarr in the memory of a GPU: made, filled and handed over by zarr's own buffer classes.

With ``zarr.config.enable_gpu()`` zarr's buffers are CuPy arrays. Values of the store are fetched to the
host all the same, since a decoder needs their tables there: what crosses over to the device are
compressed bytes, once, and what comes back of an encoder is compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.buffer import cpu, gpu
from zarr.core.buffer import BufferPrototype

from gpucodec import buffers

from ._compat import StorePath

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, NDBuffer

    from gpucodec.buffers import Bytes


def is_gpu(prototype: BufferPrototype) -> bool:
    """Whether arrays are on a GPU."""
    return issubclass(prototype.nd_buffer, gpu.NDBuffer)


def fetching(handle: Any, prototype: BufferPrototype) -> BufferPrototype:
    """The prototype to read values with: on the host, unless the handle knows but one."""
    if is_gpu(prototype) and isinstance(handle, StorePath):
        return BufferPrototype(cpu.Buffer, prototype.nd_buffer)
    return prototype


def elements(array: NDBuffer) -> Any:
    """The array of a buffer: of NumPy, or on a GPU of CuPy."""
    found = array.as_ndarray_like()
    return found if buffers.is_on_gpu(found) else array.as_numpy_array()


def empty(prototype: BufferPrototype, shape: tuple[int, ...], dtype: Any, order: str = "C") -> Any:
    """A new array where the prototype has its own."""
    if not is_gpu(prototype):
        return np.empty(shape, dtype, order)  # type: ignore[call-overload]
    made = prototype.nd_buffer.empty(shape, dtype, order)  # type: ignore[arg-type]
    return made.as_ndarray_like()


def empty_like(array: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A new array where another one is."""
    if isinstance(array, np.ndarray):
        return np.empty(shape, dtype)
    return gpu.NDBuffer.empty(shape, dtype).as_ndarray_like()


def filled(prototype: BufferPrototype, shape: tuple[int, ...], dtype: Any, value: Any) -> Any:
    """A new array with one value."""
    if not is_gpu(prototype):
        return np.full(shape, value, dtype)
    made = empty(prototype, shape, dtype)
    made[...] = value
    return made


def moved(array: Any, like: Any) -> Any:
    """A host array where `like` is."""
    if isinstance(like, np.ndarray) or not isinstance(array, np.ndarray):
        return array
    return gpu.NDBuffer.from_numpy_array(array).as_ndarray_like()


def on_host(frame: Any) -> Bytes:
    """The bytes of a frame, wherever it is."""
    if isinstance(frame, np.ndarray):
        return frame
    return gpu.Buffer.from_array_like(frame).as_numpy_array()


def ndbuffer(array: Any, prototype: BufferPrototype) -> NDBuffer:
    """An array as the buffer that it is asked for as."""
    if isinstance(array, np.ndarray):
        return prototype.nd_buffer.from_numpy_array(array)
    return prototype.nd_buffer.from_ndarray_like(array)


def buffer(frame: Any, prototype: BufferPrototype) -> Buffer:
    """The bytes of a frame as the buffer that they are asked for as."""
    if issubclass(prototype.buffer, gpu.Buffer):
        if isinstance(frame, np.ndarray):
            return prototype.buffer.from_bytes(frame)  # type: ignore[arg-type]
        return prototype.buffer.from_array_like(frame)
    return prototype.buffer.from_array_like(on_host(frame))


def can_take(out: Any) -> bool:
    """Whether frames can be decoded in place: on a GPU, memory must be contiguous."""
    return isinstance(out, np.ndarray) or bool(out.flags.c_contiguous)
