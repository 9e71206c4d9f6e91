# SPDX-License-Identifier: Apache-2.0
"""Reading headers and tables of frames on a device: a launch and a copy for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import frame as frames
from ..codec import is_quantized
from ..errors import GpucodecError
from ..kernels import cuda as kernels, quantspec
from ..quant.frame import prefix_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..buffers import Bytes
    from .device import Device

GUESS = 1 << 14  # bytes of a frame that are read back at first: most tables
N_DIMS = 6  # the byte of a header that says how long the shape is
MOST = 4 << 20  # of all frames together, as long as that leaves room for headers


def fetch(device: Device, runs: Sequence[tuple[int, int]], stream: int) -> list[Bytes]:
    """Copies of runs of device memory, address and bytes of each; waits for the device once."""
    if not runs:
        return []
    sizes = np.array([n_bytes for _, n_bytes in runs], np.int64)
    ends = np.cumsum(sizes)
    told = np.zeros(len(runs), kernels.RUN)
    told["from"], told["n_bytes"] = [address for address, _ in runs], sizes
    told["to"] = ends - sizes
    whole = np.empty(int(ends[-1]), np.uint8)
    memory = device.allocate(told.nbytes, stream)
    gathered = device.allocate(whole.size, stream)
    device.upload(memory.address, told.view(np.uint8), stream)
    arguments = (memory.address, gathered.address)
    device.launch("gather_runs", len(runs), kernels.GATHER_THREADS, arguments, stream)
    device.download(whole, gathered.address, stream)
    return np.split(whole, ends[:-1])


def read(device: Device, places: Sequence[tuple[int, int]], stream: int) -> list[Bytes]:
    """What stands before the payloads of frames, address and bytes of each; of containers, before
    their frames. Less if a frame ends before, or does not start like one: parsing will tell.
    """
    guess = max(quantspec.HEADER_BYTES, min(GUESS, MOST // max(1, len(places))))
    heads = fetch(device, [(at, min(n, guess)) for at, n in places], stream)
    again = []
    for i, head in enumerate(heads):
        needed = min(_needed(head), places[i][1])
        if needed > head.size:
            again.append((i, needed))
    longer = fetch(device, [(places[i][0], needed) for i, needed in again], stream)
    for (i, _), head in zip(again, longer, strict=True):
        heads[i] = head
    return heads


def _needed(head: Bytes) -> int:
    try:
        if is_quantized(head) and head.size >= quantspec.HEADER_BYTES:
            return prefix_bytes(int(head[N_DIMS]))
        return frames.table_bytes(head)
    except GpucodecError:
        return 0
