# SPDX-License-Identifier: Apache-2.0
"""Writing tensors as content-named zarr arrays.

An array's folder is named by a hash of its elements, data type, shape, chunks and codec. So equal
tensors are stored once, what a committed checkpoint has already is not written again, and nothing
that is referred to is ever overwritten.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import codecs, grid
from .manifest import METADATA, Array, Object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .grid import Box
    from .leaves import Leaf
    from .parallel import Workers
    from .storage import Storage

    Host = np.ndarray[Any, np.dtype[Any]]

FOLDER: Final = "arrays"
WINDOW_BYTES: Final = 256 << 20  # of copies between hashing and encoding
NAME_BYTES: Final = 16  # of a folder's name


def hash_bytes(raw: Any) -> int:
    """XXH3-64 as the format has it: padded with zeros."""
    from ..kernels.checksum import hash_bytes as kernel  # compiles, or loads what was compiled

    return int(kernel(np.frombuffer(raw, np.uint8)))


@dataclass
class Plan:
    """A tensor on its way to an array."""

    leaf: Leaf
    config: Any
    chunks: tuple[int, ...] = ()
    boxes: list[Box] = field(default_factory=list)
    copies: list[Host | None] = field(default_factory=list)
    """What need not be copied again for encoding."""
    hashes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chunks = grid.chunk_shape(self.leaf.shape, self.leaf.dtype.itemsize)
        self.boxes = list(grid.boxes(self.leaf.shape, self.chunks))
        self.copies = [None] * len(self.boxes)
        self.hashes = [0] * len(self.boxes)

    def hash_chunk(self, i: int) -> None:
        """Hash a chunk's elements."""
        part = self.leaf.chunk(self.boxes[i])
        self.hashes[i] = hash_bytes(part.reshape(-1).view(np.uint8))
        if self.leaf.is_view or self.leaf.nbytes <= WINDOW_BYTES:
            self.copies[i] = part

    def path(self) -> str:
        """The array's folder: a hash of all that decides its bytes."""
        says = [self.leaf.dtype.name, self.leaf.shape, self.chunks, codecs.to_json(self.config)]
        content = sha256(json.dumps(says).encode())
        content.update(np.array(self.hashes, "<u8").tobytes())
        return f"{FOLDER}/{content.hexdigest()[: 2 * NAME_BYTES]}"

    def chunk(self, i: int) -> Host:
        """A chunk as it is encoded: at the edge of the tensor, padded with zeros."""
        part, self.copies[i] = self.copies[i], None
        if part is None:
            part = self.leaf.chunk(self.boxes[i])
        if part.shape == self.chunks:
            return part
        padded = np.zeros(self.chunks, part.dtype)
        padded[tuple(slice(0, n) for n in part.shape)] = part
        return padded


@dataclass
class Writer:
    """Writes tensors to a storage, or finds that they are there."""

    storage: Storage
    workers: Workers
    known: Mapping[str, Array]
    """Arrays of committed checkpoints, by their paths."""
    done: Callable[[int], None] = lambda _: None
    """Told the bytes of tensors as they are finished."""
    arrays: dict[str, Array] = field(default_factory=dict)
    written_bytes: int = 0

    def write(self, leaves: Iterable[tuple[Leaf, Any]]) -> Iterator[str]:
        """Write tensors, each with how to encode it; yields the paths of their arrays."""
        for window in _windows(leaves):
            plans = [Plan(leaf, config) for leaf, config in window]
            jobs = [(plan, i) for plan in plans for i in range(len(plan.boxes))]
            self.workers.map(lambda job: job[0].hash_chunk(job[1]), jobs)
            paths = [plan.path() for plan in plans]
            fresh: dict[str, Plan] = {}
            for path, plan in zip(paths, plans, strict=True):
                if path not in self.arrays and path not in fresh:
                    known = self.known.get(path)
                    if known is not None and self._is_there(known):
                        self.arrays[path] = known
                    else:
                        fresh[path] = plan
                        continue
                plan.copies = []
                self.done(plan.leaf.nbytes)
            self._write(fresh)
            yield from paths

    def _is_there(self, array: Array) -> bool:
        """Whether all objects of an array are there, in their sizes."""

        def same(item: tuple[str, Object]) -> bool:
            key, expected = item
            try:
                return self.storage.size(key) == expected.size
            except FileNotFoundError:
                return False

        return all(self.workers.map(same, array.items()))

    def _write(self, plans: Mapping[str, Plan]) -> None:
        keys = {
            path: list(grid.chunk_keys(plan.leaf.shape, plan.chunks))
            for path, plan in plans.items()
        }

        def chunk(job: tuple[str, Plan, int]) -> Object:
            path, plan, i = job
            part = plan.chunk(i)
            raw = codecs.encode(part, plan.config)
            key = f"{path}/{keys[path][i]}"
            self.storage.put(key, raw)
            self.done(int(np.prod(grid.sizes(plan.boxes[i]), dtype=np.int64)) * part.itemsize)
            return Object(raw.size, codecs.digest_of(raw, key))

        jobs = [(path, plan, i) for path, plan in plans.items() for i in range(len(plan.boxes))]
        objects = iter(self.workers.map(chunk, jobs))

        def describe(item: tuple[str, Plan]) -> Array:
            path, plan = item
            leaf = plan.leaf
            return write_metadata(
                self.storage, path, leaf.dtype.name, leaf.shape, plan.chunks, plan.config
            )

        for array in self.workers.map(describe, plans.items()):
            found = tuple(next(objects) for _ in plans[array.path].boxes)
            self.arrays[array.path] = complete(array, found)
            self.written_bytes += self.arrays[array.path].encoded_bytes


def write_metadata(
    storage: Storage,
    path: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    config: Any,
) -> Array:
    """Write an array's ``zarr.json``; the array has no chunks yet."""
    codec = codecs.to_json(config)
    text = codecs.metadata(dtype, shape, chunks, codec)
    storage.put(f"{path}/{METADATA}", text)
    return Array(path, dtype, shape, chunks, codec, Object(len(text), hash_bytes(text)), ())


def complete(array: Array, objects: tuple[Object, ...]) -> Array:
    """The array with its chunks."""
    return Array(
        array.path, array.dtype, array.shape, array.chunks, array.codec, array.metadata, objects
    )


def _windows(leaves: Iterable[tuple[Leaf, Any]]) -> Iterator[list[tuple[Leaf, Any]]]:
    """Tensors that are hashed, then encoded together."""
    window: list[tuple[Leaf, Any]] = []
    total = 0
    for leaf, config in leaves:
        if window and total + leaf.nbytes > WINDOW_BYTES:
            yield window
            window, total = [], 0
        window.append((leaf, config))
        total += leaf.nbytes
    if window:
        yield window
