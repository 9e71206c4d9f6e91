# SPDX-License-Identifier: Apache-2.0
"""Encode a run of blocks, each by LZ or as it is.

A module of its own, imported late: frames without LZ never compile it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types

from . import lz
from .arrays import stack_array
from .checksum import xxh3
from .entries import pad
from .jit import SOURCES, entry_point, readonly_bytes
from .lz_choose import detect_word_bytes
from .lz_encode import encode_block
from .lz_spec import RAW_OVERHEAD
from .spec import CONSTANT, ENTRY_CODER_SHIFT, LZ, LZ_WORDS, RAW
from .vector import copy_bytes

scratch = lz.scratch
_SCRATCH = typeof(scratch())
_counts = stack_array(types.uint32, 8, 256)


def _encode_blocks(sources: int) -> Any:
    @entry_point(
        types.int64(
            *(readonly_bytes, types.int64, types.int64, types.int64),
            *(types.uint8[::1], types.uint32[:, ::1], types.uint64[::1], _SCRATCH),
        )
    )
    def encode_blocks(  # type: ignore[no-untyped-def]
        raw, block_bytes, element_bytes, level, out, entries, hashes, scratch
    ):
        """Encode `raw` (uint8) in blocks of `block_bytes`; bytes written to `out`.

        `element_bytes` is the word size of the payloads; 0 detects it for each block. Fills
        `entries` uint32[n_blocks, n_planes] and `hashes` uint64[n_blocks]. `out` has room for `raw` and, for
        each block, 64 bytes more.
        """
        assert sources
        at = 0
        counts = _counts()
        whole = entries.shape[1] == 1
        for b in range(hashes.size):
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            hashes[b] = xxh3(np.uint64(block.ctypes.data), block.size)
            width = element_bytes
            if width == 0:
                width = detect_word_bytes(block, counts)
            limit = block.size if whole else block.size + RAW_OVERHEAD + 1
            source, n_bytes = np.uint64(block.ctypes.data), np.uint64(block.size)
            to = np.uint64(out.ctypes.data) + np.uint64(at)
            size = encode_block(
                source, n_bytes, np.uint64(width), level, False, to, np.uint64(limit), scratch
            )
            coder = LZ if whole else LZ_WORDS
            if size == 0:
                assert whole
                coder, size = RAW, block.size
                copy_bytes(to, source, n_bytes)
            entries[b, 0] = coder << ENTRY_CODER_SHIFT | size
            for p in range(1, entries.shape[1]):
                entries[b, p] = CONSTANT << ENTRY_CODER_SHIFT
            at = pad(out, at + size)
        return at

    return encode_blocks


encode_blocks = _encode_blocks(SOURCES)
