# SPDX-License-Identifier: Apache-2.0
"""Shards: where the inner chunks of a `sharding_indexed` value lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product as cross
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import numpy as np
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from gpucodec.buffers import is_on_gpu
from gpucodec.errors import CorruptionError, TruncatedError

from ._compat import RangeByteRequest, SuffixByteRequest, value_of, write_order
from .gpu import moved
from .steps import Get

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpucodec.buffers import Bytes

ENTRY_BYTES = 16  # offset and length of an inner chunk, u64 each
CHECKSUM_BYTES = 4
ABSENT = (1 << 64) - 1
MAX_OFFSET = (1 << 63) - 1


class Tile(NamedTuple):
    """An inner chunk that a selection touches."""

    number: int
    """Its number in the shard, in C order."""
    selection: tuple[Any, ...]
    """What is selected of it."""
    within: tuple[Any, ...]
    """Where that lies in what is selected of the shard."""
    complete: bool
    """Whether all of it is selected."""


@dataclass(frozen=True)
class Layout:
    """How a sharding codec lays out shards of one shape."""

    codec: ShardingCodec
    shape: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Inner chunks along each axis."""
        return tuple(n // c for n, c in zip(self.shape, self.codec.chunk_shape, strict=True))

    @cached_property
    def n_chunks(self) -> int:
        """Inner chunks of the shard."""
        return prod(self.counts)

    @cached_property
    def has_checksum(self) -> bool:
        """Whether the index ends with a CRC-32C."""
        return len(self.codec.index_codecs) > 1

    @cached_property
    def index_bytes(self) -> int:
        """Encoded size of the index."""
        return ENTRY_BYTES * self.n_chunks + CHECKSUM_BYTES * self.has_checksum

    @cached_property
    def index_first(self) -> bool:
        """Whether the index precedes the inner chunks."""
        return value_of(self.codec.index_location) == "start"

    @cached_property
    def order(self) -> list[int]:
        """Numbers of the inner chunks in the order in which they are written."""
        if not self.counts:
            return [0]
        places = np.array(list(write_order(self.codec, self.counts)), np.int64)
        numbers: list[int] = np.ravel_multi_index(tuple(places.T), self.counts).tolist()
        return numbers

    def index_request(self, getter: Any) -> Get:
        """A request for the index alone."""
        if self.index_first:
            return Get(getter, RangeByteRequest(0, self.index_bytes), is_table=True)
        return Get(getter, SuffixByteRequest(self.index_bytes), is_table=True)

    def index_of(self, value: Bytes) -> Bytes:
        """The index within a whole value."""
        return value[: self.index_bytes] if self.index_first else value[-self.index_bytes :]

    def parse_index(self, raw: Bytes) -> list[tuple[int, int] | None]:
        """Start and stop of each inner chunk in the value; None if it was not written.

        Raises
        ------
        TruncatedError
            The value has no room for its index.
        CorruptionError
            The checksum does not hold, or an offset lies outside any file.

        """
        if raw.size < self.index_bytes:
            message = f"shard has {raw.size} bytes of an index of {self.index_bytes}"
            raise TruncatedError(message)
        entries = raw[: ENTRY_BYTES * self.n_chunks]
        if self.has_checksum:
            stored = int.from_bytes(raw[entries.size :].tobytes(), "little")
            computed = google_crc32c.value(entries.tobytes())
            if stored != computed:
                message = f"shard index has CRC-32C {computed:08x}, stored is {stored:08x}"
                raise CorruptionError(message)
        rows = np.frombuffer(entries.tobytes(), "<u8").reshape(-1, 2).tolist()
        return [_extent(number, *row) for number, row in enumerate(rows)]

    def assemble(self, frames: dict[int, Any]) -> Any:
        """The value of a shard with these inner chunks; None for a shard without any.

        It is on a GPU if one of them is.
        """
        present = [number for number in self.order if number in frames]
        if not present:
            return None
        index = np.full((self.n_chunks, 2), ABSENT, "<u8")
        sizes = np.array([frames[number].size for number in present], np.uint64)
        start = self.index_bytes if self.index_first else 0
        index[present, 0] = np.cumsum(sizes) - sizes + np.uint64(start)
        index[present, 1] = sizes
        entries = index.tobytes()
        if self.has_checksum:
            entries += google_crc32c.value(entries).to_bytes(CHECKSUM_BYTES, "little")
        parts = [frames[number] for number in present]
        parts.insert(0 if self.index_first else len(parts), np.frombuffer(entries, np.uint8))
        there = next((part for part in parts if is_on_gpu(part)), parts[0])
        return np.concatenate([moved(part, there) for part in parts])

    def tiles(self, selection: Sequence[Any]) -> Iterator[Tile]:
        """The inner chunks that a selection of integers and slices of step 1 touches."""
        axes = [
            list(_axis(one, n, c))
            for one, n, c in zip(selection, self.shape, self.codec.chunk_shape, strict=True)
        ]
        strides = [prod(self.counts[i + 1 :]) for i in range(len(self.counts))]
        for parts in cross(*axes):
            yield Tile(
                sum(part[0] * stride for part, stride in zip(parts, strides, strict=True)),
                tuple(part[1] for part in parts),
                tuple(part[2] for part in parts if part[2] is not None),
                all(part[3] for part in parts),
            )


def _axis(selected: Any, n: int, c: int) -> Iterator[tuple[int, int | slice, slice | None, bool]]:
    """Along one axis: place of the inner chunk, what of it, where that goes, and whether all."""
    if not isinstance(selected, slice):
        place, inside = divmod(int(selected), c)
        yield place, inside, None, c == 1
        return
    low, high, _ = selected.indices(n)
    for place in range(low // c, -(-high // c)):
        start, stop = max(low, place * c), min(high, (place + 1) * c)
        yield (
            place,
            slice(start - place * c, stop - place * c, 1),
            slice(start - low, stop - low),
            stop - start == c,
        )


def is_standard_index(codec: ShardingCodec) -> bool:
    """Whether the index is little-endian with at most a CRC-32C behind it: nearly always."""
    first, *rest = codec.index_codecs
    return (
        type(first) is BytesCodec
        and value_of(first.endian) == "little"
        and [type(one) for one in rest] in ([], [Crc32cCodec])
    )


def _extent(number: int, start: int, length: int) -> tuple[int, int] | None:
    if start == length == ABSENT:
        return None
    if start + length > MAX_OFFSET:
        message = f"shard index puts inner chunk {number} at byte {start}, {length} bytes long"
        raise CorruptionError(message)
    return start, start + length
