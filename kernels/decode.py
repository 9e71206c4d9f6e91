# SPDX-License-Identifier: Apache-2.0
"""Decode a run of neighbouring blocks: coded planes to words. All that a decoder calls.

Blocks are decoded two at a time, since two interleaved rANS streams keep the machine busier than
one. Nothing here trusts a payload, and nothing raises: each block gets a status.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import planes, rans
from .arrays import stack_array
from .checksum import xxh3
from .decode_plane import decode_plane, padding_status
from .entries import PLANE_ROOM, aligned, payload_bytes
from .jit import SOURCES, entry_point, inlined, readonly_bytes
from .spec import (
    BAD_HASH,
    ENTRY_ARGUMENT_MASK,
    ENTRY_CODER_SHIFT,
    MAX_PLANES,
    MIN_BLOCK_LOG,
    OK,
    RANS8,
)
from .vector import copy_bytes

_where = stack_array(types.uint64, 2, MAX_PLANES, 3)
_position = stack_array(types.int64, 2)


def scratch(block_words: int) -> tuple[Any, ...]:
    """What `decode_blocks` works in; one for each thread. Untouched memory costs nothing."""
    symbols = np.empty((2, MAX_PLANES, block_words + PLANE_ROOM), np.uint8)
    return symbols, rans.decode_scratch(block_words)


@inlined
def _copy_stored(payload, hashes, block_bytes, raw, status):  # type: ignore[no-untyped-def]
    assert payload.size >= raw.size
    copy_bytes(np.uint64(raw.ctypes.data), np.uint64(payload.ctypes.data), np.uint64(raw.size))
    for b in range(hashes.size):
        block = raw[b * block_bytes : (b + 1) * block_bytes]
        intact = xxh3(np.uint64(block.ctypes.data), block.size) == hashes[b]
        status[b] = OK if intact else BAD_HASH


def _entry_point(sources: int) -> Any:
    @entry_point(
        types.void(
            readonly_bytes,
            types.Array(types.uint32, 2, "C", readonly=True),
            types.Array(types.uint64, 1, "C", readonly=True),
            types.int64,
            types.int64,
            types.int64,
            types.uint8[::1],
            types.uint8[::1],
            types.uint8[::1],
            typeof(scratch(1 << MIN_BLOCK_LOG)),
        )
    )
    def decode_blocks(  # type: ignore[no-untyped-def]
        payload, entries, hashes, block_words, word_bytes, transform, bits, raw, status, scratch
    ):
        """Decode a run of blocks into `raw` (uint8); `status` uint8[n_blocks] says how each went.

        `payload` starts at the first block's payloads and holds the aligned payloads that `entries`
        (uint32[n_blocks, n_planes]) names: the caller has checked the sum. No planes: the payload is
        the words as they are. Never raises; a block that is not OK leaves its part of `raw`
        undefined.
        """
        assert sources
        symbols, plane_scratch = scratch
        n_blocks, n_planes = entries.shape
        block_bytes = block_words * word_bytes
        if n_planes == 0:
            _copy_stored(payload, hashes, block_bytes, raw, status)
            return
        where, position = _where(), _position()
        position[0] = 0
        for first in range(0, n_blocks, 2):
            count = min(2, n_blocks - first)
            for q in range(count):
                status[first + q] = OK
            position[1] = position[0]
            for p in range(n_planes):
                position[1] += aligned(payload_bytes(np.int64(entries[first, p])))
            for p in range(n_planes):
                width = np.int64(bits[p])
                paired = (first + 2) * block_bytes <= raw.size  # both blocks are full
                for q in range(count):
                    where[q, p, 0] = symbols[q, p].ctypes.data
                    paired = (
                        paired and np.int64(entries[first + q, p]) >> ENTRY_CODER_SHIFT == RANS8
                    )
                if paired:
                    end_a = position[0] + payload_bytes(np.int64(entries[first, p]))
                    end_b = position[1] + payload_bytes(np.int64(entries[first + 1, p]))
                    both = rans.decode_two_planes(
                        payload[position[0] : end_a],
                        symbols[0, p],
                        payload[position[1] : end_b],
                        symbols[1, p],
                        block_words,
                        width,
                        plane_scratch,
                    )
                    paired = both >= 0
                    if paired:
                        status[first] = max(status[first], both & 255)
                        status[first + 1] = max(status[first + 1], both >> 8)
                for q in range(count):
                    b = first + q
                    entry = np.int64(entries[b, p])
                    argument = entry & ENTRY_ARGUMENT_MASK
                    end = position[q] + payload_bytes(entry)
                    if not paired:
                        block = raw[b * block_bytes : (b + 1) * block_bytes]
                        found = decode_plane(
                            entry >> ENTRY_CODER_SHIFT,
                            argument,
                            payload[position[q] : end],
                            block.size // word_bytes,
                            width,
                            symbols[q, p],
                            plane_scratch,
                            where[q],
                            p,
                        )
                        status[b] = max(status[b], found)
                    if status[b] == OK:
                        status[b] = padding_status(payload, end)
                    position[q] = aligned(end)
            for q in range(count):
                b = first + q
                if status[b] == OK:
                    block = raw[b * block_bytes : (b + 1) * block_bytes]
                    planes.merge(where[q], word_bytes, transform, bits, block)
                    if xxh3(np.uint64(block.ctypes.data), block.size) != hashes[b]:
                        status[b] = BAD_HASH
            position[0] = position[count - 1]

    return decode_blocks


decode_blocks = _entry_point(SOURCES)
