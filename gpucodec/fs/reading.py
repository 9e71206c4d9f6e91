# SPDX-License-Identifier: Apache-2.0
"""From a range of the contents to a range of the file, and back through the codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..codec import decode_runs
from ..errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..buffers import Bytes
    from ..frame import Frame
    from .section import Index


def clip(start: int | None, stop: int | None, size: int) -> tuple[int, int]:
    """A range with None and negative ends, as slices have them, in numbers."""
    first, last, _ = slice(start, stop).indices(size)
    return first, max(first, last)


def blocks(index: Index, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The (frame, first block, last block + 1) that hold bytes `start` to `stop` - 1."""
    number = int(np.searchsorted(index.logical, start, side="right")) - 1
    while start < stop:
        begin, end = int(index.logical[number]), int(index.logical[number + 1])
        if start < end:  # a frame may be empty
            size = index.frame(number).block_bytes
            last = min(stop, end)
            yield number, (start - begin) // size, -(-(last - begin) // size)
            start = last
        number += 1


def aligned(index: Index, start: int, stop: int) -> tuple[int, int]:
    """The range grown to whole blocks."""
    found = list(blocks(index, start, stop))
    if not found:
        return start, stop
    number, first, _ = found[0]
    start = int(index.logical[number]) + first * index.frame(number).block_bytes
    number, _, last = found[-1]
    stop = int(index.logical[number]) + last * index.frame(number).block_bytes
    return start, min(stop, int(index.logical[number + 1]))


def stored(index: Index, start: int, stop: int) -> tuple[int, int]:
    """The one range of the file that must be read for bytes `start` to `stop` - 1."""
    found = list(blocks(index, start, stop))
    if not found:
        return 0, 0
    number, first, _ = found[0]
    begin = int(index.starts[number] + index.frame(number).offsets[first])
    number, _, last = found[-1]
    return begin, int(index.starts[number] + index.frame(number).offsets[last])


class Run(NamedTuple):
    """Neighbouring blocks, decoded to where they are wanted, or apart if only a part of one is."""

    frame: Frame
    payload: Bytes
    first: int
    last: int
    decoded: Bytes
    part: Bytes
    wanted: Bytes


class Request:
    """Bytes `start` to `stop` - 1 of a file, to be decoded into `out` from what is stored."""

    def __init__(self, index: Index, start: int, stop: int, out: Bytes | None = None) -> None:
        self.index = index
        self.start, self.stop = start, stop
        self.out: Bytes = np.empty(stop - start, np.uint8) if out is None else out
        self.stored = stored(index, start, stop)

    def runs(self, payload: Any) -> Iterator[Run]:
        """The runs of blocks to decode from `payload`, the bytes of `stored`.

        Raises
        ------
        CorruptionError
            A frame's header and table are not those of the index.

        """
        raw = np.frombuffer(payload, np.uint8)
        index, origin = self.index, self.stored[0]
        for number, first, last in blocks(index, self.start, self.stop):
            frame, at = index.frame(number), int(index.starts[number]) - origin
            if at >= 0 and raw[at : at + frame.payloads].tobytes() != index.heads[number]:
                message = f"frame at byte {index.starts[number]} is not the one of the index"
                raise CorruptionError(message)
            begin, size = int(index.logical[number]), frame.block_bytes
            for a, b in _cuts(frame, first, last, self.start - begin, self.stop - begin):
                lo, hi = begin + a * size, begin + min(b * size, frame.decoded_bytes)
                part = raw[at + int(frame.offsets[a]) : at + int(frame.offsets[b])]
                i, j = max(lo, self.start), min(hi, self.stop)
                wanted = self.out[i - self.start : j - self.start]
                whole = wanted if wanted.size == hi - lo else np.empty(hi - lo, np.uint8)
                yield Run(frame, part, a, b, whole, whole[i - lo : j - lo], wanted)


def _cuts(frame: Frame, first: int, last: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Blocks that are wanted whole in one run, blocks of which a part is wanted alone."""
    size = frame.block_bytes
    if start > first * size:
        yield first, first + 1
        first += 1
    cut = last > first and stop < min(last * size, frame.decoded_bytes)
    if first < last - cut:
        yield first, last - cut
    if cut:
        yield last - 1, last


def fill(requests: Sequence[tuple[Request, Any]], threads: int | None = None) -> None:
    """Decode requests from their stored bytes, all in one batch of jobs.

    Raises
    ------
    CorruptionError, TruncatedError
        What is wrong with a block; outputs are zero then.

    """
    try:
        runs = [run for request, payload in requests for run in request.runs(payload)]
        decode_runs([run[:5] for run in runs], threads=threads)
    except BaseException:
        for request, _ in requests:
            request.out[:] = 0  # what a damaged block decodes to is nobody's data
        raise
    for run in runs:
        if run.wanted.size != run.decoded.size:
            run.wanted[:] = run.part
