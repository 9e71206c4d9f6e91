# SPDX-License-Identifier: Apache-2.0
"""Runs of LZ blocks for callers in Python: what `gpucodec.lz` is made of.

A block that does not get smaller is stored as it is: its payload is as long as the block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import lz_choose, lz_decode, lz_encode
from .jit import SOURCES, entry_point, readonly_bytes
from .lz import scratch
from .spec import BAD_SIZE, OK

_SCRATCH = typeof(scratch())


def _entry_points(sources: str) -> tuple[Any, Any, Any]:
    @entry_point(
        types.int64(
            readonly_bytes,
            types.int64,
            types.int64,
            types.int64,
            types.uint8[::1],
            types.uint32[::1],
            _SCRATCH,
        )
    )
    def encode_blocks(  # type: ignore[no-untyped-def]
        raw, block_bytes, word_bytes, level, out, sizes, scratch
    ):
        """Encode `raw` (uint8) in blocks of `block_bytes`, a multiple of 8; bytes written to `out`.

        `word_bytes` 0 detects the word size of each block. `sizes` uint32[n_blocks] becomes the
        payloads' sizes. `out` has room for `raw`, and 8 bytes more.
        """
        assert sources
        at = 0
        counts = np.empty((8, 256), np.uint32)
        for b in range(sizes.size):
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            width = word_bytes if word_bytes > 0 else lz_choose.detect_word_bytes(block, counts)
            size = lz_encode.encode_block(block, width, level, out[at:], block.size, scratch)
            if size == 0:
                size = block.size
                for i in range(size):
                    out[at + i] = block[i]
            sizes[b] = size
            at += size
        return at

    @entry_point(
        types.void(
            readonly_bytes,
            types.Array(types.uint32, 1, "C", readonly=True),
            types.int64,
            types.uint8[::1],
            types.uint8[::1],
            _SCRATCH,
        )
    )
    def decode_blocks(  # type: ignore[no-untyped-def]
        payload, sizes, block_bytes, raw, status, scratch
    ):
        """Decode blocks to `raw` (uint8); `status` uint8[n_blocks] says how each went."""
        assert sources
        at = np.int64(0)
        for b in range(sizes.size):
            size = np.int64(sizes[b])
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            if size > payload.size - at:
                status[b] = BAD_SIZE
                continue
            if size == block.size:
                for i in range(size):
                    block[i] = payload[at + i]
                status[b] = OK
            else:
                status[b] = lz_decode.decode_block(payload[at : at + size], block, scratch)
            at += size

    @entry_point(types.int64(readonly_bytes))
    def detect_word_bytes(raw):  # type: ignore[no-untyped-def]
        """`lz_choose.detect_word_bytes`."""
        assert sources
        return lz_choose.detect_word_bytes(raw, np.empty((8, 256), np.uint32))

    return encode_blocks, decode_blocks, detect_word_bytes


encode_blocks, decode_blocks, detect_word_bytes = _entry_points(SOURCES)
