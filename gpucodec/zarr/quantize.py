# SPDX-License-Identifier: Apache-2.0
"""The zarr v3 serializer ``gpucodec.quantize``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin

from gpucodec.dtypes import from_numpy
from gpucodec.quant import QuantizeConfig, decode_quantized, encode_quantized
from gpucodec.quant.frame import Header, parse
from gpucodec.quant.tensor import is_float

from .chunk import chunk_of
from .codec import is_box
from .gpu import buffer, elements, empty, fetching, is_gpu, ndbuffer, on_host
from .quantize_partial import check_chunk, is_partial, read_selected
from .steps import INLINE_BYTES, Get, is_sync_handle, off_loop, payload, run, run_sync

if TYPE_CHECKING:
    from typing import Self

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

    from .steps import Steps


@dataclass(frozen=True, init=False)
class QuantizeCodec(ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Blockwise quantization, one frame a chunk: an array-to-bytes codec.

    Alone in its chain (``compressors=None``), a part of a chunk is read without fetching all of its
    codes. Blocks do not cross chunks. With stochastic rounding every chunk draws the same random
    numbers, since a codec is not told where its chunk lies.

    Parameters
    ----------
    format, block_size, parameters
        As in `gpucodec.QuantizeConfig`; `bound` may be a mapping such as ``{"rel": 0.01}``.

    """

    is_fixed_size = False
    name: ClassVar[str] = "gpucodec.quantize"

    config: QuantizeConfig

    def __init__(self, format: str, block_size: int | None = None, **parameters: Any) -> None:  # noqa: A002 - the parameter's name in every binding
        given = {"format": format, "block_size": block_size, **parameters}
        object.__setattr__(self, "config", QuantizeConfig.from_json(given))

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """From metadata."""
        if data.get("name") != cls.name:
            message = f"codec is named {data.get('name')!r}, not {cls.name!r}"
            raise ValueError(message)
        return cls(**data.get("configuration") or {})

    def to_dict(self) -> dict[str, Any]:
        """As metadata."""
        return {"name": self.name, "configuration": self.config.to_json()}

    def validate(self, *, shape: Any, dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that are not of floats, and axes that they do not have.

        Raises
        ------
        UnsupportedError
            The format has no such data type.
        ValueError
            The data type is no float, or the axis is not one of the array.

        """
        del chunk_grid
        native = dtype.to_native_dtype()
        if not is_float(from_numpy(native)):
            message = f"{self.name} is for floats, not {native}"
            raise ValueError(message)
        axis, n_dims = self.config.axis, len(shape)
        if axis != "auto" and not -max(n_dims, 1) <= axis < max(n_dims, 1):
            message = f"axis {axis} is out of range for an array of {n_dims} dimensions"
            raise ValueError(message)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise NotImplementedError

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frame = encode_quantized(elements(chunk_array), self.config)
        return buffer(frame, chunk_spec.prototype)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return _ndbuffer(_decode(chunk_bytes, chunk_spec), chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        is_small = chunk_of(chunk_spec).nbytes < INLINE_BYTES
        return await off_loop(is_small, self._encode_sync, chunk_array, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        is_small = chunk_of(chunk_spec).nbytes < INLINE_BYTES
        return await off_loop(is_small, self._decode_sync, chunk_bytes, chunk_spec)

    def _read(self, getter: Any, selection: Any, chunk_spec: ArraySpec) -> Steps[Any]:
        """The selected elements of a chunk, None if there is no such chunk."""
        chunk = chunk_of(chunk_spec)
        if is_box(selection) and is_partial(chunk, selection, self.config):
            found = yield from read_selected(getter, chunk, selection, self.config)
        else:
            [answer] = yield [Get(getter)]
            found = None if answer is None else _decode(answer, chunk_spec)
        return None if found is None else found[selection]

    def _decode_partial_sync(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        prototype = fetching(byte_getter, chunk_spec.prototype)
        selected = run_sync(self._read(byte_getter, selection, chunk_spec), prototype)
        return None if selected is None else _ndbuffer(selected, chunk_spec)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        steps = self._read(byte_getter, selection, chunk_spec)
        sync = is_sync_handle(byte_getter)
        selected = await run(steps, fetching(byte_getter, chunk_spec.prototype), sync=sync)
        return None if selected is None else _ndbuffer(selected, chunk_spec)


def _decode(chunk_bytes: Buffer, spec: ArraySpec) -> Any:
    """The elements, on a GPU if that is where they are asked for."""
    raw, chunk = payload(chunk_bytes), chunk_of(spec)
    if not is_gpu(spec.prototype):
        raw = on_host(raw)
        check_chunk(parse(raw), chunk)
        return decode_quantized(raw, limit=None)
    from gpucodec import cuda

    header = None if isinstance(raw, np.ndarray) else cuda.parse_headers([raw])[0]
    if not isinstance(header, Header):
        header = parse(on_host(raw))
    check_chunk(header, chunk)
    out = empty(spec.prototype, chunk.shape, chunk.native)
    return cuda.decode(raw, out, headers=[header])


def _ndbuffer(array: Any, spec: ArraySpec) -> NDBuffer:
    if isinstance(array, np.generic):
        array = np.asarray(array)
    native = spec.dtype.to_native_dtype()
    return ndbuffer(array.astype(native, copy=False), spec.prototype)
