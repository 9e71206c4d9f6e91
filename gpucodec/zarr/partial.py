# SPDX-License-Identifier: Apache-2.0
"""Reading a part of a frame: the table first, then only the blocks that a selection touches."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucodec import codec, frame as frames
from gpucodec.errors import GpucodecError, TruncatedError

from ._compat import RangeByteRequest
from .chunk import note_chunk
from .gpu import empty_like
from .steps import Get, payload, raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt
    from zarr.core.buffer import Buffer

    from gpucodec.buffers import Bytes
    from gpucodec.config import TensorConfig

    from .chunk import Chunk
    from .steps import Steps

# A second request, and its latency, must save at least this many decoded bytes.
MIN_SAVING = 1 << 16
# Ranges are fetched as one if they are at most this far apart, up to a size: zarr's defaults.
MAX_GAP = 1 << 20
MAX_MERGED = 16 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where a frame lies: a value of the store, or a range of one."""

    getter: Any
    start: int = 0
    stop: int | None = None
    on_host: bool = False
    """Whether payloads are wanted there, whatever the array's prototype."""

    def request(self, start: int, stop: int, *, is_table: bool = False) -> Get:
        """A request for bytes of the frame; fewer come if it ends before."""
        end = self.start + stop if self.stop is None else min(self.start + stop, self.stop)
        return Get(self.getter, RangeByteRequest(self.start + start, end), is_table or self.on_host)


def touched_blocks(
    chunk: Chunk, selection: tuple[Any, ...], block_words: int
) -> npt.NDArray[np.bool_]:
    """Which blocks of a chunk's frame a selection touches, bool[n_blocks].

    Selections other than integers and slices touch all of them.
    """
    words = chunk.stored.itemsize // chunk.frame_type.spec.word_bytes
    n_blocks = -(-chunk.nbytes // chunk.frame_type.spec.word_bytes // block_words)
    box = bounds(chunk.shape, selection)
    if box is None:
        return np.ones(n_blocks, np.bool_)
    # Rows of the box that lie at most a block apart leave out no block: one run covers them. So
    # there are never more runs than blocks.
    starts, length = np.zeros(1, np.int64), words
    for axis, (low, high) in enumerate(box):
        step = words * prod(chunk.shape[axis + 1 :])
        if high <= low:
            return np.zeros(n_blocks, np.bool_)
        if step > block_words:
            starts = (starts[:, None] + np.arange(low, high) * step).reshape(-1)
        else:
            starts = starts + low * step
            length += (high - 1 - low) * step
    edges = np.zeros(n_blocks + 1, np.int64)
    np.add.at(edges, starts // block_words, 1)
    np.add.at(edges, (starts + length - 1) // block_words + 1, -1)
    return np.cumsum(edges[:-1]) > 0


def bounds(shape: tuple[int, ...], selection: tuple[Any, ...]) -> list[tuple[int, int]] | None:
    """Lowest and highest + 1 index of each axis, for integers and slices."""
    if len(selection) != len(shape):
        return None
    box = []
    for one, n in zip(selection, shape, strict=True):
        if isinstance(one, slice):
            low, high, step = one.indices(n)
            if step < 1:
                return None
            box.append((low, high))
        elif isinstance(one, (int, np.integer)):
            box.append((int(one) % n, int(one) % n + 1))
        else:
            return None
    return box


def is_partial(chunk: Chunk, selection: tuple[Any, ...], config: TensorConfig) -> bool:
    """Whether to read the table first, judged by the block size that the array is written with."""
    word_bytes = chunk.frame_type.spec.word_bytes
    block_words = 1 << config.block_log(word_bytes)
    if chunk.nbytes - block_words * word_bytes < MIN_SAVING:
        return False
    spared = int(np.count_nonzero(~touched_blocks(chunk, selection, block_words)))
    return spared * block_words * word_bytes >= MIN_SAVING


def read_blocks(
    source: Source, chunk: Chunk, selection: tuple[Any, ...], config: TensorConfig
) -> Steps[npt.NDArray[Any] | None]:
    """Elements of the chunk, of which those selected are set; None if there is no such value.

    Raises
    ------
    CorruptionError, UnsupportedError
        What is wrong with the frame.

    """
    try:
        frame = yield from _read_table(source, chunk, config)
        if frame is None:
            return None
        raw = yield from decode_touched(source, frame, chunk, selection)
    except GpucodecError as error:
        note_chunk(error, source.getter)
        raise
    return chunk.from_bytes(raw)


def decode_touched(
    source: Source, frame: frames.Frame, chunk: Chunk, selection: tuple[Any, ...]
) -> Steps[Any]:
    """Decoded bytes of a chunk whose table is known, of which the blocks touched are set.

    They are where the payloads were read to: of NumPy, or on a GPU.
    """
    runs = list(_runs(touched_blocks(chunk, selection, frame.block_words)))
    groups = list(merge((int(frame.offsets[a]), int(frame.offsets[b])) for a, b in runs))
    answers = yield [source.request(start, stop) for start, stop, _ in groups]
    read = [payload(_there(answer)) for answer in answers]
    # pages that no block is decoded to are never touched
    raw = empty_like(read[0] if read else np.empty(0), (chunk.nbytes,), np.uint8)
    work = []
    for (start, _, members), payloads in zip(groups, read, strict=True):
        for first, last in (runs[i] for i in members):
            low, high = (int(frame.offsets[b]) - start for b in (first, last))
            out = raw[first * frame.block_bytes : last * frame.block_bytes]
            work.append((frame, payloads[low:high], first, last, out))
    codec.decode_runs(work)
    return raw


def _read_table(source: Source, chunk: Chunk, config: TensorConfig) -> Steps[frames.Frame | None]:
    expected = chunk.table_bytes(config)
    [answer] = yield [source.request(0, expected, is_table=True)]
    if answer is None:
        return None
    table = present(answer)
    chunk.check(table)
    needed = frames.table_bytes(table)
    if needed > expected:  # written with smaller blocks than the array's metadata say
        [answer] = yield [source.request(0, needed, is_table=True)]
        table = present(answer)
    frame = frames.parse(table[:needed], whole=False)
    chunk.check_frame(frame)
    return frame


def present(answer: Buffer | None) -> Bytes:
    """The bytes, on the host, of a value that was there a moment ago."""
    return raw_bytes(_there(answer))


def _there(answer: Buffer | None) -> Buffer:
    if answer is None:
        message = "the value was deleted while it was read"
        raise TruncatedError(message)
    return answer


def _runs(touched: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each run of touched blocks."""
    edges = np.flatnonzero(np.diff(touched, prepend=False, append=False))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def merge(
    ranges: Iterable[tuple[int, int]], gap: int = MAX_GAP, most: int = MAX_MERGED
) -> Iterator[tuple[int, int, list[int]]]:
    """Join byte ranges that are near each other: start, stop and the numbers of the members."""
    start, stop, members = 0, 0, list[int]()
    for i, (low, high) in sorted(enumerate(ranges), key=lambda item: item[1]):
        if members and (low - stop > gap or max(stop, high) - start > most):
            yield start, stop, members
            members = []
        if not members:
            start, stop = low, high
        stop = max(stop, high)
        members.append(i)
    if members:
        yield start, stop, members
