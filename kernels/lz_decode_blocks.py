# SPDX-License-Identifier: Apache-2.0
"""Decode a run of blocks that are LZ as a whole, or turn LZ planes of other blocks into raw ones.

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
from .jit import SOURCES, entry_point, inlined, readonly_bytes
from .lz_decode import decode_block
from .spec import (
    BAD_HASH,
    BAD_PADDING,
    ENTRY_CODER_SHIFT,
    LZ,
    OK,
    RAW,
)
from .vector import copy_bytes

scratch = lz.scratch
_SCRATCH = typeof(scratch())
_ENTRIES = types.Array(types.uint32, 2, "C", readonly=True)


@inlined
def _decode_payload(payload, at, end, raw, scratch):  # type: ignore[no-untyped-def]
    """Decode the payload from `at` to `end`, and look at the padding behind it. A status."""
    status = decode_block(payload[at:end], raw, scratch)
    for i in range(end, aligned(end)):
        if payload[i] != 0 and status == OK:
            status = BAD_PADDING
    return status


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
            status[b] = _decode_payload(payload, at, end, block, scratch)
            if status[b] == OK and xxh3(np.uint64(block.ctypes.data), block.size) != hashes[b]:
                status[b] = BAD_HASH
            at = aligned(end)

    return decode_blocks


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
                    found = _decode_payload(payload, source, end, out[at : at + n], scratch)
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


decode_blocks, expand_blocks = _decode_blocks(SOURCES), _expand_blocks(SOURCES)
