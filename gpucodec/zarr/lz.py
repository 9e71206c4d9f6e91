# SPDX-License-Identifier: Apache-2.0
"""The zarr v3 compressor ``gpucodec.lz``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zarr.abc.codec import BytesBytesCodec

import gpucodec
from gpucodec.config import LZConfig

from .gpu import buffer
from .metadata import Configured
from .steps import off_loop, payload

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

_INLINE_BYTES = 1 << 15  # half of what other codecs have: LZ takes longer for a byte


@dataclass(frozen=True, kw_only=True)
class LZCodec(Configured, BytesBytesCodec):
    """Lossless coding of bytes with repetitions, one frame a chunk: a bytes-to-bytes codec.

    Given as ``compressors``, behind zarr's default serializer.

    Parameters
    ----------
    level
        As in `gpucodec.LZConfig`.
    typesize
        Bytes of an element: 1, 2, 4 or 8. None takes that of the array's data type; for one-byte
        and variable-length types it is detected.

    """

    is_fixed_size = False
    name: ClassVar[str] = "gpucodec.lz"

    level: Literal["fast", "ratio"] = "fast"
    typesize: int | None = None

    def __post_init__(self) -> None:
        LZConfig(self.level, self.typesize)

    @property
    def config(self) -> LZConfig:
        """The parameters as the codec takes them."""
        return LZConfig(self.level, self.typesize)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise NotImplementedError

    def _encode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        native = chunk_spec.dtype.to_native_dtype()
        config = self.config.for_elements(0 if native.hasobject else native.itemsize)
        frame = gpucodec.encode(payload(chunk_bytes), config)
        return buffer(frame, chunk_spec.prototype)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        decoded = gpucodec.decode(payload(chunk_bytes))
        return buffer(decoded.reshape(-1).view("u1"), chunk_spec.prototype)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        is_small = len(chunk_bytes) < _INLINE_BYTES
        return await off_loop(is_small, self._encode_sync, chunk_bytes, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        is_small = len(chunk_bytes) < _INLINE_BYTES
        return await off_loop(is_small, self._decode_sync, chunk_bytes, chunk_spec)
