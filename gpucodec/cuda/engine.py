# SPDX-License-Identifier: Apache-2.0
"""Launches over all blocks of all arrays of a batch.

Everything runs on one stream, in order, and nothing waits for the device but `Decoding.statuses`
and the read-back of the sizes of an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frame import max_encoded_bytes
from ..kernels import cuda as kernels, spec
from .batch import Batch, Upload, waves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from ..frame import Frame
    from .device import Device, Memory

    Host = np.ndarray[Any, Any]

SCRATCH_BYTES = 256 << 20  # between the stages; what needs more goes in several launches
_ALIGNED = 16  # bytes that kernels move at a time


@dataclass
class Piece:
    """Blocks `first` to `last` - 1 of a parsed frame, and where they and their words are."""

    frame: Frame
    payload: int | Host
    """The payloads of these blocks: a device address, or host bytes that are uploaded."""
    out: int
    """Device address for the decoded words of these blocks."""
    first: int
    last: int

    @property
    def n_words(self) -> int:
        """Words of these blocks."""
        frame = self.frame
        return min(self.last * frame.block_words, frame.n_words) - self.first * frame.block_words

    @property
    def payload_bytes(self) -> int:
        """Encoded bytes of these blocks."""
        return int(self.frame.offsets[self.last] - self.frame.offsets[self.first])

    @property
    def out_bytes(self) -> int:
        """Decoded bytes of these blocks."""
        return self.n_words * self.frame.dtype.spec.word_bytes


@dataclass
class Decoding:
    """Work that was queued on a stream."""

    device: Device
    stream: int
    memory: Memory | None = None
    first_block: Host = field(default_factory=lambda: np.zeros(1, np.int64))
    kept: list[Any] = field(default_factory=list)
    """What the queued work still reads."""

    def statuses(self) -> list[Host]:
        """Wait for the stream; uint8[n_blocks] for each piece, in the codes of the format."""
        found = np.zeros(int(self.first_block[-1]), np.uint8)
        if self.memory is not None:
            self.device.download(found, self.memory.address, self.stream)
        return [found[first:last] for first, last in pairwise(self.first_block)]


def _place(device: Device, data: int | Host, n_bytes: int, stream: int, kept: list[Any]) -> int:
    """The 16-byte aligned address of the data: where it is, or of a copy."""
    if isinstance(data, int) and data % _ALIGNED == 0:
        return data
    memory = device.allocate(n_bytes, stream)
    kept.append(memory)
    if isinstance(data, int):
        device.copy(memory.address, data, n_bytes, stream)
    else:
        device.upload(memory.address, data, stream)
    return memory.address


def decode(device: Device, pieces: Sequence[Piece], stream: int) -> Decoding:
    """Queue the decoding of blocks; returns without waiting for the device.

    What is not sound becomes zeros, and has a status other than OK.
    """
    kept: list[Any] = []
    batch = Batch(len(pieces))
    moved = []
    for i, piece in enumerate(pieces):
        frame = piece.frame
        payload = _place(device, piece.payload, piece.payload_bytes, stream, kept)
        out = piece.out
        if out % _ALIGNED:
            memory = device.allocate(piece.out_bytes, stream)
            kept.append(memory)
            out = memory.address
            moved.append((piece.out, out, piece.out_bytes))
        batch.describe(
            i,
            frame.dtype,
            n_words=piece.n_words,
            block_log=frame.block_log,
            n_planes=frame.entries.shape[1],
            words=out,
            frame=payload - int(frame.offsets[piece.first]),
        )
    decoding = Decoding(device, stream, None, batch.first_block, kept)
    if batch.n_blocks:
        _decode_blocks(device, pieces, batch, decoding)
    for to, at, n_bytes in moved:
        device.copy(to, at, n_bytes, stream)
    return decoding


def _decode_blocks(
    device: Device, pieces: Sequence[Piece], batch: Batch, decoding: Decoding
) -> None:
    stream = decoding.stream
    parts = [(piece.frame, slice(piece.first, piece.last)) for piece in pieces]
    entries = np.concatenate([frame.entries[run].reshape(-1) for frame, run in parts])
    coders = entries >> np.uint32(spec.ENTRY_CODER_SHIFT)
    assert entries.size < 1 << 32, entries.size  # of the lists below
    before = batch.entries_before_blocks()
    coded = (coders == spec.RANS8) | (coders == spec.RANS12)
    coded_before = np.concatenate([[0], np.cumsum(coded)])[before]
    room = batch.room()
    most = max(1, SCRATCH_BYTES // room)

    slots = np.zeros(entries.size, np.uint32)
    launches = []
    for first, last in waves(coded_before, most):
        run = slice(before[first], before[last])
        tasks = [np.flatnonzero(coders[run] == c) + run.start for c in (spec.RANS8, spec.RANS12)]
        slots[np.concatenate(tasks)] = np.arange(len(tasks[0]) + len(tasks[1]))
        launches.append((first, last, tasks))

    upload = Upload()
    jobs_at = upload.add(batch.jobs)
    entries_at = upload.add(entries)
    offsets_at = upload.add(np.concatenate([frame.offsets[:-1][run] for frame, run in parts]))
    hashes_at = upload.add(np.concatenate([frame.hashes[run] for frame, run in parts]))
    slots_at = upload.add(slots)
    tasks_at = [
        [upload.add(numbers.astype(np.uint32)) for numbers in tasks] for _, _, tasks in launches
    ]
    n_slots = max(len(tasks[0]) + len(tasks[1]) for _, _, tasks in launches)
    told = device.allocate(upload.n_bytes, stream)
    symbols = device.allocate(room * n_slots, stream)
    plane_status = device.allocate(entries.size, stream)
    decoding.memory = device.allocate(batch.n_blocks, stream)
    decoding.kept += [told, symbols, plane_status]
    device.upload(told.address, upload.joined(), stream)

    jobs = (told.address + jobs_at, len(batch.jobs))
    table = (told.address + entries_at, told.address + offsets_at)
    for (first, last, tasks), places in zip(launches, tasks_at, strict=True):
        slot = symbols.address
        for kernel, warps, numbers, at in zip(
            ("decode_rans8", "decode_rans12"),
            (kernels.WARPS_8, kernels.WARPS_12),
            tasks,
            places,
            strict=True,
        ):
            if len(numbers):
                task = (told.address + at, len(numbers), slot, room, plane_status.address)
                n_blocks = -(-len(numbers) // warps)
                device.launch(kernel, n_blocks, 32 * warps, (*jobs, *table, *task), stream)
            slot += room * len(numbers)
        device.launch(
            "decode_blocks",
            last - first,
            kernels.MERGE_THREADS,
            (
                *(*jobs, *table, told.address + hashes_at, told.address + slots_at),
                *(symbols.address, room, plane_status.address, first, decoding.memory.address),
            ),
            stream,
        )


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

    @property
    def n_words(self) -> int:
        """Words of the array."""
        return prod(self.shape) * self.dtype.spec.words

    @property
    def n_bytes(self) -> int:
        """Bytes of the array."""
        return self.n_words * self.dtype.spec.word_bytes

    @property
    def max_bytes(self) -> int:
        """The most bytes that its frame can have."""
        return max_encoded_bytes(self.dtype, self.shape, self.block_log)


def encode(device: Device, sources: Sequence[Source], stream: int) -> list[int]:
    """Encode arrays as frames; waits for their sizes, bytes of each, and returns these."""
    if not sources:
        return []
    kept: list[Any] = []
    batch = Batch(len(sources))
    upload = Upload()
    moved = []
    for i, source in enumerate(sources):
        words = _place(device, source.words, source.n_bytes, stream, kept)
        out = source.out
        if out % _ALIGNED:
            memory = device.allocate(source.max_bytes, stream)
            kept.append(memory)
            out = memory.address
            moved.append((i, out))
        batch.describe(
            i,
            source.dtype,
            n_words=source.n_words,
            block_log=source.block_log,
            n_planes=len(source.dtype.spec.planes),
            words=words,
            frame=out,
        )
        batch.jobs["n_dims"][i] = len(source.shape)
        batch.jobs["shape"][i] = upload.add(np.array(source.shape, np.uint64))
    sizes = np.zeros(len(sources), np.uint64)
    device.download(sizes, _encode_blocks(device, batch, upload, stream, kept), stream)
    for i, out in moved:
        device.copy(sources[i].out, out, int(sizes[i]), stream)
    return [int(size) for size in sizes]


def _encode_blocks(
    device: Device, batch: Batch, upload: Upload, stream: int, kept: list[Any]
) -> int:
    """Queue all kernels; the address of the sizes, uint64[n_jobs]."""
    n_jobs, n_blocks = len(batch.jobs), batch.n_blocks
    assert batch.n_entries < 1 << 31, batch.n_entries  # blocks of threads of a launch
    jobs_at = upload.add(batch.jobs)
    told = device.allocate(upload.n_bytes, stream)
    batch.jobs["shape"] += np.uint64(told.address)  # known only now
    device.upload(told.address, upload.joined(), stream)

    room = batch.room()
    before = batch.entries_before_blocks()
    runs = list(waves(before, max(1, SCRATCH_BYTES // 2 // max(1, room)))) or [(0, 0)]
    n_slots = max(int(before[last] - before[first]) for first, last in runs)
    symbols, coded = (device.allocate(room * n_slots, stream) for _ in range(2))
    entries = device.allocate(4 * batch.n_entries, stream)
    hashes, offsets = (device.allocate(8 * (n_blocks + 1), stream) for _ in range(2))
    sizes = device.allocate(8 * n_jobs, stream)
    kept += [told, symbols, coded, entries, hashes, offsets, sizes]

    jobs = (told.address + jobs_at, n_jobs)
    for first, last in runs:
        begin, count = int(before[first]), int(before[last] - before[first])
        planes = (symbols.address, coded.address, room, entries.address)

        def launch(kernel: str, n: int, n_threads: int, *arguments: int) -> None:
            if n:
                device.launch(kernel, n, n_threads, (*jobs, *arguments), stream)

        per_block = (first, begin, symbols.address, room, hashes.address)
        launch("split_blocks", last - first, kernels.SPLIT_THREADS, *per_block)
        warps = kernels.ENCODE_WARPS
        launch("encode_planes", -(-count // warps), 32 * warps, begin, count, *planes)
        table = (entries.address, first, last - first, offsets.address)
        launch("locate_payloads", 1, 32 * kernels.SCAN_WARPS, *table)
        per_entry = (begin, *planes, offsets.address)
        launch("place_payloads", count, kernels.PLACE_THREADS, *per_entry)
    if n_blocks:
        last_pass = (*jobs, offsets.address)
        device.launch("store_words", n_blocks, kernels.SPLIT_THREADS, last_pass, stream)
    frames = (jobs[0], hashes.address, entries.address, offsets.address, sizes.address)
    device.launch("write_tables", n_jobs, kernels.SPLIT_THREADS, frames, stream)
    return sizes.address
