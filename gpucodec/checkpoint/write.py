# SPDX-License-Identifier: Apache-2.0
"""Writing tensors as content-named zarr arrays.

An array's folder is named by a hash of its elements, data type, shape, chunks and codec. So equal
tensors are stored once, what a committed checkpoint has already is not written again, and nothing
that is referred to is ever overwritten.
"""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ..config import DEFAULT_CONFIG, TensorConfig
from ..errors import GpucodecError
from . import codecs, grid
from .hashing import hash_bytes
from .manifest import METADATA, OPERATIONS, Array, Delta, Object, Rounding, stored_type
from .read import difference, read_whole_chunk

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
MAX_DELTA_ITEM: Final = 8  # bytes of elements that can be subtracted as integers


def _folder(says: list[Any], hashes: bytes = b"") -> str:
    """Where an array goes of which all that counts is `says` and `hashes`."""
    digest = sha256(json.dumps(says).encode() + hashes).hexdigest()
    return f"{FOLDER}/{digest[: 2 * NAME_BYTES]}"


class DamagedBaseError(Exception):
    """What a chunk shall be a difference to cannot be read."""

    def __init__(self, reason: GpucodecError) -> None:
        super().__init__(str(reason))
        self.reason = reason


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
    is_told: list[bool] = field(default_factory=list)
    """Of chunks that were written, perhaps in vain: they count once."""
    base: Array | None = None
    """What it shall be a difference to."""
    op: str | None = None

    def __post_init__(self) -> None:
        self.chunks = grid.chunk_shape(self.leaf.shape, self.leaf.dtype.itemsize)
        self.boxes = list(grid.boxes(self.leaf.shape, self.chunks))
        self.copies = [None] * len(self.boxes)
        self.hashes = [0] * len(self.boxes)
        self.is_told = [False] * len(self.boxes)

    def hash_chunk(self, i: int) -> None:
        """Hash a chunk's elements."""
        part = self.leaf.chunk(self.boxes[i])
        self.hashes[i] = hash_bytes(part.reshape(-1).view(np.uint8))
        if self.leaf.is_view or self.leaf.nbytes <= WINDOW_BYTES:
            self.copies[i] = part

    def content(self) -> str:
        """The array's folder, if it is stored in full: a hash of all that decides its bytes."""
        says = [self.leaf.dtype.name, self.leaf.shape, self.chunks, codecs.to_json(self.config)]
        return _folder(says, np.array(self.hashes, "<u8").tobytes())

    def path(self) -> str:
        """The array's folder."""
        full = self.content()
        if self.base is None or self.op is None:
            return full
        return _folder([full, self.base.path, self.op])

    def choose(self, storage: Storage) -> None:
        """Decide by one chunk whether a difference to the base is smaller, and which."""
        if self.base is None:
            return
        i = len(self.boxes) // 2
        whole = self._whole(i)
        try:
            base = read_whole_chunk(storage, self.base, i)
        except GpucodecError as error:
            self.give_up(error)
            return
        sizes: dict[str | None, int] = {None: codecs.encode(whole, self.config).size}
        for op in OPERATIONS:
            sizes[op] = codecs.encode(difference(op, whole, base), DEFAULT_CONFIG).size
        self.op = min(sizes, key=lambda op: sizes[op])

    def give_up(self, error: GpucodecError) -> None:
        """Store the tensor in full after all, as what it would be a difference to is damaged."""
        self.base = None
        message = (
            f"{self.leaf.name} is stored in full, what it would differ from is damaged: {error}"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    def encode(self, i: int, storage: Storage) -> Any:
        """A chunk as it is stored.

        Raises
        ------
        DamagedBaseError
            It would be a difference to a chunk that cannot be read.

        """
        base: Host | None = None
        if self.base is not None and self.op is not None:
            try:
                base = read_whole_chunk(storage, self.base, i)
            except GpucodecError as error:
                raise DamagedBaseError(error) from error
        whole = self._whole(i)
        self.copies[i] = None
        if base is None or self.op is None:
            return codecs.encode(whole, self.config)
        return codecs.encode(difference(self.op, whole, base), DEFAULT_CONFIG)

    def _whole(self, i: int) -> Host:
        """A chunk in full size: at the edge of the tensor, padded with zeros."""
        part = self.copies[i]
        if part is None:
            part = self.leaf.chunk(self.boxes[i])
        if part.shape == self.chunks:
            return part
        padded = np.zeros(self.chunks, part.dtype)
        padded[tuple(slice(0, n) for n in part.shape)] = part
        return padded


class Reference(NamedTuple):
    """A tensor that is not stored, as it is the rounding of one that is."""

    dtype: str
    codec: dict[str, Any]
    content: str

    def to(self, source: Array) -> Array:
        """As an array of the checkpoint."""
        path = _folder([self.content, "rounding", source.path])
        origin, nothing = Rounding(source, self.content), Object(0, 0)
        shape, chunks = source.shape, source.chunks
        return Array(path, self.dtype, shape, chunks, self.codec, nothing, (), None, origin)


@dataclass
class Writer:
    """Writes tensors to a storage, or finds that they are there."""

    storage: Storage
    workers: Workers
    known: Mapping[str, Array]
    """Arrays of committed checkpoints, by their paths."""
    done: Callable[[int], None] = lambda _: None
    """Told the bytes of tensors as they are finished."""
    bases: Mapping[str, Array] = field(default_factory=dict)
    """By names of tensors: arrays to which differences may be stored."""
    arrays: dict[str, Array] = field(default_factory=dict)
    _paths: dict[str, str] = field(default_factory=dict)
    """Of what was written or found, by content."""
    written_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """What encoding took, of one thread, by paths of arrays."""

    def write(self, leaves: Iterable[tuple[Leaf, Any]]) -> Iterator[str]:
        """Write tensors, each with how to encode it; yields the paths of their arrays."""
        stored = (array for array in self.known.values() if array.rounding is None)
        by_content = {array.content: array for array in stored}
        for window in _windows(leaves):
            plans = [Plan(leaf, config) for leaf, config in window]
            jobs = [(plan, i) for plan in plans for i in range(len(plan.boxes))]
            self.workers.map(lambda job: job[0].hash_chunk(job[1]), jobs)
            contents = [plan.content() for plan in plans]
            fresh: dict[str, Plan] = {}
            for content, plan in zip(contents, plans, strict=True):
                if content not in self._paths and content not in fresh:
                    known = by_content.get(content)
                    if known is None or not self._is_there(known):
                        fresh[content] = plan
                        continue
                    self._add(known)
                plan.copies = []
                self.done(plan.leaf.nbytes)
            for plan in fresh.values():
                plan.base = self._base(plan)
            self.workers.map(lambda plan: plan.choose(self.storage), fresh.values())
            self._write({plan.path(): plan for plan in fresh.values()})
            yield from (self._paths[content] for content in contents)

    def _add(self, array: Array) -> None:
        """Make an array, and what it is a difference to, part of the checkpoint."""
        self._paths[array.content] = array.path
        self.arrays |= {one.path: one for one in array.chain}

    def _base(self, plan: Plan) -> Array | None:
        """What a tensor may be a difference to: one like it that is there."""
        base = self.bases.get(plan.leaf.name)
        if base is None or base.rounding or not isinstance(plan.config, TensorConfig):
            return None
        like = (plan.leaf.dtype.name, plan.leaf.shape, plan.chunks)
        fits = (base.dtype, base.shape, base.chunks) == like and plan.boxes
        is_word = plan.leaf.dtype.itemsize <= MAX_DELTA_ITEM
        is_exact = base.codec["name"] == codecs.LOSSLESS
        return base if fits and is_word and is_exact and self._is_there(base) else None

    def _is_there(self, array: Array) -> bool:
        """Whether all objects of an array are there, in their sizes."""

        def same(item: tuple[str, Object]) -> bool:
            key, expected = item
            try:
                return self.storage.size(key) == expected.size
            except FileNotFoundError:
                return False

        return all(self.workers.map(same, [item for one in array.chain for item in one.items()]))

    def refer(self, leaf: Leaf, config: Any) -> Reference:
        """Take down what there is to say of a tensor that is the rounding of another."""
        plan = Plan(leaf, config)
        for i in range(len(plan.boxes)):
            plan.hash_chunk(i)
        self.done(leaf.nbytes)
        return Reference(leaf.dtype.name, codecs.to_json(config), plan.content())

    def _write(self, plans: Mapping[str, Plan]) -> None:
        keys = {
            path: list(grid.chunk_keys(plan.leaf.shape, plan.chunks))
            for path, plan in plans.items()
        }

        spent: list[tuple[str, float]] = []  # appended to by many threads

        def chunk(job: tuple[str, Plan, int]) -> Object | GpucodecError:
            path, plan, i = job
            started = time.thread_time()
            try:
                raw = plan.encode(i, self.storage)
            except DamagedBaseError as error:
                return error.reason
            spent.append((path, time.thread_time() - started))
            key = f"{path}/{keys[path][i]}"
            self.storage.put(key, raw)
            if not plan.is_told[i]:
                plan.is_told[i] = True
                self.done(prod(grid.sizes(plan.boxes[i])) * plan.leaf.dtype.itemsize)
            return Object(raw.size, codecs.digest_of(raw, key))

        jobs = [(path, plan, i) for path, plan in plans.items() for i in range(len(plan.boxes))]
        objects: dict[str, list[Object]] = {path: [] for path in plans}
        failed: dict[str, Plan] = {}
        for (path, plan, _), found in zip(jobs, self.workers.map(chunk, jobs), strict=True):
            if isinstance(found, Object):
                objects[path].append(found)
            elif path not in failed:
                plan.give_up(found)
                failed[path] = plan
        for path, seconds in spent:
            self.seconds[path] = self.seconds.get(path, 0.0) + seconds
        if failed:
            plans = {path: plan for path, plan in plans.items() if path not in failed}
            self._write({plan.path(): plan for plan in failed.values()})

        def describe(item: tuple[str, Plan]) -> Array:
            path, plan = item
            leaf, dtype, config, delta = plan.leaf, plan.leaf.dtype.name, plan.config, None
            if plan.base is not None and plan.op is not None:
                dtype, config = stored_type(plan.op, leaf.dtype.itemsize), DEFAULT_CONFIG
                delta = Delta(plan.base, plan.op, plan.content())
            array = write_metadata(self.storage, path, dtype, leaf.shape, plan.chunks, config)
            return replace(array, dtype=leaf.dtype.name, delta=delta)

        for array in self.workers.map(describe, plans.items()):
            self._add(replace(array, objects=tuple(objects[array.path])))
            self.written_bytes += self.arrays[array.path].encoded_bytes


def write_metadata(
    storage: Storage,
    path: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    config: Any,
    order: tuple[int, ...] | None = None,
) -> Array:
    """Write an array's ``zarr.json``; the array has no chunks yet."""
    codec = codecs.to_json(config)
    text = codecs.metadata(dtype, shape, chunks, codec, order)
    storage.put(f"{path}/{METADATA}", text)
    described = Object(len(text), hash_bytes(text))
    return Array(path, dtype, shape, chunks, codec, described, (), order=order)


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
