# SPDX-License-Identifier: Apache-2.0
"""`decode.py` for every frame: with palettes, the sparse transform and the predictor.

It has an entry point of its own, compiled when it is needed, so that plain frames do not wait for
what they do not use. Nothing here trusts a payload, an entry or a model, and nothing raises.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import typeof, types

from . import palette, planes_predicted as planes, predictor, rans, sparse
from .arrays import stack_array
from .checksum import xxh3
from .decode_plane import decode_plane, padding_status
from .entries import PLANE_ROOM, aligned, payload_bytes
from .jit import SOURCES, entry_point, inlined, readonly_bytes
from .spec import (
    BAD_HASH,
    BAD_MASK,
    BAD_SYMBOL,
    CONSTANT,
    ENTRY_ARGUMENT_MASK,
    ENTRY_CODER_SHIFT,
    MASK_BITS,
    MAX_PLANES,
    MIN_BLOCK_LOG,
    NOT_PACKED,
    OK,
    PALETTE,
    RANS8,
    ROTATE,
    ROTATE_BIAS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO = CONSTANT << ENTRY_CODER_SHIFT  # the entry of a plane without symbols
MASK, SIGNS, PLANES = 0, 1, 2  # columns of the symbols of a block
PAIR = 2  # blocks that are decoded together

_pair = stack_array(types.int64, PAIR)


class Scratch(NamedTuple):
    """What `decode_blocks` works in; `scratch` makes it."""

    symbols: NDArray[np.uint8]  # [PAIR; MASK, SIGNS and planes; a block's symbols and more]
    where: NDArray[np.uint64]  # [PAIR; MASK, SIGNS and planes; 3]: the table of `planes.merge`
    packed: NDArray[np.uint8]  # the words of a block that are not zero
    rans: rans.DecodeScratch


def scratch(block_words: int) -> Scratch:
    """One for each thread. Untouched memory costs nothing."""
    room, n_columns = block_words + PLANE_ROOM, PLANES + MAX_PLANES
    return Scratch(
        np.empty((PAIR, n_columns, room), np.uint8),
        np.empty((PAIR, n_columns, 3), np.uint64),
        np.empty(8 * room, np.uint8),
        rans.decode_scratch(block_words),
    )


@inlined
def _decode_any(entry, payload, n, bits, symbols, plane_scratch, where, column):  # type: ignore[no-untyped-def]
    """Decode `n` symbols, of a payload without padding; a status. Without symbols: `ZERO`."""
    if n == 0:
        return OK if entry == ZERO else BAD_SYMBOL
    coder, argument = entry >> ENTRY_CODER_SHIFT, entry & ENTRY_ARGUMENT_MASK
    if coder >= PALETTE:
        return palette.decode(payload, n, bits, coder - PALETTE, symbols)
    return decode_plane(coder, argument, payload, n, bits, symbols, plane_scratch, where, column)


@cache
def decode_blocks(sources: str = SOURCES) -> Any:
    """The entry point, compiled or loaded from the disk."""

    @entry_point(
        types.void(
            readonly_bytes,
            types.Array(types.uint32, 2, "C", readonly=True),
            types.Array(types.uint64, 1, "C", readonly=True),
            types.int64,
            types.int64,
            types.int64,
            types.int64,
            types.uint8[::1],
            types.boolean,
            types.boolean,
            typeof(predictor.NO_MODEL),
            types.uint8[::1],
            types.uint8[::1],
            typeof(scratch(1 << MIN_BLOCK_LOG)),
        )
    )
    def decode_blocks(  # type: ignore[no-untyped-def]
        payload,
        entries,
        hashes,
        first_word,
        block_words,
        word_bytes,
        transform,
        bits,
        is_sparse,
        is_predicted,
        model,
        raw,
        status,
        scratch,
    ):
        """As `decode.decode_blocks`, for words `first_word` ... of the array.

        The entries of a sparse frame begin with mask and signs; not for stored frames.
        """
        assert sources
        n_blocks, n_columns = entries.shape[0], PLANES + bits.size
        first_column = MASK if is_sparse else PLANES
        block_bytes = block_words * word_bytes
        is_float = transform == ROTATE or transform == ROTATE_BIAS  # noqa: PLR1714
        position, end = _pair(), _pair()
        position[0] = 0
        n_kept, count = _pair(), _pair()
        for first in range(0, n_blocks, PAIR):
            n_here = min(PAIR, n_blocks - first)
            position[1] = position[0]
            for column in range(first_column, n_columns):
                entry = np.int64(entries[first, column - first_column])
                position[1] += aligned(payload_bytes(entry))
            for q in range(n_here):
                b = first + q
                status[b] = OK
                n_kept[q] = min(block_words, raw.size // word_bytes - b * block_words)
            for column in range(first_column, n_columns):
                width = np.int64(MASK_BITS)
                if column >= PLANES:
                    width = np.int64(bits[column - PLANES])
                elif column == SIGNS:
                    width = np.int64(1)
                paired = n_here == PAIR
                for q in range(n_here):
                    b = first + q
                    entry = np.int64(entries[b, column - first_column])
                    end[q] = position[q] + payload_bytes(entry)
                    count[q] = n_kept[q]
                    if column == MASK:
                        count[q] = sparse.mask_symbols(n_kept[q])
                    elif column == SIGNS:
                        n = min(block_words, raw.size // word_bytes - b * block_words)
                        count[q] = n - n_kept[q] if is_float else 0
                    scratch.where[q, column, 0] = scratch.symbols[q, column].ctypes.data
                    paired = paired and entry >> ENTRY_CODER_SHIFT == RANS8
                paired = paired and count[0] == count[1] and count[0] > 0
                if paired:
                    both = rans.decode_two_planes(
                        payload[position[0] : end[0]],
                        scratch.symbols[0, column],
                        payload[position[1] : end[1]],
                        scratch.symbols[1, column],
                        count[0],
                        width,
                        scratch.rans,
                    )
                    paired = both >= 0
                    if paired:
                        status[first] = max(status[first], both & 255)
                        status[first + 1] = max(status[first + 1], both >> 8)
                for q in range(n_here):
                    b = first + q
                    entry = np.int64(entries[b, column - first_column])
                    if not paired:
                        found = _decode_any(
                            entry,
                            payload[position[q] : end[q]],
                            count[q],
                            width,
                            scratch.symbols[q, column],
                            scratch.rans,
                            scratch.where[q],
                            column,
                        )
                        status[b] = max(status[b], found)
                    if status[b] == OK:
                        status[b] = padding_status(payload, end[q])
                    position[q] = aligned(end[q])
                    if column == MASK and status[b] == OK and entry != NOT_PACKED[0]:
                        found = sparse.n_nonzero(scratch.symbols[q, MASK], n_kept[q])
                        if found < 0:
                            status[b] = BAD_MASK
                        else:
                            n_kept[q] = found
            for q in range(n_here):
                b = first + q
                if status[b] != OK:
                    continue
                block = raw[b * block_bytes : (b + 1) * block_bytes]
                is_packed = is_sparse and np.int64(entries[b, MASK]) != NOT_PACKED[0]
                words = block
                if is_packed:
                    words = scratch.packed[: n_kept[q] * word_bytes]
                if n_kept[q] > 0:
                    planes.merge(scratch.where[q, PLANES:], word_bytes, transform, bits, words)
                if is_packed:
                    mask = scratch.symbols[q, MASK]
                    sparse.expand(mask, scratch.packed, word_bytes, block)
                    if np.int64(entries[b, SIGNS]) != ZERO:
                        sparse.write_signs(mask, scratch.symbols[q, SIGNS], word_bytes, block)
                if is_predicted:
                    predictor.shift_words(
                        block, word_bytes, first_word + b * block_words, model, 1, block
                    )
                if xxh3(np.uint64(block.ctypes.data), block.size) != hashes[b]:
                    status[b] = BAD_HASH
            position[0] = position[n_here - 1]

    return decode_blocks
