# SPDX-License-Identifier: Apache-2.0
"""Encoding: launches over all blocks of all arrays of a batch.

Everything runs on one stream, in order, and waits for the device once, for the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frame import max_encoded_bytes
from ..kernels import cuda as kernels
from . import batch as batches
from .batch import ALIGNED, Batch, Upload, place, waves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from .device import Device


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
        words = place(device, source.words, source.n_bytes, stream, kept)
        out = source.out
        if out % ALIGNED:
            memory = device.allocate(source.max_bytes, stream)
            kept.append(memory)
            out = memory.address
            moved.append((i, out))
        batch.describe(
            i,
            source.dtype,
            n_words=source.n_words,
            block_log=source.block_log,
            bits=source.dtype.spec.planes,
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

    room = int(batch.rooms().max())
    before = batch.entries_before_blocks()
    runs = list(waves(before, max(1, batches.SCRATCH_BYTES // 2 // max(1, room)))) or [(0, 0)]
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
