# SPDX-License-Identifier: Apache-2.0
"""The zarr v3 serializer ``gpucodec.tensor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin

import gpucodec
from gpucodec.config import TensorConfig
from gpucodec.views import carrier

from .chunk import chunk_of
from .gpu import buffer, elements, empty, fetching, ndbuffer
from .metadata import Configured
from .read import Decoding, read_chunks
from .steps import INLINE_BYTES, is_sync_handle, off_loop, payload, run, run_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

    from .read import Item


@dataclass(frozen=True, kw_only=True)
class TensorCodec(Configured, ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Lossless coding of tensors, one frame a chunk: an array-to-bytes codec.

    Alone in its chain (as it is by default when given as ``serializer``, with
    ``compressors=None``), a part of a chunk is read without fetching the rest.

    Parameters
    ----------
    block_size, profile, lz
        As in `gpucodec.TensorConfig`.

    """

    is_fixed_size = False
    name: ClassVar[str] = "gpucodec.tensor"

    block_size: int | None = None
    profile: str = "ratio"
    lz: bool | None = None

    def __post_init__(self) -> None:
        TensorConfig(self.block_size, self.profile, self.lz)

    @property
    def config(self) -> TensorConfig:
        """The parameters as the codec takes them."""
        return TensorConfig(self.block_size, self.profile, self.lz)

    def validate(self, *, shape: Any, dtype: Any, chunk_grid: Any) -> None:
        """Refuse data types whose arrays hold pointers.

        Raises
        ------
        TypeError
            The data type has no fixed size.

        """
        del shape, chunk_grid
        carrier(dtype.to_native_dtype())

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise NotImplementedError

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        [value] = self._encode_many([(chunk_array, chunk_spec)])
        return value

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        [array] = self._decode_many([(chunk_bytes, chunk_spec)])
        return array

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        [value] = await off_loop(
            _is_small([chunk_spec]), self._encode_many, [(chunk_array, chunk_spec)]
        )
        return value

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        [array] = await off_loop(
            _is_small([chunk_spec]), self._decode_many, [(chunk_bytes, chunk_spec)]
        )
        return array

    async def encode(
        self, chunks_and_specs: Iterable[tuple[NDBuffer | None, ArraySpec]]
    ) -> list[Buffer | None]:
        """Encode chunks at once; None stays None."""
        return await _present(self._encode_many, chunks_and_specs)

    async def decode(
        self, chunks_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> list[NDBuffer | None]:
        """Decode chunks at once; None stays None."""
        return await _present(self._decode_many, chunks_and_specs)

    def _encode_many(self, chunks: list[tuple[NDBuffer, ArraySpec]]) -> list[Buffer]:
        words = [chunk_of(spec).to_words(elements(array)) for array, spec in chunks]
        frames = gpucodec.encode_batch(words, self.config)
        return [
            buffer(frame, spec.prototype) for frame, (_, spec) in zip(frames, chunks, strict=True)
        ]

    def _decode_many(self, chunks: list[tuple[Buffer, ArraySpec]]) -> list[NDBuffer]:
        decoding = Decoding()
        arrays = []
        for value, spec in chunks:
            chunk = chunk_of(spec)
            array = empty(spec.prototype, chunk.shape, chunk.native)
            decoding.add(payload(value), chunk, chunk.everything, array, (), None, whole=True)
            arrays.append(array)
        decoding.run()
        return [
            ndbuffer(array, spec.prototype) for array, (_, spec) in zip(arrays, chunks, strict=True)
        ]

    def _decode_partial_sync(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        out = _selected(selection, chunk_spec)
        item = (byte_getter, chunk_spec, selection, (), False)
        steps = read_chunks([item], [out], self.config, boxes=is_box(selection))
        [present] = run_sync(steps, fetching(byte_getter, chunk_spec.prototype))
        return ndbuffer(out, chunk_spec.prototype) if present else None

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        return (await self.decode_partial([(byte_getter, selection, chunk_spec)]))[0]

    async def decode_partial(
        self, batch_info: Iterable[tuple[Any, Any, ArraySpec]]
    ) -> list[NDBuffer | None]:
        """Fetch and decode selections of chunks at once; None where there is no such chunk."""
        batch = list(batch_info)
        if not batch:
            return []
        outs = [_selected(selection, spec) for _, selection, spec in batch]
        items: list[Item] = [
            (getter, spec, selection, (), False) for getter, selection, spec in batch
        ]
        boxes = all(is_box(selection) for _, selection, _ in batch)
        steps = read_chunks(items, outs, self.config, boxes=boxes)
        prototype = fetching(batch[0][0], batch[0][2].prototype)
        sync = all(is_sync_handle(getter) for getter, _, _ in batch)
        if sync and _is_small([spec for _, _, spec in batch]):
            present = run_sync(steps, prototype)
        else:
            present = await run(steps, prototype, sync=sync)
        return [
            ndbuffer(out, spec.prototype) if there else None
            for out, (_, _, spec), there in zip(outs, batch, present, strict=True)
        ]


def is_box(selection: Any) -> bool:
    """Whether a selection consists of integers and slices."""
    return isinstance(selection, tuple) and all(
        isinstance(one, (slice, int, np.integer)) for one in selection
    )


def _selected(selection: Any, spec: ArraySpec) -> Any:
    """Room for what is selected of a chunk."""
    chunk = chunk_of(spec)
    shape = np.broadcast_to(np.False_, chunk.shape)[selection].shape
    return empty(spec.prototype, shape, chunk.native, spec.order)


def _is_small(specs: Iterable[ArraySpec]) -> bool:
    return sum(chunk_of(spec).nbytes for spec in specs) < INLINE_BYTES


async def _present(
    function: Callable[[list[Any]], list[Any]], chunks_and_specs: Iterable[tuple[Any, Any]]
) -> list[Any]:
    """Apply to the chunks that are not None."""
    chunks = list(chunks_and_specs)
    numbers = [i for i, (chunk, _) in enumerate(chunks) if chunk is not None]
    results: list[Any] = [None] * len(chunks)
    if numbers:
        present = [chunks[i] for i in numbers]
        done = await off_loop(_is_small(spec for _, spec in present), function, present)
        for i, one in zip(numbers, done, strict=True):
            results[i] = one
    return results
