# SPDX-License-Identifier: Apache-2.0
"""Turn LZ planes into raw ones, for the decoder of planes.

A module of its own, imported late: frames without LZ never compile it. Nothing here trusts a
payload, and nothing raises: each block gets a status.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import lz
from .entries import aligned, payload_bytes
from .jit import SOURCES, entry_point, readonly_bytes
from .lz_decode import decode_payload
from .spec import (
    ENTRY_CODER_SHIFT,
    LZ,
    OK,
    RAW,
)
from .vector import copy_bytes

_SCRATCH = typeof(lz.scratch())
_ENTRIES = types.Array(types.uint32, 2, "C", readonly=True)


def _expand_blocks(sources: int) -> Any:
    @entry_point(
        types.void(
            *(readonly_bytes, types.int64, types.int64, types.uint8[::1]),
            *(types.uint32[:, ::1], types.uint8[::1], _SCRATCH),
        )
    )
    def expand_blocks(  # type: ignore[no-untyped-def]
        payload, block_words, n_words, out, entries, status, scratch
    ):
        """Copy the payloads of blocks of `n_words` words to `out` (uint8), LZ planes as raw ones.

        `entries` uint32[n_blocks, n_planes] become those of `out`; `status` uint8[n_blocks] says how
        each block went. `out` has room for the payloads, LZ planes as long as their symbols.
        """
        assert sources
        source, at = 0, 0
        target = np.uint64(out.ctypes.data)
        for b in range(status.size):
            status[b] = OK
            n = min(block_words, n_words - b * block_words)
            for p in range(entries.shape[1]):
                entry = np.int64(entries[b, p])
                end = source + payload_bytes(entry)
                if entry >> ENTRY_CODER_SHIFT == LZ:
                    found = decode_payload(payload, source, end, out[at : at + n], scratch)
                    status[b] = max(status[b], found)
                    entries[b, p] = RAW << ENTRY_CODER_SHIFT | n
                    for i in range(at + n, aligned(at + n)):
                        out[i] = 0
                    at = aligned(at + n)
                else:
                    size = aligned(end) - source
                    old = np.uint64(payload.ctypes.data) + np.uint64(source)
                    assert at + size <= out.size
                    copy_bytes(target + np.uint64(at), old, np.uint64(size))
                    at += size
                source = aligned(end)

    return expand_blocks


expand_blocks = _expand_blocks(SOURCES)
