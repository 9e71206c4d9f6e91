# SPDX-License-Identifier: Apache-2.0
"""The chunk grid of a sharded tensor: no chunk belongs to two shards.

So ranks write without locks, in any order, and never read what another wrote. Along a sharded
axis a chunk's length divides all boundaries of shards; torch's are multiples of the first
shard's length, so that is it, or a divisor.
"""

from __future__ import annotations

from itertools import product
from math import gcd, prod
from typing import TYPE_CHECKING, Final, NamedTuple

from ...config import MAX_BLOCK
from ...errors import UnsupportedError
from .. import grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_CHUNK: Final = 16  # times `grid.CHUNK_BYTES`, if the only divisors are small
LEAST_BYTES: Final = 1 << 18  # of a chunk that is cut for readers along other axes
MOST_CUTS: Final = 24  # of an axis: readers of an eighth of it each read a third more at most
LEAST_BLOCK: Final = 1 << 13  # words: smaller blocks cost more than half a percent
READ_ROWS: Final = 64  # parts of a chunk's rows that can be read on their own
MAX_CHUNKS: Final = 1 << 16  # of a tensor; more means boundaries with no common measure


class Shard(NamedTuple):
    """A part of a tensor that one rank writes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def box(self) -> tuple[slice, ...]:
        """Its place in the tensor."""
        return tuple(slice(o, o + n) for o, n in zip(self.offsets, self.sizes, strict=True))


def check_shards(name: str, shape: Sequence[int], shards: Sequence[Shard]) -> None:
    """Make sure that shards cover the tensor, each element once.

    Raises
    ------
    ValueError
        They overlap, or leave holes, or reach beyond it.

    """
    for shard in shards:
        if any(o + n > length for o, n, length in zip(*shard, shape, strict=True)):
            raise ValueError(f"{name}: shard {shard} is not within shape {tuple(shape)}")
    covered = sum(prod(shard.sizes) for shard in shards)
    if covered != prod(shape):
        raise ValueError(f"{name}: shards have {covered} elements, the tensor {prod(shape)}")
    kept = [shard for shard in shards if prod(shard.sizes)]
    edges = [sorted({shard.offsets[axis] for shard in kept}) for axis in range(len(shape))]
    seen = set[tuple[int, ...]]()
    for shard in kept:  # on the grid of all edges, each cell belongs to one shard
        starts = [
            [edge for edge in along if o <= edge < o + n]
            for along, o, n in zip(edges, *shard, strict=True)
        ]
        for cell in product(*starts):
            if cell in seen:
                raise ValueError(f"{name}: two ranks would write the element at {cell}")
            seen.add(cell)


class Layout(NamedTuple):
    """How a tensor is cut."""

    chunks: tuple[int, ...]
    order: tuple[int, ...] | None
    """The axes as chunks have them in memory, if the first is not the first."""


def layout_of(
    name: str,
    shape: Sequence[int],
    itemsize: int,
    shards: Sequence[Shard],
    least: int | None = None,
) -> Layout:
    """Chunks of at most 16 MiB, if the boundaries of shards allow, each within one shard.

    A later load may have other shards. Blocks of a chunk are rows, which can be read without the
    rest of it; so chunks whose shards are parts of another axis are transposed to have that as
    rows. For readers of other axes, the longest of these is cut, as far as chunks of `least`
    bytes, by default `LEAST_BYTES`, and the boundaries of shards allow. Where several axes are
    sharded, the rows are those of the axis that cannot be cut well, say into thirds of 4,096: that
    is 2 times a prime.

    Raises
    ------
    UnsupportedError
        Boundaries have so small a common divisor that there would be too many chunks.

    """
    axes = range(len(shape))
    measures = [_measure(axis, shape[axis], shards) for axis in axes]
    sharded = [axis for axis in axes if measures[axis] != shape[axis]] or axes[:1]
    orders = [(first, *(axis for axis in axes if axis != first)) for first in sharded] or [()]
    found = [
        _cut_all([shape[i] for i in order], [measures[i] for i in order], itemsize, shards, least)
        for order in orders
    ]
    which = min(range(len(orders)), key=lambda i: found[i][1])
    order, (turned, _) = orders[which], found[which]
    chunks = tuple(turned[order.index(axis)] for axis in axes)
    n_chunks = prod(grid.counts(shape, chunks))
    if n_chunks > MAX_CHUNKS:
        raise UnsupportedError(
            f"{name}: shards of shape {tuple(shape)} have no common measure but {measures}, which "
            f"would make {n_chunks} chunks"
        )
    return Layout(chunks, None if order == tuple(axes) else order)


def _cut_all(
    shape: Sequence[int],
    measures: Sequence[int],
    itemsize: int,
    shards: Sequence[Shard],
    least: int | None,
) -> tuple[list[int], float]:
    """Chunks of a tensor whose blocks run along the first axis; and how much too long they are
    along the one that is cut for readers of others: 1 if they are not.
    """
    chunks = [max(1, n) for n in measures]
    most, excess = grid.CHUNK_BYTES, 1.0
    if len(shards) > 1 and len(shape) > 1:
        longest = max(range(1, len(shape)), key=lambda axis: shape[axis])
        most_cuts = prod(chunks) * itemsize // (LEAST_BYTES if least is None else least)
        is_whole = measures[longest] == shape[longest]
        length, wanted = _cut(chunks[longest], shape[longest], most_cuts, is_whole=is_whole)
        chunks[longest], excess = length, max(1, length / wanted)
    for axis, length in enumerate(chunks):
        rest = prod(chunks[axis + 1 :]) * itemsize
        if length * rest <= most:
            break
        if rest >= most:
            chunks[axis] = 1
            continue
        if measures[axis] == shape[axis]:  # not sharded: any length will do
            n_parts = -(-length // (most // rest))
            chunks[axis] = -(-length // n_parts)
        else:
            divisor = next(n for n in range(most // rest, 0, -1) if length % n == 0)
            too_small = divisor * rest * LARGEST_CHUNK < most
            if not (too_small and length * rest <= LARGEST_CHUNK * most):
                chunks[axis] = divisor
        break
    return chunks, excess


def _cut(length: int, whole: int, most_cuts: int, *, is_whole: bool) -> tuple[int, int]:
    """A chunk's length along an axis, and which there would be with `MOST_CUTS` along all of it."""
    n_cuts = max(1, min(most_cuts, -(-MOST_CUTS * length // max(1, whole))))
    wanted = -(-length // n_cuts)
    if is_whole:
        return wanted, wanted
    divisors = [n for n in range(1, length + 1) if length % n == 0]
    short = [n for n in divisors if wanted <= 2 * n <= 2 * wanted]
    return max(short, default=next(n for n in divisors if n >= wanted)), wanted


def block_words(chunks: Sequence[int]) -> int | None:
    """Words of a block, so that some rows of a chunk of short ones can be read without the rest.

    None where blocks of the default size do that.
    """
    if len(chunks) < 2:
        return None
    words = prod(chunks) // READ_ROWS
    size = max(LEAST_BLOCK, 1 << max(0, words.bit_length() - 1))
    return size if size < MAX_BLOCK else None


def _measure(axis: int, length: int, shards: Sequence[Shard]) -> int:
    """The greatest common divisor of the boundaries along an axis; the tensor's ends do not count."""
    found = 0
    for offsets, sizes in shards:
        if prod(sizes):
            for edge in (offsets[axis], offsets[axis] + sizes[axis]):
                if edge != length:
                    found = gcd(found, edge)
    return found or length


def chunks_of(
    shape: Sequence[int], chunks: Sequence[int], shard: Shard
) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """The chunks of a shard: number in C order, place in the tensor, place in the shard."""
    if not prod(shard.sizes):
        return
    counts = grid.counts(shape, chunks)
    ranges = [range(o // c, -(-(o + n) // c)) for o, n, c in zip(*shard, chunks, strict=True)]
    for index in product(*ranges):
        number = 0
        for i, n in zip(index, counts, strict=True):
            number = number * n + i
        box = tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True)
        )
        own = tuple(
            slice(part.start - o, part.stop - o) for part, o in zip(box, shard.offsets, strict=True)
        )
        assert all(
            0 <= part.start and part.stop <= n for part, n in zip(own, shard.sizes, strict=True)
        ), (box, shard)
        yield number, box, own
