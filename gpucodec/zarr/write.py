# SPDX-License-Identifier: Apache-2.0
"""Writing many chunks at once: encode everything in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import gpucodec
from gpucodec.buffers import is_on_gpu

from .chunk import Chunk, chunk_of
from .gpu import buffer, empty, fetching, filled, moved, on_host
from .read import fill_value, read_chunks, read_shards
from .shard import Layout
from .steps import Puts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from zarr.codecs import ShardingCodec
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

    from gpucodec.config import TensorConfig

    from .read import Item
    from .steps import Steps


class Encoding:
    """Chunks to encode."""

    def __init__(self, config: TensorConfig, *, to_host: bool = True) -> None:
        self.config = config
        self.to_host = to_host
        self.words: list[npt.NDArray[Any]] = []
        self.sources: list[tuple[Chunk, ArraySpec]] = []
        self.places: list[int] = []
        self.repeated: dict[Chunk, int] = {}

    def add(self, elements: npt.NDArray[Any], chunk: Chunk, spec: ArraySpec) -> None:
        """Encode a chunk."""
        self.places.append(len(self.words))
        self.words.append(chunk.to_words(elements))
        self.sources.append((chunk, spec))

    def add_uniform(self, scalar: npt.NDArray[Any], chunk: Chunk, spec: ArraySpec) -> None:
        """Encode a chunk of which every element is the same, once for all that are alike."""
        if chunk in self.repeated:
            self.places.append(self.repeated[chunk])
            return
        self.repeated[chunk] = len(self.words)
        self.add(np.broadcast_to(scalar, chunk.shape), chunk, spec)

    def run(self) -> list[Any]:
        """The frame of each chunk, or None where it is not to be stored.

        They are on the host, or with `to_host=False` those of arrays on a GPU are there.

        Unless the array is configured to write empty chunks, those are left out that hold nothing
        but the fill value: the same bits, unlike in zarr, where the payload of a NaN (and of
        bfloat16, the sign of a zero) is lost. Equal bits make equal frames.
        """
        encoded: list[Any] = _encode(self.words, self.config)
        if self.to_host:
            encoded = [*map(on_host, encoded)]
        empty: dict[Chunk, bytes] = {}
        for i, (chunk, spec) in enumerate(self.sources):
            if spec.config.write_empty_chunks or encoded[i].size > chunk.table_bytes(self.config):
                continue  # a frame of one value has no payload
            if chunk not in empty:
                fill = np.full(chunk.shape, fill_value(spec), chunk.stored)
                empty[chunk] = gpucodec.encode(chunk.to_words(fill), self.config).tobytes()
            if on_host(encoded[i]).tobytes() == empty[chunk]:
                encoded[i] = None
        return [encoded[place] for place in self.places]


def write_chunks(
    items: Sequence[Item],
    value: npt.NDArray[Any],
    drop_axes: tuple[int, ...],
    config: TensorConfig,
) -> Steps[None]:
    """Write chunks that are one frame each, merged with what is stored where incomplete."""
    existing = yield from _read_existing([item for item in items if not item[4]], config)
    encoding = _encoding(items, config)
    incomplete = iter(existing)
    for item in items:
        _, spec, selection, where, complete = item
        chunk = chunk_of(spec)
        if complete and value.shape != ():
            selected = value[where]
            if selected.shape == chunk.shape:  # not so at the array's edge
                encoding.add(selected, chunk, spec)
                continue
        elif complete and selection == chunk.everything:
            encoding.add_uniform(value, chunk, spec)
            continue
        base = next(incomplete) if not complete else None
        if base is None:
            base = filled(spec.prototype, chunk.shape, chunk.native, fill_value(spec))
        base[selection] = moved(_aligned(value, where, drop_axes, len(chunk.shape)), base)
        encoding.add(base, chunk, spec)
    yield Puts(_put(item, frame) for item, frame in zip(items, encoding.run(), strict=True))


def _read_existing(
    items: Sequence[Item], config: TensorConfig
) -> Steps[list[npt.NDArray[Any] | None]]:
    """What is stored of these chunks; None where nothing is."""
    if not items:
        return []
    reads, stored = [], []
    for setter, spec, *_ in items:
        chunk = chunk_of(spec)
        stored.append(empty(spec.prototype, chunk.shape, chunk.native))
        reads.append((setter, spec, chunk.everything, (), True))
    present = yield from read_chunks(reads, stored, config, boxes=True)
    return [one if there else None for one, there in zip(stored, present, strict=True)]


def _aligned(
    value: npt.NDArray[Any], where: tuple[Any, ...], drop_axes: tuple[int, ...], n_dims: int
) -> npt.NDArray[Any]:
    """The part of the value for one chunk, with the axes that the selection dropped put back."""
    if value.shape == ():
        return value
    part: npt.NDArray[Any] = value[where]
    if drop_axes:
        part = part[tuple(None if axis in drop_axes else slice(None) for axis in range(n_dims))]
    return part


def write_shards(
    items: Sequence[Item],
    value: npt.NDArray[Any],
    sharding: ShardingCodec,
    config: TensorConfig,
) -> Steps[None]:
    """Write shards that are overwritten as a whole."""
    encoding = _encoding(items, config)
    layouts: dict[tuple[int, ...], Layout] = {}
    shards = []
    for _, spec, selection, where, _ in items:
        layout = layouts.setdefault(spec.shape, Layout(sharding, spec.shape))
        inner = chunk_of(spec, sharding.chunk_shape)
        part: npt.NDArray[Any] = value if value.shape == () else value[(*where, ...)]
        tiles = list(layout.tiles(selection))
        shards.append((layout, tiles))
        for tile in tiles:
            if tile.complete and value.shape == ():
                encoding.add_uniform(value, inner, spec)
            elif tile.complete:
                encoding.add(part[(*tile.within, ...)].reshape(inner.shape), inner, spec)
            else:
                base = filled(spec.prototype, inner.shape, inner.native, fill_value(spec))
                base[tile.selection] = moved(_aligned(part, tile.within, (), 0), base)
                encoding.add(base, inner, spec)
    encoded = iter(encoding.run())
    puts = Puts()
    for item, (layout, tiles) in zip(items, shards, strict=True):
        frames = {tile.number: frame for tile in tiles if (frame := next(encoded)) is not None}
        puts.append(_put(item, layout.assemble(frames)))
    yield puts


def rewrite_shards(
    items: Sequence[Item],
    value: npt.NDArray[Any],
    drop_axes: tuple[int, ...],
    sharding: ShardingCodec,
    config: TensorConfig,
) -> Steps[None]:
    """Write shards of which a part stays: read, changed and written as a whole."""
    for setter, spec, selection, where, _ in items:
        chunk = chunk_of(spec)
        base = empty(spec.prototype, chunk.shape, chunk.native)
        whole = (setter, spec, chunk.everything, chunk.everything, True)
        yield from read_shards([whole], base, sharding, config)
        base[selection] = moved(_aligned(value, where, drop_axes, len(chunk.shape)), base)
        yield from write_shards([whole], base, sharding, config)


def _encoding(items: Sequence[Item], config: TensorConfig) -> Encoding:
    """For chunks that are all written to the same store."""
    setter, spec = items[0][:2]
    return Encoding(config, to_host=not fetching(setter, spec.prototype).to_device)


def _put(item: Item, value: Any) -> tuple[Any, Buffer | None]:
    setter, spec = item[:2]
    if value is None:
        return setter, None
    prototype = fetching(setter, spec.prototype).of(isinstance(value, np.ndarray))
    return setter, buffer(value, prototype)


def _encode(words: Sequence[Any], config: TensorConfig) -> list[Any]:
    """The frames, where the arrays are."""
    frames: list[Any] = [None] * len(words)
    for on_gpu in (False, True):
        numbers = [i for i, array in enumerate(words) if is_on_gpu(array) == on_gpu]
        encoded = gpucodec.encode_batch([words[i] for i in numbers], config)
        for i, frame in zip(numbers, encoded, strict=True):
            frames[i] = frame
    return frames
