# SPDX-License-Identifier: Apache-2.0
"""How a tensor is cut into chunks, and which object holds which."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Box = tuple[slice, ...]

CHUNK_BYTES: Final = 16 << 20  # most decoded bytes of a chunk: enough blocks for every thread


def chunk_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Whole tensors up to 16 MiB; larger ones cut along their first axes into even parts.

    Memory order stays C order across chunks, so a chunk is one stretch of the tensor's memory.
    """
    most = CHUNK_BYTES
    chunks = [max(1, n) for n in shape]
    for axis, length in enumerate(chunks):
        rest = prod(chunks[axis + 1 :]) * itemsize
        if rest >= most:
            chunks[axis] = 1
            continue
        n_parts = -(-length // (most // rest))
        chunks[axis] = -(-length // n_parts)
        break
    return tuple(chunks)


def counts(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """The number of chunks along each axis."""
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def boxes(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[Box]:
    """What of a tensor each chunk holds, in C order."""
    for index in product(*map(range, counts(shape, chunks))):
        yield tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True)
        )


def chunk_keys(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[str]:
    """The name of each chunk in the folder of its array, in C order.

    They are zarr's ("default" encoding, separator "."), so that an array is one folder.
    """
    for index in product(*map(range, counts(shape, chunks))):
        yield ".".join(["c", *map(str, index)])


def sizes(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(part.stop - part.start for part in box)
