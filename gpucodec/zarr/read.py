# SPDX-License-Identifier: Apache-2.0
"""Reading many chunks at once: fetch everything, then decode everything in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import gpucodec
from gpucodec.errors import GpucodecError
from gpucodec.frame import Frame

from .chunk import Chunk, chunk_of, note_chunk
from .gpu import can_take, empty_like, fetching, moved, on_host
from .partial import MAX_GAP, MAX_MERGED, Source, is_partial, merge, read_blocks
from .shard import Layout, Tile
from .steps import Get, payload, raw_bytes, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from zarr.codecs import ShardingCodec
    from zarr.core.array_spec import ArraySpec

    from gpucodec.buffers import Bytes
    from gpucodec.config import TensorConfig

    from .steps import Steps

    # of each inner chunk: its frame, or its elements, or neither if it was not written
    Found = list[tuple[Tile, Any, npt.NDArray[Any] | None]]
    # As zarr gives them to pipelines: getter, spec, what is selected of the chunk, where in the
    # output that goes, and whether it is the whole chunk.
    Item = tuple[Any, ArraySpec, tuple[Any, ...], tuple[Any, ...], bool]


class Decoding:
    """Frames to decode, and where their elements go."""

    def __init__(self, drop_axes: tuple[int, ...] = ()) -> None:
        self.drop_axes = drop_axes
        self.frames: list[Any] = []
        self.headers: list[Frame | None] = []  # of those on a GPU, once they are read
        self.unchecked: list[tuple[int, Chunk]] = []  # what these must be of
        self.outputs: list[npt.NDArray[Any]] = []
        self.getters: list[Any] = []
        self.moves: list[Any] = []  # decoded aside, moved afterwards

    def add(
        self,
        raw: Any,
        chunk: Chunk,
        selection: tuple[Any, ...],
        out: npt.NDArray[Any],
        where: tuple[Any, ...],
        getter: Any,
        *,
        whole: bool,
    ) -> None:
        """Decode the frame of `chunk`, put `selection` of it to ``out[where]``.

        `whole` says that the selection is the chunk and `where` a box, so that the frame can be
        decoded in place. A frame on a GPU is checked later, together with all others there.
        """
        if isinstance(out, np.ndarray):
            raw = on_host(raw)
        if isinstance(raw, np.ndarray):
            self._check(raw, chunk, getter)
        else:
            self.unchecked.append((len(self.frames), chunk))
        self.headers.append(None)
        self.frames.append(raw)
        self.getters.append(getter)
        if whole and chunk.in_place and out.dtype == chunk.native:
            place = out[(*where, ...)]  # the ellipsis keeps 0-d arrays arrays
            if can_take(place):
                self.outputs.append(place)
                return
        aside = empty_like(out, (chunk.nbytes,), np.uint8)
        self.outputs.append(aside)
        self.moves.append((chunk, aside, selection, out, where))

    def run(self) -> None:
        """Decode all.

        Raises
        ------
        CorruptionError, UnsupportedError
            What is wrong with a frame, with a note that names its key.

        """
        try:
            if self.unchecked:
                self._decode_on_device()
            else:
                gpucodec.decode_batch(self.frames, self.outputs)
        except GpucodecError:
            self._raise_for_culprit()
            raise
        for chunk, aside, selection, out, where in self.moves:
            self.move(chunk.from_bytes(aside), selection, out, where)

    def move(
        self,
        elements: npt.NDArray[Any],
        selection: tuple[Any, ...],
        out: npt.NDArray[Any],
        where: tuple[Any, ...],
    ) -> None:
        """Put the selected elements of a chunk to their place."""
        selected = elements[selection]
        if self.drop_axes:
            selected = selected.squeeze(axis=self.drop_axes)
        out[where] = moved(selected, out)

    @staticmethod
    def _check(raw: Bytes, chunk: Chunk, getter: Any) -> None:
        try:
            chunk.check(raw)
        except GpucodecError as error:
            note_chunk(error, getter)
            raise

    def _decode_on_device(self) -> None:
        """Read all headers there by one copy, and decode by them."""
        from gpucodec import cuda

        parsed = cuda.parse_headers([self.frames[i] for i, _ in self.unchecked])
        for (i, chunk), header in zip(self.unchecked, parsed, strict=True):
            if not isinstance(header, Frame):  # a quantized tensor's
                self._check(on_host(self.frames[i]), chunk, self.getters[i])
                continue
            try:
                chunk.check_frame(header)
            except GpucodecError as error:
                note_chunk(error, self.getters[i])
                raise
            self.headers[i] = header
        cuda.decode_batch(self.frames, self.outputs, headers=self.headers)

    def _raise_for_culprit(self) -> None:
        for raw, getter in zip(self.frames, self.getters, strict=True):
            try:
                gpucodec.verify(on_host(raw))
            except GpucodecError as error:
                note_chunk(error, getter)
                raise


def fill_value(spec: ArraySpec) -> Any:
    """What elements have that were never written."""
    return spec.dtype.default_scalar() if spec.fill_value is None else spec.fill_value


def read_chunks(
    items: Sequence[Item],
    outs: Iterable[npt.NDArray[Any]],
    config: TensorConfig,
    *,
    boxes: bool,
    drop_axes: tuple[int, ...] = (),
) -> Steps[list[bool]]:
    """Read chunks that are one frame each, each to its output; says which of them exist.

    `boxes` says that all selections consist of integers and slices, and those of the outputs of
    slices.
    """
    decoding = Decoding(drop_axes)
    chunks: dict[tuple[int, ...], Chunk] = {}
    gets: list[Get] = []
    parts: list[Steps[npt.NDArray[Any] | None]] = []
    kinds: list[bool | None] = []  # of each item: whether all of it is read; None if by blocks
    for getter, spec, selection, _, _ in items:
        chunk = chunks.get(spec.shape)
        if chunk is None:
            chunk = chunks[spec.shape] = chunk_of(spec)
        whole = boxes and selection == chunk.everything
        if boxes and not whole and is_partial(chunk, selection, config):
            kinds.append(None)
            parts.append(read_blocks(Source(getter), chunk, selection, config))
        else:
            kinds.append(whole)
            gets.append(Get(getter))
    answers, decoded = yield from together(gets, parts)
    values, elements = iter(answers), iter(decoded)
    present = []
    for (getter, spec, selection, where, _), out, kind in zip(items, outs, kinds, strict=False):
        value: Any = next(elements if kind is None else values)
        present.append(value is not None)
        if value is None:
            out[where] = fill_value(spec)
        elif kind is None:
            decoding.move(value, selection, out, where)
        else:
            raw = payload(value)
            decoding.add(raw, chunks[spec.shape], selection, out, where, getter, whole=kind)
    decoding.run()
    return present


def read_shards(
    items: Sequence[Item], out: npt.NDArray[Any], sharding: ShardingCodec, config: TensorConfig
) -> Steps[list[bool]]:
    """Read shards whose inner chunks are one frame each; says which of the shards exist.

    Selections consist of integers and slices of step 1, those of the outputs of slices.
    """
    decoding = Decoding()
    shards = [_read_shard(item, out, sharding, config, decoding) for item in items]
    _, present = yield from together([], shards)
    decoding.run()
    return present


def _read_shard(
    item: Item,
    out: npt.NDArray[Any],
    sharding: ShardingCodec,
    config: TensorConfig,
    decoding: Decoding,
) -> Steps[bool]:
    getter, spec, selection, where, _ = item
    layout = Layout(sharding, spec.shape)
    inner = chunk_of(spec, sharding.chunk_shape)
    target: npt.NDArray[Any] = out[(*where, ...)]
    tiles = list(layout.tiles(selection))
    if len(tiles) == layout.n_chunks and not fetching(getter, spec.prototype).to_device:
        found = yield from _fetch_shard(getter, layout, tiles)
    else:
        found = yield from _fetch_tiles(getter, layout, tiles, inner, config, _limits(spec))
    if found is None:
        target[...] = fill_value(spec)
        return False
    for tile, frame, elements in found:
        if frame is not None:
            decoding.add(
                frame, inner, tile.selection, target, tile.within, getter, whole=tile.complete
            )
        elif elements is not None:
            decoding.move(elements, tile.selection, target, tile.within)
        else:
            target[(*tile.within, ...)] = fill_value(spec)
    return True


def _fetch_shard(getter: Any, layout: Layout, tiles: list[Tile]) -> Steps[Found | None]:
    """All inner chunks of a shard, by one request."""
    [answer] = yield [Get(getter)]
    if answer is None:
        return None
    value = raw_bytes(answer)
    try:
        index = layout.parse_index(layout.index_of(value))
    except GpucodecError as error:
        note_chunk(error, getter)
        raise
    extents = [(tile, index[tile.number]) for tile in tiles]
    return [
        (tile, None if extent is None else value[slice(*extent)], None) for tile, extent in extents
    ]


def _fetch_tiles(
    getter: Any,
    layout: Layout,
    tiles: list[Tile],
    inner: Chunk,
    config: TensorConfig,
    limits: tuple[int, int],
) -> Steps[Found | None]:
    """Some inner chunks of a shard: the index, then what is needed of each."""
    [answer] = yield [layout.index_request(getter)]
    if answer is None:
        return None
    try:
        index = layout.parse_index(raw_bytes(answer))
    except GpucodecError as error:
        note_chunk(error, getter)
        raise
    found: Found = []
    whole: list[tuple[Tile, tuple[int, int]]] = []
    parts = []
    for tile in tiles:
        extent = index[tile.number]
        if extent is None:
            found.append((tile, None, None))
        elif not tile.complete and is_partial(inner, tile.selection, config):
            steps = read_blocks(Source(getter, *extent), inner, tile.selection, config)
            parts.append((tile, steps))
        else:
            whole.append((tile, extent))
    groups = list(merge([extent for _, extent in whole], *limits))
    answers, decoded = yield from together(
        [Source(getter).request(start, stop) for start, stop, _ in groups],
        [steps for _, steps in parts],
    )
    for (start, _, members), answer in zip(groups, answers, strict=True):
        value = np.empty(0, np.uint8) if answer is None else payload(answer)
        for tile, (low, high) in (whole[i] for i in members):
            found.append((tile, value[low - start : high - start], None))
    found += [(tile, None, part) for (tile, _), part in zip(parts, decoded, strict=True)]
    return found


def _limits(spec: ArraySpec) -> tuple[int, int]:
    """The largest gap and size of a merged request; settings of the array since zarr 3.2."""
    return (
        getattr(spec.config, "sharding_coalesce_max_gap_bytes", MAX_GAP),
        getattr(spec.config, "sharding_coalesce_max_bytes", MAX_MERGED),
    )
