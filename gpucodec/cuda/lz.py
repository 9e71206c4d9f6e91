# SPDX-License-Identifier: Apache-2.0
"""Encoding by LZ: all blocks of all arrays of a batch are coded by LZ, or left as they are.

A block is the work of one warp. LZ beside other coders is a stage of `encoding.Work.code`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import LEVELS
from ..kernels import cuda as kernels
from . import batch as batches
from .batch import Batch
from .encoding import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import LZConfig
    from .device import Device
    from .encoding import Source


def encode(device: Device, sources: Sequence[Source], config: LZConfig, stream: int) -> list[int]:
    """Encode arrays as frames; waits for their sizes, bytes of each, and returns these."""
    batch = Batch(len(sources))
    work = Work(device, stream, None, batch)
    work.tell(sources)
    block_bytes, room, most = batch.lz_rooms(batches.LZ_SCRATCH_BYTES)
    memory = work.memory(room * min(batch.n_blocks, most))
    for first in range(0, batch.n_blocks, most):
        n = min(most, batch.n_blocks - first)
        blocks = first, memory, room, block_bytes
        choices = config.typesize or 0, LEVELS.index(config.level)
        work.launch("match_lz_blocks", n, 32, *blocks, *choices)
        work.launch("code_lz_blocks", n, 32, *blocks, work.entries)
        work.locate(first, n)
        places = work.offsets, work.hashes
        work.launch("place_lz_blocks", n, kernels.LZ_PLACE_THREADS, *blocks, *places)
    return [int(size) for size in work.finish(sources)]
