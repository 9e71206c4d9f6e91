# SPDX-License-Identifier: Apache-2.0
"""Encoding by LZ: all blocks of all arrays of a batch are coded by LZ, or left as they are.

A block is the work of one warp, and takes some 600 KiB of memory between the stages. So there is more
of it than elsewhere: the more blocks at once, the faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import LEVELS
from ..kernels import cuda as kernels
from .batch import ALIGNED, Batch, Upload, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import LZConfig
    from .device import Device
    from .encoding import Source

SCRATCH_BYTES = 1 << 30


def encode(
    device: Device, sources: Sequence[Source], config: LZConfig, stream: int
) -> list[int]:
    """Encode arrays as frames; waits for their sizes, bytes of each, and returns these."""
    kept: list[Any] = []
    batch, upload = Batch(len(sources)), Upload()
    moved = []
    for i, source in enumerate(sources):
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
            words=place(device, source.words, source.n_bytes, stream, kept),
            frame=out,
        )
        batch.jobs["n_dims"][i] = len(source.shape)
        batch.jobs["shape"][i] = upload.add(np.array(source.shape, np.uint64))
    jobs_at = upload.add(batch.jobs)
    told = device.allocate(upload.n_bytes, stream)
    batch.jobs["shape"] += np.uint64(told.address)  # known only now
    device.upload(told.address, upload.joined(), stream)
    kept.append(told)

    n_blocks = batch.n_blocks
    block_bytes = int((batch.rooms() * batch.jobs["word_bytes"]).max(initial=0))
    room = kernels.lz_block_bytes(block_bytes)
    most = max(1, min(n_blocks, SCRATCH_BYTES // room))
    memory, entries, hashes, offsets, frame_bytes = (
        device.allocate(n_bytes, stream)
        for n_bytes in (
            *(room * most, 4 * batch.n_entries, 8 * (n_blocks + 1), 8 * (n_blocks + 1)),
            8 * len(sources),
        )
    )
    kept += [memory, entries, hashes, offsets, frame_bytes]
    jobs = told.address + jobs_at, len(sources)

    def launch(kernel: str, n: int, n_threads: int, *arguments: int) -> None:
        device.launch(kernel, n, n_threads, (*jobs, *arguments), stream)

    for first in range(0, n_blocks, most):
        n = min(most, n_blocks - first)
        blocks = first, memory.address, room, block_bytes
        choices = config.typesize or 0, LEVELS.index(config.level)
        launch("match_lz_blocks", n, 32, *blocks, *choices)
        launch("code_lz_blocks", n, 32, *blocks, entries.address)
        table = entries.address, first, n, offsets.address
        launch("locate_payloads", 1, 32 * kernels.SCAN_WARPS, *table)
        places = offsets.address, hashes.address
        launch("place_lz_blocks", n, kernels.LZ_PLACE_THREADS, *blocks, *places)
    if n_blocks:
        launch("store_words", n_blocks, kernels.SPLIT_THREADS, offsets.address)
    frames = jobs[0], hashes.address, entries.address, offsets.address, frame_bytes.address
    device.launch("write_tables", len(sources), kernels.SPLIT_THREADS, frames, stream)
    sizes = np.zeros(len(sources), np.uint64)
    device.download(sizes, frame_bytes.address, stream)
    for i, out in moved:
        device.copy(sources[i].out, out, int(sizes[i]), stream)
    return [int(size) for size in sizes]
