# SPDX-License-Identifier: Apache-2.0
"""`encode.py` for every frame: with profiles, the sparse transform and the predictor.

It has an entry point of its own, compiled when it is needed, so that plain frames do not wait for
what they do not use.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import typeof, types

from . import planes_predicted as planes, predictor, profiles, rans, sparse
from .arrays import stack_array
from .checksum import xxh3
from .entries import PLANE_ROOM, aligned, payload_bytes
from .jit import SOURCES, entry_point, inlined, readonly_bytes
from .spec import (
    CONSTANT,
    ENTRY_CODER_SHIFT,
    MASK_BITS,
    MAX_PLANES,
    MIN_BLOCK_LOG,
    NOT_PACKED,
    ROTATE,
    ROTATE_BIAS,
    ROW,
    SPARSE_SURE_LOG,
)
from .vector import copy_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO = CONSTANT << ENTRY_CODER_SHIFT  # the entry of a plane without symbols
MASK, SIGNS, PLANES = 0, 1, 2  # columns of the symbols and entries of a block
PACKED, PLAIN = 0, 1  # ways to code a block
NEVER = 1 << 62  # the size of a block that was not coded that way

_widths = stack_array(types.int64, PLANES + MAX_PLANES)
_sizes = stack_array(types.int64, 2)


class Scratch(NamedTuple):
    """What `encode_blocks` works in; `scratch` makes it."""

    symbols: NDArray[np.uint8]  # [MASK, SIGNS and planes; a block's symbols and more]
    counts: NDArray[np.int64]  # [MASK, SIGNS]: how many symbols these are
    entries: NDArray[np.uint32]  # [PACKED or PLAIN; MASK, SIGNS and planes]
    moved: NDArray[np.uint8]  # a block's words, predicted
    packed: NDArray[np.uint8]  # its words that are not zero
    other: NDArray[np.uint8]  # payloads of the block as if it were not packed
    flags: NDArray[np.uint64]
    rans: rans.EncodeScratch


def scratch(block_words: int) -> Scratch:
    """One for each thread. Untouched memory costs nothing."""
    room, n_columns = block_words + PLANE_ROOM, PLANES + MAX_PLANES
    return Scratch(
        np.empty((n_columns, room), np.uint8),
        np.empty(PLANES, np.int64),
        np.empty((2, n_columns), np.uint32),
        np.empty(8 * room, np.uint8),
        np.empty(8 * room, np.uint8),
        np.empty(n_columns * room, np.uint8),
        np.empty(block_words // ROW + 1, np.uint64),
        rans.encode_scratch(block_words),
    )


@inlined
def _pack(words, word_bytes, transform, scratch):  # type: ignore[no-untyped-def]
    """Find the words that are not zero, if that may pay: their number, or -1; mask and signs."""
    magnitude = sparse.magnitude_bits(word_bytes, transform)
    mask, signs = scratch.symbols[MASK], scratch.symbols[SIGNS]
    if not sparse.promising(words, word_bytes, magnitude, mask, scratch.packed):
        return -1
    n_kept, has_signs = sparse.pack(words, word_bytes, magnitude, mask, scratch.packed)
    n = words.size // word_bytes
    scratch.counts[MASK] = sparse.mask_symbols(n)
    scratch.counts[SIGNS] = n - n_kept
    if has_signs:
        sparse.read_signs(words, word_bytes, mask, signs)
    else:
        for i in range(n - n_kept):
            signs[i] = 0
    return n_kept


@cache
def encode_blocks(sources: str = SOURCES) -> Any:
    """The entry point, compiled or loaded from the disk."""

    @entry_point(
        types.UniTuple(types.int64, 2)(
            readonly_bytes,
            types.int64,
            types.int64,
            types.int64,
            types.int64,
            types.uint8[::1],
            types.int64,
            types.boolean,
            types.boolean,
            typeof(predictor.NO_MODEL),
            types.uint8[::1],
            types.uint32[:, ::1],
            types.uint64[::1],
            typeof(scratch(1 << MIN_BLOCK_LOG)),
        )
    )
    def encode_blocks(  # type: ignore[no-untyped-def]
        raw,
        first_word,
        block_words,
        word_bytes,
        transform,
        bits,
        profile,
        is_sparse,
        is_predicted,
        model,
        out,
        entries,
        hashes,
        scratch,
    ):
        """Encode words `first_word` ... of the array, `raw` (uint8), as `hashes.size` blocks.

        Returns (bytes written to `out`, blocks packed). `bits` uint8[n_planes]; fills `entries`
        uint32[n_blocks, n_planes], 2 more in sparse frames, and `hashes` uint64[n_blocks]. `out` must
        have room for every plane stored raw, and 64 bytes more.
        """
        assert sources
        block_bytes = block_words * word_bytes
        is_float = transform == ROTATE or transform == ROTATE_BIAS  # noqa: PLR1714
        position, n_packed, n_columns = np.int64(0), np.int64(0), PLANES + bits.size
        widths, sizes = _widths(), _sizes()
        widths[MASK], widths[SIGNS] = MASK_BITS, 1
        for p in range(bits.size):
            widths[PLANES + p] = bits[p]
        for b in range(hashes.size):
            block = raw[b * block_bytes : (b + 1) * block_bytes]
            hashes[b] = xxh3(np.uint64(block.ctypes.data), block.size)
            words = scratch.moved[: block.size]
            if is_predicted:
                first = first_word + b * block_words
                predictor.shift_words(block, word_bytes, first, model, -1, words)
            else:
                source = np.uint64(block.ctypes.data)
                copy_bytes(np.uint64(words.ctypes.data), source, np.uint64(block.size))
            n = block.size // word_bytes
            n_kept = np.int64(-1)
            if is_sparse:
                n_kept = np.int64(_pack(words, word_bytes, transform, scratch))
            sure = is_float and (n - n_kept) << SPARSE_SURE_LOG >= n
            # Coded packed, or not, or both ways; written once, so that it is compiled once.
            first_way = PACKED if n_kept >= 0 else PLAIN
            last_way = PACKED if n_kept >= 0 and sure else PLAIN
            sizes[PACKED] = sizes[PLAIN] = NEVER
            for way in range(first_way, last_way + 1):
                first_column, kept, source = PLANES, n, scratch.moved
                if way == PACKED:
                    first_column, kept, source = MASK, n_kept, scratch.packed
                target = out[position:] if way == first_way else scratch.other
                if kept > 0:
                    kept_words = source[: kept * word_bytes]
                    planes.split(kept_words, word_bytes, transform, bits, scratch.symbols[PLANES:])
                at = 0
                for column in range(first_column, n_columns):
                    count = kept if column >= PLANES else scratch.counts[column]
                    entry = np.int64(ZERO)
                    if count > 0:
                        entry = profiles.encode_plane(
                            scratch.symbols[column],
                            count,
                            widths[column],
                            profile,
                            target[at:],
                            scratch.rans,
                            scratch.flags,
                        )
                    scratch.entries[way, column] = entry
                    end = at + payload_bytes(entry)
                    at = aligned(end)
                    for i in range(end, at):
                        target[i] = 0
                sizes[way] = at
            way = PACKED if sizes[PACKED] < sizes[PLAIN] else PLAIN
            if way != first_way:
                to, other = np.uint64(out.ctypes.data), np.uint64(scratch.other.ctypes.data)
                copy_bytes(to + np.uint64(position), other, np.uint64(sizes[way]))
            if way == PLAIN:
                scratch.entries[PLAIN, MASK], scratch.entries[PLAIN, SIGNS] = NOT_PACKED
            else:
                n_packed += 1
            position += sizes[way]
            first_column = MASK if is_sparse else PLANES
            for column in range(first_column, n_columns):
                entries[b, column - first_column] = scratch.entries[way, column]
        return position, n_packed

    return encode_blocks
