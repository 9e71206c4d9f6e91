# SPDX-License-Identifier: Apache-2.0
"""Encode a run of neighbouring blocks: words to coded planes. All that an encoder calls."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import choose, planes, rans
from .checksum import xxh3
from .entries import PLANE_ROOM, aligned, payload_bytes
from .jit import SOURCES, entry_point, readonly_bytes
from .spec import MAX_PLANES, MIN_BLOCK_LOG


def scratch(block_words: int) -> tuple[Any, ...]:
    """What `encode_blocks` works in; one for each thread. Untouched memory costs nothing."""
    symbols = np.empty((MAX_PLANES, block_words + PLANE_ROOM), np.uint8)
    return symbols, rans.encode_scratch(block_words)


def _entry_point(sources: int) -> Any:
    @entry_point(
        types.int64(
            readonly_bytes,
            types.int64,
            types.int64,
            types.int64,
            types.uint8[::1],
            types.uint8[::1],
            types.uint32[:, ::1],
            types.uint64[::1],
            typeof(scratch(1 << MIN_BLOCK_LOG)),
        )
    )
    def encode_blocks(  # type: ignore[no-untyped-def]
        raw, block_words, word_bytes, transform, bits, out, entries, hashes, scratch
    ):
        """Encode the words `raw` (uint8) as `hashes.size` blocks; bytes written to `out`.

        `bits` uint8[n_planes]; fills `entries` uint32[n_blocks, n_planes] and `hashes`
        uint64[n_blocks]. `out` must have room for every plane stored raw, and 64 bytes more.
        """
        assert sources
        symbols, plane_scratch = scratch
        block_bytes = block_words * word_bytes
        position = 0
        for b in range(hashes.size):
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            n = block.size // word_bytes
            hashes[b] = xxh3(np.uint64(block.ctypes.data), block.size)
            planes.split(block, word_bytes, transform, bits, symbols)
            for p in range(bits.size):
                entry = choose.encode_plane(
                    symbols[p], n, np.int64(bits[p]), out[position:], plane_scratch
                )
                entries[b, p] = entry
                end = position + payload_bytes(np.int64(entry))
                position = aligned(end)
                for i in range(end, position):
                    out[i] = 0
        return position

    return encode_blocks


encode_blocks = _entry_point(SOURCES)
