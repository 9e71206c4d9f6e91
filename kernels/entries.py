# SPDX-License-Identifier: Apache-2.0
"""The block table's entries: where a plane's payload starts and ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .jit import SOURCES, entry_point, inlined, kernel
from .spec import ALIGNMENT, CONSTANT, ENTRY_ARGUMENT_MASK, ENTRY_CODER_SHIFT, ROW

PLANE_ROOM = 2 * ROW  # behind a plane's last symbol: a full row, and what a vector store overlaps


@kernel
def aligned(size: int) -> int:
    """`size` rounded up to where the next payload may start."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@kernel
def payload_bytes(entry: int) -> int:
    """Bytes of the payload that an entry (int64) names, without padding."""
    return 0 if (entry >> ENTRY_CODER_SHIFT) == CONSTANT else entry & ENTRY_ARGUMENT_MASK


@inlined
def pad(out, end):  # type: ignore[no-untyped-def]
    """Zeros from `end` up to where the next payload starts, which is returned."""
    for i in range(end, aligned(end)):
        out[i] = 0
    return aligned(end)


def _entry_point(sources: int) -> Any:
    @entry_point(
        types.int64(types.Array(types.uint32, 2, "C", readonly=True), types.int64, types.int64[::1])
    )
    def locate_payloads(entries, start, offsets):  # type: ignore[no-untyped-def]
        """Fill `offsets` int64[n_blocks + 1]: where each block's payloads start, and the end.

        `entries` uint32[n_blocks, n_planes]; `start` is where the first payload starts. Returns which
        coders are used: bit `c` for coder `c`, bit 62 for 62 and above.
        """
        assert sources
        used = 0
        for block in range(entries.shape[0]):
            offsets[block] = start
            for plane in range(entries.shape[1]):
                entry = np.int64(entries[block, plane])
                used |= 1 << min(entry >> ENTRY_CODER_SHIFT, np.int64(62))
                start += aligned(payload_bytes(entry))
        offsets[entries.shape[0]] = start
        return used

    return locate_payloads


locate_payloads = _entry_point(SOURCES)
