# SPDX-License-Identifier: Apache-2.0
"""The block table's entries: where a plane's payload starts and ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .jit import SOURCES, entry_point, kernel
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


def _entry_point(sources: str) -> Any:
    @entry_point(
        types.int64(types.Array(types.uint32, 2, "C", readonly=True), types.int64, types.int64[::1])
    )
    def locate_payloads(entries, start, offsets):  # type: ignore[no-untyped-def]
        """Fill `offsets` int64[n_blocks + 1]: where each block's payloads start, and the end.

        `entries` uint32[n_blocks, n_planes]; `start` is where the first payload starts. Returns the
        highest coder.
        """
        assert sources
        coder = 0
        for block in range(entries.shape[0]):
            offsets[block] = start
            for plane in range(entries.shape[1]):
                entry = np.int64(entries[block, plane])
                coder = max(coder, entry >> ENTRY_CODER_SHIFT)
                start += aligned(payload_bytes(entry))
        offsets[entries.shape[0]] = start
        return coder

    return locate_payloads


locate_payloads = _entry_point(SOURCES)
