# SPDX-License-Identifier: Apache-2.0
"""A codec pipeline for zarr that decodes and encodes many chunks in one call."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from zarr.codecs import ShardingCodec, TransposeCodec

from gpucodec.buffers import is_on_gpu

from ._compat import BatchedCodecPipeline
from .chunk import chunk_of
from .codec import TensorCodec, is_box
from .gpu import fetching, is_gpu
from .partial import MIN_SAVING
from .read import read_chunks, read_shards
from .shard import is_standard_index
from .steps import each, is_sync_handle, run
from .write import rewrite_shards, write_chunks, write_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zarr.core.buffer import NDBuffer

    from .steps import Steps

T = TypeVar("T")

# Decoded bytes of a window: all of its chunks are fetched, then all decoded. While one is
# decoded, the next is fetched.
WINDOW_BYTES = 128 << 20
WINDOWS = 2

PRESENT = {"status": "present"}  # zarr's GetResult
MISSING = {"status": "missing"}


class Pipeline(BatchedCodecPipeline):
    """zarr's default pipeline, with batches for chains whose serializer is `TensorCodec`.

    Chunks (and inner chunks, across shards) are decoded straight into the output and encoded
    from the value, many in one call. Transposed chunks are read so, too, and in part. All other
    chains, and whatever has no box for a selection, take the way they would have taken.
    """

    # zarr's configuration names a pipeline by where its class lives.
    __module__ = "gpucodec.zarr"

    def _serializer(self) -> TensorCodec | None:
        """Our codec, if the chain is it, or shards of it."""
        if self.array_array_codecs or self.bytes_bytes_codecs:
            return None
        return self._own()

    def _own(self) -> TensorCodec | None:
        codec: Any = self.array_bytes_codec
        if isinstance(codec, ShardingCodec):
            if len(codec.codecs) != 1 or not is_standard_index(codec):
                return None
            [codec] = codec.codecs
        return codec if isinstance(codec, TensorCodec) else None

    async def read(
        self,
        batch_info: Iterable[tuple[Any, ...]],
        out: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> Any:
        """Read chunks into `out`; says of each whether it exists."""
        batch = list(batch_info)
        codec = self._serializer()
        target: Any = out.as_ndarray_like()
        if batch and not drop_axes and (order := self._order()) and _has_boxes(batch):
            codec = self._own()
            batch, target = _turned(batch, target, order)
        if codec is None or not batch or not _is_ours(target):
            return await super().read(batch, out, drop_axes)
        selection = batch[0][2]
        boxes = _has_boxes(batch) and not drop_axes
        sharding = self.array_bytes_codec
        if isinstance(sharding, ShardingCodec) and not (boxes and _is_dense(selection)):
            return await super().read(batch, out, drop_axes)

        def steps(part: list[Any]) -> Steps[list[bool]]:
            if isinstance(sharding, ShardingCodec):
                return read_shards(part, target, sharding, codec.config)
            return read_chunks(part, repeat(target), codec.config, boxes=boxes, drop_axes=drop_axes)

        # Of boxes, little more is decoded than what is selected; else, or of small chunks, all.
        n_bytes = target.nbytes // len(batch) + MIN_SAVING if boxes else _chunk_bytes(batch)
        present = await _run_windows(steps, batch, n_bytes)
        return tuple(PRESENT if there else MISSING for part in present for there in part)

    def _order(self) -> tuple[int, ...] | None:
        """The order of axes in chunks that are transposed and then ours, not in shards."""
        match self.array_array_codecs, self.array_bytes_codec, self.bytes_bytes_codecs:
            case (TransposeCodec(order=order),), TensorCodec(), ():
                return tuple(order)
        return None

    async def write(
        self,
        batch_info: Iterable[tuple[Any, ...]],
        value: NDBuffer,
        drop_axes: tuple[int, ...] = (),
    ) -> None:
        """Write chunks from `value`."""
        batch = list(batch_info)
        codec = self._serializer()
        source: Any = value.as_ndarray_like()
        if codec is None or not batch or not _is_ours(source):
            return await super().write(batch, value, drop_axes)
        if source.shape == ():
            source = value.as_numpy_array()  # a scalar is repeated on the host
        sharding = self.array_bytes_codec

        def steps(part: list[Any]) -> Steps[None]:
            if isinstance(sharding, ShardingCodec):
                return write_shards(part, source, sharding, codec.config)
            return write_chunks(part, source, drop_axes, codec.config)

        if isinstance(sharding, ShardingCodec):
            # Shards of which a part stays are zarr's to merge.
            boxes = not drop_axes and is_box(batch[0][2]) and is_box(batch[0][3])
            rest = [item for item in batch if not (boxes and item[4])]
            if rest and is_gpu(rest[0][1].prototype):  # whose index zarr could not encode there

                def rewrite(part: list[Any]) -> Steps[None]:
                    return rewrite_shards(part, source, drop_axes, sharding, codec.config)

                await _run_windows(rewrite, rest, _chunk_bytes(rest))
            elif rest:
                await super().write(rest, value, drop_axes)
            batch = [item for item in batch if boxes and item[4]]
        if batch:
            await _run_windows(steps, batch, _chunk_bytes(batch))
        return None


def _has_boxes(batch: list[tuple[Any, ...]]) -> bool:
    """Whether selections are boxes; those of a batch are of one kind, since one indexer made them."""
    _, _, selection, where, _ = batch[0]
    return is_box(selection) and is_box(where)


def _turned(
    batch: list[tuple[Any, ...]], out: Any, order: tuple[int, ...]
) -> tuple[list[tuple[Any, ...]], Any]:
    """What to read, and where to, with axes in the order in which chunks have them."""
    selection = batch[0][2]
    kept = [axis for axis, one in enumerate(selection) if isinstance(one, slice)]
    turn = [kept.index(axis) for axis in order if axis in kept]
    items = []
    for getter, spec, selected, where, *rest in batch:
        shape = tuple(spec.shape[axis] for axis in order)
        chosen = tuple(selected[axis] for axis in order)
        place = tuple(where[axis] for axis in turn)
        items.append((getter, replace(spec, shape=shape), chosen, place, *rest))
    return items, out.transpose(turn)


def _is_ours(array: Any) -> bool:
    """Whether the codec reads and writes such arrays: of NumPy, or on a GPU."""
    return isinstance(array, np.ndarray) or is_on_gpu(array)


def _chunk_bytes(items: list[Any]) -> int:
    return max(1, chunk_of(items[0][1]).nbytes)


async def _run_windows(
    steps: Callable[[list[Any]], Steps[T]], items: list[Any], n_bytes: int
) -> list[T]:
    """Run over a batch in windows of `WINDOW_BYTES`, with `n_bytes` for each item."""
    handle, spec = items[0][:2]
    size = max(1, WINDOW_BYTES // n_bytes)
    sync = is_sync_handle(handle)

    async def window(start: int) -> T:
        prototypes = fetching(handle, spec.prototype)
        return await run(steps(items[start : start + size]), prototypes, sync=sync)

    return await each(window, ((start,) for start in range(0, len(items), size)), WINDOWS)


def _is_dense(selection: Sequence[Any]) -> bool:
    """Whether no slice skips anything."""
    return all(not isinstance(one, slice) or one.step in (None, 1) for one in selection)
