# SPDX-License-Identifier: Apache-2.0
"""Arrays of zarr in the memory of a GPU: made, filled and handed over by zarr's own buffer classes.

With ``zarr.config.enable_gpu()`` zarr's buffers are CuPy arrays. Values of most stores are fetched to
the host all the same, since a decoder needs their tables there: what crosses over to the device are
compressed bytes, once, and what comes back of an encoder is compressed. Stores that read to the device
themselves (`direct`) do, but for tables; what is on a GPU already is decoded where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from zarr.buffer import cpu, gpu

from gpucodec import buffers

from ._compat import StorePath
from .direct import reads_to_device

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer

    from gpucodec.buffers import Bytes


def is_gpu(prototype: BufferPrototype) -> bool:
    """Whether arrays are on a GPU."""
    return issubclass(prototype.nd_buffer, gpu.NDBuffer)


class Fetching(NamedTuple):
    """The prototypes to read values with."""

    payloads: BufferPrototype
    tables: BufferPrototype
    """Of what must be on the host, if the handle lets us choose."""

    def of(self, is_table: bool) -> BufferPrototype:
        """That of a table, or of what else is small and on the host; or of a payload."""
        return self.tables if is_table else self.payloads

    @property
    def to_device(self) -> bool:
        """Whether payloads are read to a GPU, and written from there."""
        return issubclass(self.payloads.buffer, gpu.Buffer)


def fetching(handle: Any, prototype: BufferPrototype) -> Fetching:
    """How to read from a getter, or write to a setter, values of arrays of this prototype."""
    if not (is_gpu(prototype) and isinstance(handle, StorePath)):
        return Fetching(prototype, prototype)
    host = cpu.buffer_prototype
    return Fetching(prototype if reads_to_device(handle.store) else host, host)


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
    """The bytes of a frame as the buffer that they are asked for as.

    On a GPU they are there when this returns: stores read memory in no stream's order.
    """
    if issubclass(prototype.buffer, gpu.Buffer):
        if isinstance(frame, np.ndarray):
            return prototype.buffer.from_bytes(frame)  # type: ignore[arg-type]
        import cupy

        cupy.cuda.get_current_stream().synchronize()
        return prototype.buffer.from_array_like(frame)
    return prototype.buffer.from_array_like(on_host(frame))


def can_take(out: Any) -> bool:
    """Whether frames can be decoded in place: on a GPU, memory must be contiguous."""
    return isinstance(out, np.ndarray) or bool(out.flags.c_contiguous)
