# SPDX-License-Identifier: Apache-2.0
"""See which blocks of a coded run, and which of their planes, get smaller by LZ.

A module of its own, imported late: frames without LZ never compile it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import typeof, types

from . import lz, planes
from .arrays import stack_array
from .entries import PLANE_ROOM, aligned, pad, payload_bytes
from .jit import SOURCES, entry_point, inlined, readonly_bytes
from .lz_choose import detect_word_bytes
from .lz_encode import encode_block
from .lz_ops import STEP, copy32
from .lz_spec import MAX_WORD_BYTES, MAX_WORDS, PLANES_GAIN_LOG
from .spec import ALIGNMENT, CONSTANT, ENTRY_CODER_SHIFT, LZ, LZ_WORDS, MAX_PLANES
from .vector import copy_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_counts = stack_array(types.uint32, 8, 256)
_found = stack_array(types.uint32, MAX_PLANES)


class Scratch(NamedTuple):
    """What `shrink_blocks` works in; `scratch` makes it, one for each thread."""

    block: lz.Scratch
    symbols: NDArray[np.uint8]  # [planes, words and room]
    payloads: NDArray[np.uint8]  # [2, bytes]: a block by LZ, as words and as planes


def scratch() -> Scratch:
    """Work space for blocks of any size. Memory that is not touched costs nothing."""
    return Scratch(
        lz.scratch(),
        np.empty((MAX_PLANES, MAX_WORDS + PLANE_ROOM), np.uint8),
        np.empty((2, MAX_WORDS * MAX_WORD_BYTES + PLANE_ROOM), np.uint8),
    )


_SCRATCH = typeof(scratch())


@inlined
def _shrink_planes(symbols, n, bits, level, payloads, entries, found, out, scratch):  # type: ignore[no-untyped-def]
    """Code the planes of a block by LZ where that is smaller; bytes of all payloads in `out`.

    `payloads` (uint8) are the block's so far, by `entries`; those of `out` go to `found`.
    """
    source, at = 0, 0
    for p in range(bits.size):
        entry = np.int64(entries[p])
        room = aligned(payload_bytes(entry))
        size = 0
        if bits[p] == 8 and room > ALIGNMENT:
            limit = room - ALIGNMENT + 1
            size = encode_block(
                np.uint64(symbols[p].ctypes.data),
                np.uint64(n),
                np.uint64(1),
                level,
                True,
                np.uint64(out.ctypes.data) + np.uint64(at),
                np.uint64(limit),
                scratch,
            )
        if size > 0:
            found[p] = LZ << ENTRY_CODER_SHIFT | size
            at = pad(out, at + size)
        else:
            found[p] = entry
            to, old = np.uint64(out.ctypes.data), np.uint64(payloads.ctypes.data)
            copy_bytes(to + np.uint64(at), old + np.uint64(source), np.uint64(room))
            at += room
        source += room
    return at


def _shrink_blocks(sources: int) -> Any:
    @entry_point(
        types.int64(
            *(readonly_bytes, types.int64, types.int64, types.int64, types.uint8[::1]),
            *(types.Array(types.boolean, 1, "C", readonly=True), types.boolean, types.int64),
            *(types.uint8[::1], types.uint32[:, ::1], _SCRATCH),
        )
    )
    def shrink_blocks(  # type: ignore[no-untyped-def]
        raw,
        block_words,
        word_bytes,
        transform,
        bits,
        tried,
        by_planes,
        level,
        out,
        entries,
        scratch,
    ):
        """Replace the payloads in `out` (uint8) that LZ makes smaller; bytes of all payloads.

        `raw` (uint8) are the blocks' words and `entries` uint32[n_blocks, n_planes] how they are
        coded; `tried` bool[n_blocks] says which may be coded otherwise. Each becomes the smallest
        of what it is, LZ of its words, and, `by_planes`, LZ of those planes that get smaller; planes
        are not tried where the words alone save `2^-PLANES_GAIN_LOG`. LZ here always has matches.
        """
        assert sources
        counts = _counts()
        found = _found()
        block_bytes = block_words * word_bytes
        base = np.uint64(out.ctypes.data)
        source, at = 0, 0
        for b in range(entries.shape[0]):
            size = 0
            for p in range(bits.size):
                size += aligned(payload_bytes(np.int64(entries[b, p])))
            best, chosen = size, -1
            if tried[b] and size > ALIGNMENT:
                block = raw[b * block_bytes : (b + 1) * block_bytes]
                width = word_bytes if bits.size > 1 else detect_word_bytes(block, counts)
                limit = size - ALIGNMENT + 1
                words = scratch.payloads[0]
                n_bytes = encode_block(
                    np.uint64(block.ctypes.data),
                    np.uint64(block.size),
                    np.uint64(width),
                    level,
                    True,
                    np.uint64(words.ctypes.data),
                    np.uint64(limit),
                    scratch.block,
                )
                if n_bytes > 0:
                    best, chosen = pad(words, n_bytes), 0
                if by_planes and bits.size > 1 and best > size - (size >> PLANES_GAIN_LOG):
                    planes.split(block, word_bytes, transform, bits, scratch.symbols)
                    total = _shrink_planes(
                        scratch.symbols,
                        block.size // word_bytes,
                        bits,
                        level,
                        out[source : source + size],
                        entries[b],
                        found,
                        scratch.payloads[1],
                        scratch.block,
                    )
                    if total < best:
                        best, chosen = total, 1
                if chosen == 0:
                    coder = LZ_WORDS if bits.size > 1 else LZ
                    entries[b, 0] = coder << ENTRY_CODER_SHIFT | n_bytes
                    for p in range(1, bits.size):
                        entries[b, p] = CONSTANT << ENTRY_CODER_SHIFT
                elif chosen == 1:
                    for p in range(bits.size):
                        entries[b, p] = found[p]
            to = base + np.uint64(at)
            if chosen >= 0:
                copy_bytes(to, np.uint64(scratch.payloads[chosen].ctypes.data), np.uint64(best))
            elif at != source:  # by at least 16 bytes: what is overwritten is copied already
                for i in range(np.uint64(0), np.uint64(size), np.uint64(STEP)):
                    copy32(to + i, base + np.uint64(source) + i)
            source += size
            at += best
        return at

    return shrink_blocks


shrink_blocks = _shrink_blocks(SOURCES)
