# SPDX-License-Identifier: Apache-2.0
"""A zarr chunk as the codec sees it: the data type and shape of its frame, and back."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from gpucodec import frame as frames
from gpucodec.dtypes import DType, from_numpy
from gpucodec.errors import CorruptionError, GpucodecError
from gpucodec.kernels import spec
from gpucodec.views import carrier

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from zarr.core.array_spec import ArraySpec

    from gpucodec.buffers import Bytes
    from gpucodec.config import TensorConfig

_HEADER = struct.Struct(spec.HEADER_FORMAT)


@dataclass(frozen=True)
class Chunk:
    """Shape and data type of a chunk; hashable, and the same for most chunks of an array.

    A frame is little-endian whatever the array is in memory, because zarr v3 metadata do not
    say; and of elements that the format has no type for it holds several words each, along one
    more axis.
    """

    shape: tuple[int, ...]
    native: np.dtype[Any]
    """The data type that the array hands in and out."""

    @cached_property
    def stored(self) -> np.dtype[Any]:
        """The native data type, little-endian."""
        return _little(self.native)

    @cached_property
    def words(self) -> np.dtype[Any]:
        """The data type of the frame."""
        return carrier(self.stored)

    @cached_property
    def plain(self) -> bool:
        """Whether the frame's elements are the array's."""
        return self.words == self.stored

    @cached_property
    def in_place(self) -> bool:
        """Whether decoded bytes are the array's."""
        return self.native == self.stored

    @cached_property
    def frame_type(self) -> DType:
        """The data type of the frame, in the format's table."""
        return from_numpy(self.words)

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of the frame."""
        if self.plain:
            return self.shape
        return (*self.shape, self.stored.itemsize // self.words.itemsize)

    @cached_property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return prod(self.shape) * self.stored.itemsize

    def table_bytes(self, config: TensorConfig) -> int:
        """Bytes of header and table of the chunk's frame."""
        block_log = config.block_log(self.frame_type.spec.word_bytes)
        return _table_bytes(self, block_log)

    @cached_property
    def everything(self) -> tuple[slice, ...]:
        """The selection of the whole chunk, spelt as zarr's indexers do."""
        return tuple(slice(0, n, 1) for n in self.shape)

    @cached_property
    def _claims(self) -> tuple[bytes, bytes, bytes]:
        """What a frame of it starts with, its decoded size, and its shape."""
        shape = struct.pack(f"<{len(self.frame_shape)}Q", *self.frame_shape)
        fields = (spec.MAGIC, spec.VERSION, self.frame_type.spec.code, len(self.frame_shape))
        header = _HEADER.pack(*fields, 0, self.nbytes, 0, 0, 0, 0)
        at = spec.DECODED_BYTES_OFFSET
        return header[: at - 1], header[at : at + 8], shape  # between them, the block size

    def check(self, raw: Bytes) -> None:
        """Make sure that a frame's first bytes claim this data type and shape.

        Raises
        ------
        CorruptionError
            They claim others.
        TruncatedError, UnsupportedError
            They are no frame's.

        """
        start, size, shape = self._claims
        at = spec.DECODED_BYTES_OFFSET
        head = raw[: spec.HEADER_BYTES + len(shape)].tobytes()
        if (
            head.startswith(start)
            and head[at : at + 8] == size
            and head[spec.HEADER_BYTES :] == shape
            and len(head) >= spec.HEADER_BYTES
        ):
            return
        frame = frames.parse(raw, whole=raw.size < frames.table_bytes(raw))
        self.check_frame(frame)

    def check_frame(self, frame: frames.Frame) -> None:
        """As `check`, for a parsed frame."""
        if (frame.dtype, frame.shape) != (self.frame_type, self.frame_shape):
            message = (
                f"the chunk's frame holds {frame.dtype.name} of shape {frame.shape}, the array's "
                f"metadata say {self.frame_type.name} of shape {self.frame_shape}"
            )
            raise CorruptionError(message)

    def to_words(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What to encode for a chunk of elements; a view where possible.

        Raises
        ------
        TypeError
            The elements have another size.

        """
        if self.plain and array.dtype == self.native and array.shape == self.shape:
            return array  # the codec turns the byte order itself
        if array.dtype.itemsize != self.stored.itemsize:
            message = f"chunk of {array.dtype} in an array of {self.native}"
            raise TypeError(message)
        if _little(array.dtype) == self.stored:
            array = array.astype(self.stored, copy=False)
        # Else a filter hands over, say, the integers that it made of floats, maybe flattened:
        # the bytes are what counts, as they do for zarr's own codec.
        array = array.reshape(-1)
        if not array.flags.c_contiguous:
            array = array.copy()
        return array.view(self.words).reshape(self.frame_shape)

    def from_bytes(self, raw: Bytes) -> npt.NDArray[Any]:
        """The elements of a decoded chunk: a view of `raw`, in the stored byte order."""
        return raw.view(self.stored).reshape(self.shape)


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The data type, little-endian."""
    if dtype.byteorder == ">" or dtype.names is not None or dtype.subdtype is not None:
        return dtype.newbyteorder("<")
    return dtype  # of ml_dtypes' types, newbyteorder would make unequal twins


@lru_cache(maxsize=256)
def _chunk(shape: tuple[int, ...], native: np.dtype[Any]) -> Chunk:
    return Chunk(shape, native)


@lru_cache(maxsize=256)
def _table_bytes(chunk: Chunk, block_log: int) -> int:
    return frames.payloads_start(chunk.frame_type, chunk.frame_shape, block_log)


def chunk_of(array_spec: ArraySpec, shape: tuple[int, ...] | None = None) -> Chunk:
    """The chunk that an array spec describes, or one of another shape and its data type.

    Raises
    ------
    TypeError
        Its data type holds pointers.

    """
    native = array_spec.dtype.to_native_dtype()
    return _chunk(array_spec.shape if shape is None else shape, native)


def note_chunk(error: GpucodecError, getter: Any) -> None:
    """Note on the error which key it was found under."""
    if getter is not None:
        error.add_note(f"in chunk {getter}")
