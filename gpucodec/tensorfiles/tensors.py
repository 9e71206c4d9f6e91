# SPDX-License-Identifier: Apache-2.0
"""What every file and store of tensors has in common, so that each pair can be converted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Array: TypeAlias = NDArray[Any]

PIECE_BYTES = 64 << 20  # enough chunks to keep every thread busy, little enough to hold


@dataclass(frozen=True)
class Tensor:
    """A named tensor that has not been read yet.

    ``open`` returns what can be indexed like the array (an array, a memory map, a zarr array);
    it is called when the tensor's turn comes. ``row_step`` is the number of rows (first axis)
    that are best read together. ``done`` is told the bytes of each piece when it has been used.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    open: Callable[[], Any]
    row_step: int = 1
    done: Callable[[int], None] = lambda _: None

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize

    def pieces(self, step: int | None = None) -> Iterator[tuple[slice, Array]]:
        """The tensor in C order as (rows, array), a whole number of `step` rows at a time.

        A tensor without axes is one piece, whose rows are the full slice.
        """
        source = self.open()
        if not self.shape:
            yield slice(None), np.asarray(source[()], self.dtype)
            self.done(self.nbytes)
            return
        step = step or self.row_step
        row_bytes = max(1, self.nbytes // max(1, self.shape[0]))
        rows = max(1, PIECE_BYTES // (row_bytes * step)) * step
        for first in range(0, self.shape[0], rows):
            part = slice(first, min(first + rows, self.shape[0]))
            piece = np.asarray(source[part], self.dtype)
            yield part, piece
            self.done(piece.nbytes)

    def read(self) -> Array:
        """The whole tensor."""
        out = np.empty(self.shape, self.dtype)
        for rows, piece in self.pieces():
            out[rows if self.shape else ()] = piece
        return out


@dataclass(frozen=True)
class Contents:
    """Tensors in order, and what else a file of this ``kind`` needs to be written again."""

    kind: str
    tensors: list[Tensor]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def watched(self, done: Callable[[int], None]) -> Contents:
        """The same, telling `done` how many bytes have been used."""
        return replace(self, tensors=[replace(tensor, done=done) for tensor in self.tensors])


def regions(
    shape: tuple[int, ...], step: tuple[int, ...], itemsize: int, most_bytes: int = PIECE_BYTES
) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover an array, each a whole number of `step` boxes and not much more than
    `most_bytes`, or one of them.
    """
    box = list(step)
    for axis in reversed(range(len(shape))):
        n_fit = max(1, most_bytes // max(1, prod(box) * itemsize))
        box[axis] = min(step[axis] * n_fit, max(1, shape[axis]))
        if box[axis] < shape[axis]:
            break
    counts = [range(0, n, size) for n, size in zip(shape, box, strict=True)]
    for starts in product(*counts):
        yield tuple(
            slice(start, min(start + size, n))
            for start, size, n in zip(starts, box, shape, strict=True)
        )


def is_url(path: Path | str) -> bool:
    """Whether this is for fsspec, not for the system."""
    return isinstance(path, str) and ("://" in path or "::" in path)


def as_bytes(array: Array) -> Array:
    """The elements in C order as uint8, without a copy where there is a way."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
