# SPDX-License-Identifier: Apache-2.0
"""Encoding: launches over all blocks of all arrays of a batch.

Everything runs on one stream, in order, and waits for the device once, for the sizes; twice if an
array with zeros turned out to have none that pay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plan
from ..config import LEVELS
from ..frame import max_encoded_bytes, plane_bits
from ..kernels import cuda as kernels, spec
from . import batch as batches
from .batch import ALIGNED, Batch, Upload, place, waves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from .batch import Host, Ints
    from .device import Device, Memory
    from .models import Model


@dataclass
class Source:
    """Words to encode, and where their frame goes."""

    words: int
    """Device address of the little-endian words, contiguous."""
    dtype: DType
    shape: tuple[int, ...]
    block_log: int
    out: int
    """Device address with room for `max_bytes`."""
    flags: int = 0
    """Of the frame: SPARSE, PREDICTED."""
    model: Model | None = None
    """If it is predicted."""
    lz: bool = False
    """Whether blocks and planes may be coded by LZ instead; only without flags."""
    first_word: int = 0
    """The number of the first word in the matrix of the model."""

    @property
    def n_words(self) -> int:
        """Words of the array."""
        return prod(self.shape) * self.dtype.spec.words

    @property
    def n_bytes(self) -> int:
        """Bytes of the array."""
        return self.n_words * self.dtype.spec.word_bytes

    @property
    def n_blocks(self) -> int:
        """Blocks of the array."""
        return -(-self.n_words >> self.block_log)

    @property
    def block_bytes(self) -> int:
        """Bytes of a full block."""
        return self.dtype.spec.word_bytes << self.block_log

    @property
    def max_bytes(self) -> int:
        """The most bytes that its frame can have."""
        return max_encoded_bytes(self.dtype, self.shape, self.block_log)


@dataclass
class Work:
    """The blocks of a batch on their way to frames, which are all plain, or none is."""

    device: Device
    stream: int
    profile: int | None
    """None: all frames are plain, and the kernels of these do."""
    batch: Batch
    lz: bool = False
    """Whether LZ may replace payloads."""
    kept: list[Any] = field(default_factory=list)
    jobs: tuple[int, int] = (0, 0)
    entries: int = 0
    hashes: int = 0
    offsets: int = 0
    packed: int = 0
    """uint32[n_jobs]: whether a block of a sparse frame has left out its zeros."""
    moved: list[tuple[int, int]] = field(default_factory=list)
    """Frames that are not written where they belong: their numbers, and where they are."""

    def memory(self, n_bytes: int) -> int:
        """The address of memory that lives as long as this."""
        found: Memory = self.device.allocate(n_bytes, self.stream)
        self.kept.append(found)
        return found.address

    def launch(self, kernel: str, n: int, n_threads: int, *arguments: int) -> None:
        """Run a kernel on `n` blocks of threads, if any, behind whose jobs these arguments come."""
        if n:
            self.device.launch(kernel, n, n_threads, (*self.jobs, *arguments), self.stream)

    def tell(self, sources: Sequence[Source]) -> None:
        """Upload what the kernels are told of the arrays."""
        batch, upload = self.batch, Upload()
        for i, source in enumerate(sources):
            out = source.out
            if out % ALIGNED:
                out = self.memory(source.max_bytes)
                self.moved.append((i, out))
            batch.describe(
                i,
                source.dtype,
                n_words=source.n_words,
                block_log=source.block_log,
                bits=plane_bits(source.dtype, source.flags),
                flags=source.flags,
                words=place(self.device, source.words, source.n_bytes, self.stream, self.kept),
                frame=out,
            )
            batch.jobs["n_dims"][i] = len(source.shape)
            batch.jobs["shape"][i] = upload.add(np.array(source.shape, np.uint64))
            if source.model is not None:
                source.model.describe(batch.jobs[i], source.first_word)
        assert batch.n_entries < 1 << 31, batch.n_entries  # blocks of threads of a launch
        jobs_at = upload.add(batch.jobs)
        told = self.memory(upload.n_bytes)
        batch.jobs["shape"] += np.uint64(told)  # known only now
        upload.send(self.device, told, self.stream)
        self.jobs = told + jobs_at, len(batch.jobs)
        self.entries = self.memory(4 * batch.n_entries)
        self.hashes, self.offsets = (self.memory(8 * (batch.n_blocks + 1)) for _ in range(2))

    def code(self, *, place_payloads: bool) -> None:
        """Code all blocks, in as many rounds as the memory between the stages asks for."""
        batch = self.batch
        room = int(batch.rooms().max(initial=0))
        entries_before, slots_before = batch.entries_before_blocks(), batch.slots_before_blocks()
        most = max(1, batches.SCRATCH_BYTES // 2 // max(1, room))
        runs = list(waves(slots_before, most)) or [(0, 0)]
        n_slots = max(int(slots_before[last] - slots_before[first]) for first, last in runs)
        symbols, coded = self.memory(room * n_slots), self.memory(room * n_slots)
        counts = coded_entries = sources = 0
        if self.profile is not None:
            counts, coded_entries = self.memory(4 * n_slots), self.memory(4 * n_slots)
            sources = self.memory(4 * batch.n_entries)
            self.packed = self.memory(4 * len(batch.jobs))
            self.device.clear(self.packed, 4 * len(batch.jobs), self.stream)
        by_lz = symbols, coded, room, self.entries
        if self.lz:
            lz_memory = self._lz_memory(max(last - first for first, last in runs))
        for first, last in runs:
            n_blocks, slot = last - first, int(slots_before[first])
            n_here = int(slots_before[last]) - slot
            warps = kernels.ENCODE_WARPS
            per_plane = -(-n_here // warps), 32 * warps
            if self.profile is None:
                planes = symbols, room, self.hashes
                self.launch("split_blocks", n_blocks, kernels.SPLIT_THREADS, first, slot, *planes)
                places = symbols, coded, room, self.entries
                self.launch("encode_planes", *per_plane, slot, n_here, *places)
            else:
                split = symbols, room, counts, self.hashes
                n_threads = kernels.SPLIT_THREADS
                self.launch("split_full_blocks", n_blocks, n_threads, first, slot, *split)
                tried = symbols, coded, room, counts, coded_entries
                self.launch("encode_full_planes", *per_plane, self.profile, slot, n_here, *tried)
                ways = first, n_blocks, slot, coded_entries, self.entries, sources, self.packed
                n_threads = kernels.WAYS_THREADS
                self.launch("choose_ways", -(-n_blocks // n_threads), n_threads, *ways)
            if self.lz:
                n_tasks, *rooms = lz_memory
                which = first, n_blocks, slot
                self.launch("shrink_lz_blocks", min(n_tasks, n_blocks), 32, *which, *rooms, *by_lz)
            self.locate(first, n_blocks)
            if place_payloads:
                begin, end = int(entries_before[first]), int(entries_before[last])
                payloads = begin, symbols, coded, room, self.entries, self.offsets, sources
                self.launch("place_payloads", end - begin, kernels.PLACE_THREADS, *payloads)

    def _lz_memory(self, n_blocks: int) -> tuple[int, int, int, int, int]:
        """How many warps share the blocks; their memory, of one, block bytes and the level.

        Floats do with less memory, as few of their blocks are tried.
        """
        floats = np.isin(self.batch.jobs["transform"], (spec.ROTATE, spec.ROTATE_BIAS)).all()
        most_bytes = batches.SCRATCH_BYTES if floats else batches.LZ_SCRATCH_BYTES
        block_bytes, room, most = self.batch.lz_rooms(most_bytes)
        n_tasks = min(n_blocks, most)
        return n_tasks, self.memory(room * n_tasks), room, block_bytes, LEVELS.index("ratio")

    def locate(self, first: int, n_blocks: int) -> None:
        """Find out where the payloads of blocks go, from their entries."""
        table = self.entries, first, n_blocks, self.offsets
        self.launch("locate_payloads", 1, 32 * kernels.SCAN_WARPS, *table)

    def second_tries(self, sources: Sequence[Source]) -> dict[int, Source]:
        """What is encoded again, in another way, by number; waits for the device."""
        packed = np.zeros(len(sources), np.uint32)
        entries = np.zeros(self.batch.n_entries, np.uint32)
        self.device.download(packed, self.packed, self.stream)
        self.device.download(entries, self.entries, self.stream)
        found = {}
        for i, source in enumerate(sources):
            own = entries[self.batch.first_entry[i] : self.batch.first_entry[i + 1]]
            again = plan.second_try(own, source.flags, source.block_log, packed=bool(packed[i]))
            if again is not None:
                found[i] = replace(source, **again)  # type: ignore[arg-type]
        return found

    def finish(self, sources: Sequence[Source]) -> Host:
        """Write tables, and frames that store their words; wait for the sizes, uint64[n_jobs]."""
        sizes = np.zeros(len(sources), np.uint64)
        at = self.memory(sizes.nbytes)
        n_threads = kernels.SPLIT_THREADS
        self.launch("store_words", self.batch.n_blocks, n_threads, self.offsets)
        frames = self.jobs[0], self.hashes, self.entries, self.offsets, at
        self.device.launch("write_tables", len(sources), n_threads, frames, self.stream)
        self.device.download(sizes, at, self.stream)
        for i, out in self.moved:
            self.device.copy(sources[i].out, out, int(sizes[i]), self.stream)
        return sizes


def _groups(sources: Sequence[Source], profile: int) -> dict[tuple[int | None, bool], list[int]]:
    """What goes in launches of its own: the profile of the kernels, None if frames are plain, and
    whether LZ is tried; with the numbers of the sources.
    """
    groups: dict[tuple[int | None, bool], list[int]] = {}
    for i, source in enumerate(sources):
        assert not (source.lz and source.flags), source
        kind = None if profile == spec.PROFILE_RATIO and not source.flags else profile
        groups.setdefault((kind, source.lz), []).append(i)
    return groups


def encode(
    device: Device, sources: Sequence[Source], stream: int, profile: int = spec.PROFILE_RATIO
) -> list[int]:
    """Encode arrays as frames; waits for their sizes, bytes of each, and returns these.

    `profile` is one of `spec.PROFILES`; with that of ratio and without flags frames are plain.
    """
    sizes = np.zeros(len(sources), np.uint64)
    for (kind, lz), group in _groups(sources, profile).items():
        chosen = [sources[i] for i in group]
        work = Work(device, stream, kind, Batch(len(chosen)), lz)
        work.tell(chosen)
        work.code(place_payloads=True)
        sizes[group] = work.finish(chosen)
        if any(source.flags & spec.SPARSE for source in chosen):
            again = work.second_tries(chosen)
            sizes[[group[i] for i in again]] = encode(device, [*again.values()], stream, profile)
    return [int(size) for size in sizes]


def coded_bytes(device: Device, sources: Sequence[Source], stream: int, profile: int) -> Ints:
    """Bytes of payloads and entries that arrays would have; waits for the device."""
    sizes = np.zeros(len(sources), np.int64)
    for (kind, lz), group in _groups(sources, profile).items():
        chosen = [sources[i] for i in group]
        work = Work(device, stream, kind, Batch(len(chosen)), lz)
        work.tell(chosen)
        work.code(place_payloads=False)
        offsets = np.zeros(work.batch.n_blocks + 1, np.int64)
        device.download(offsets, work.offsets, stream)
        sizes[group] = np.diff(offsets[work.batch.first_block])
        sizes[group] += 4 * np.diff(work.batch.first_entry)
    return sizes
