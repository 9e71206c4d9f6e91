# SPDX-License-Identifier: Apache-2.0
"""Decode a run of blocks that are LZ as a whole.

A module of its own, imported late: frames without LZ never compile it. Nothing here trusts a
payload, and nothing raises: each block gets a status.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import lz
from .checksum import xxh3
from .entries import aligned, payload_bytes
from .jit import SOURCES, entry_point, readonly_bytes
from .lz_decode import decode_payload
from .spec import (
    BAD_HASH,
    OK,
)

_SCRATCH = typeof(lz.scratch())
_ENTRIES = types.Array(types.uint32, 2, "C", readonly=True)


def _decode_blocks(sources: int) -> Any:
    @entry_point(
        types.void(
            *(readonly_bytes, _ENTRIES, types.Array(types.uint64, 1, "C", readonly=True)),
            *(types.int64, types.uint8[::1], types.uint8[::1], _SCRATCH),
        )
    )
    def decode_blocks(  # type: ignore[no-untyped-def]
        payload, entries, hashes, block_bytes, raw, status, scratch
    ):
        """Decode blocks whose first entry (uint32[n_blocks, n_planes]) is all of them.

        `payload` (uint8) holds the padded payloads that the entries name; `raw` (uint8) becomes
        the words. `status` uint8[n_blocks] says how each block went.
        """
        assert sources
        at = 0
        for b in range(hashes.size):
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            end = at + payload_bytes(np.int64(entries[b, 0]))
            status[b] = decode_payload(payload, at, end, block, scratch)
            if status[b] == OK and xxh3(np.uint64(block.ctypes.data), block.size) != hashes[b]:
                status[b] = BAD_HASH
            at = aligned(end)

    return decode_blocks


decode_blocks = _decode_blocks(SOURCES)
