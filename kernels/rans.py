# SPDX-License-Identifier: Apache-2.0
"""Interleaved rANS: payloads of the coders rans8 and rans12, as format.md lays them out.

What a row costs is decided in `simd.py`; here are the parts that run once a plane: the
payload's layout, its checks, the tail in the states, and the patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import simd
from .division import most_frequent
from .jit import inlined, kernel
from .spec import (
    BAD_PATCH,
    BAD_SIZE,
    BAD_STATE,
    BAD_SYMBOL,
    BAD_TABLE,
    BAD_WORDS,
    LANES,
    OK,
    PATCH_BYTES,
    RANS8,
    RANS8_BITS,
    RANS8_MAX_SYMBOLS,
    RANS12,
    RANS12_BITMAP_BYTES as BITMAP_BYTES,
    RANS12_BITS,
    RANS12_MAX_SYMBOLS,
    RANS_HEADER_BYTES,
    RANS_STATE_LOW,
    RANS_STATES_BYTES,
    ROW,
)
from .vector import copy_bytes, read_u16, read_u32, write_u16, write_u32

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows of `layout`: byte offsets and counts of a payload under examination.
N_WORDS, N_PATCHES, N_SYMBOLS, WORDS_AT, STATES_AT, PATCHES_AT, FILLER = range(7)
LAYOUT_FIELDS = 7


class DecodeScratch(NamedTuple):
    """What decoding a pair of planes needs; `decode_scratch` makes it."""

    tables: NDArray[np.uint8]  # [2, simd.DECODE_TABLE_BYTES]
    states: NDArray[np.uint32]  # [2, LANES]
    layouts: NDArray[np.int64]  # [2, LAYOUT_FIELDS]
    symbols: NDArray[np.uint8]  # [2, 256]
    frequencies: NDArray[np.uint32]  # [2, 256]


class EncodeScratch(NamedTuple):
    """What encoding a plane needs; `encode_scratch` makes it."""

    counts: NDArray[np.uint32]  # [4, 256]: one histogram counts in four tables
    table: NDArray[np.uint8]  # simd.ENCODE_TABLE_BYTES
    words: NDArray[np.uint16]  # filled from the end
    row_flags: NDArray[np.uint8]  # rows that hold a patched symbol
    states: NDArray[np.uint32]  # [LANES]
    known: NDArray[np.uint8]  # [256]: whether the table has a symbol
    symbols: NDArray[np.uint8]  # [2, 256]: tables of rans8 and rans12
    frequencies: NDArray[np.uint32]  # [2, 256]


def decode_scratch(block_words: int) -> DecodeScratch:  # noqa: ARG001 - same shape as the encoder's
    """Work space for `decode_plane` and `decode_two_planes`, one for each thread."""
    return DecodeScratch(
        np.empty((2, simd.DECODE_TABLE_BYTES), np.uint8),
        np.empty((2, LANES), np.uint32),
        np.empty((2, LAYOUT_FIELDS), np.int64),
        np.empty((2, 256), np.uint8),
        np.empty((2, 256), np.uint32),
    )


def encode_scratch(block_words: int) -> EncodeScratch:
    """Work space for `choose.encode_plane` of up to `block_words` symbols, one for each thread."""
    return EncodeScratch(
        np.empty((4, 256), np.uint32),
        np.empty(simd.ENCODE_TABLE_BYTES, np.uint8),
        np.empty(block_words + 2 * LANES, np.uint16),
        np.empty(block_words // ROW + 1, np.uint8),
        np.empty(LANES, np.uint32),
        np.empty(256, np.uint8),
        np.empty((2, 256), np.uint8),
        np.empty((2, 256), np.uint32),
    )


@kernel
def _at(array, offset):  # type: ignore[no-untyped-def]
    """The address of byte `offset` of an array of bytes."""
    return np.uint64(array.ctypes.data) + np.uint64(offset)


@kernel
def table_bytes(coder: int, n_symbols: int, width: int) -> int:
    """Bytes of a payload's table, padded to an even number; `width` is rans12's."""
    return 2 * n_symbols if coder == RANS8 else BITMAP_BYTES + (n_symbols * width + 15) // 16 * 2


@kernel
def frequency_width(coder, frequencies, n_symbols):  # type: ignore[no-untyped-def]
    """(index of the filler, bits that each of the other frequencies needs); 0 bits for rans8."""
    most = most_frequent(frequencies, n_symbols)
    width = np.int64(0)
    if coder == RANS12:
        for i in range(n_symbols):
            while i != most and np.int64(frequencies[i]) >> width != 0:
                width += 1
    return most, width


# --- decode -------------------------------------------------------------------------------------


@inlined
def _read_table(coder, payload, n_symbols, width, symbols, frequencies):  # type: ignore[no-untyped-def]
    """Read and check a table; its most frequent symbol, or -1 if it is not valid."""
    end = RANS_HEADER_BYTES + table_bytes(coder, n_symbols, width)
    n_found = 0
    if coder == RANS8:
        previous = -1
        for i in range(n_symbols):
            symbol = np.int64(payload[RANS_HEADER_BYTES + i])
            if symbol <= previous:
                return -1
            previous = symbol
            symbols[i] = np.uint8(symbol)
            frequencies[i] = np.uint32(payload[RANS_HEADER_BYTES + n_symbols + i])
    else:
        for symbol in range(RANS12_MAX_SYMBOLS):
            if (payload[RANS_HEADER_BYTES + (symbol >> 3)] >> (symbol & 7)) & 1 != 0:
                symbols[n_found] = np.uint8(symbol)
                n_found += 1
        if n_found != n_symbols:
            return -1
        at = RANS_HEADER_BYTES + BITMAP_BYTES
        filler, bit, rest = np.int64(-1), np.int64(0), np.int64(1 << RANS12_BITS)
        for i in range(n_symbols):
            # Bits behind the table are read here too, but never belong to it: states follow.
            f = read_u32(_at(payload, at + (bit >> 3))) >> (bit & 7) & ((1 << width) - 1)
            if f == 0:
                if filler >= 0:
                    return np.int64(-1)
                filler = np.int64(i)
            frequencies[i] = np.uint32(f)
            rest -= f
            bit += width
        spare = 8 * (end - at) - bit
        if read_u32(_at(payload, at + (bit >> 3))) >> (bit & 7) & ((1 << spare) - 1) != 0:
            return np.int64(-1)
        if filler < 0 or rest <= 0:
            return np.int64(-1)
        frequencies[filler] = np.uint32(rest)
        found, least = frequency_width(coder, frequencies, n_symbols)
        if found != filler or least != width:
            return np.int64(-1)
    total = np.int64(0)
    for i in range(n_symbols):
        if frequencies[i] == 0:
            return -1
        total += np.int64(frequencies[i])
    if total != 1 << (RANS8_BITS if coder == RANS8 else RANS12_BITS):
        return -1
    return np.int64(symbols[most_frequent(frequencies, n_symbols)])


@inlined
def _examine(  # type: ignore[no-untyped-def]
    coder, payload, n, bits, layout, states, symbols, frequencies
):
    """Check a payload's sizes, table, states and patches; fill the arrays. A status."""
    n_rows = (n - 1) // ROW
    if payload.size < RANS_HEADER_BYTES + RANS_STATES_BYTES:
        return BAD_SIZE
    n_words = read_u32(_at(payload, np.int64(0)))
    n_patches = read_u16(_at(payload, np.int64(4)))
    n_symbols = np.int64(payload[6]) + 1
    most = RANS8_MAX_SYMBOLS if coder == RANS8 else RANS12_MAX_SYMBOLS
    width = np.int64(payload[7])
    if n_symbols < 2 or n_symbols > most:
        return BAD_TABLE
    if width > RANS12_BITS or (width == 0) != (coder == RANS8):
        return BAD_TABLE
    words_at = RANS_HEADER_BYTES + table_bytes(coder, n_symbols, width)
    states_at = words_at + 2 * n_words
    patches_at = states_at + RANS_STATES_BYTES
    if patches_at + PATCH_BYTES * n_patches != payload.size:
        return BAD_SIZE
    filler = _read_table(coder, payload, n_symbols, width, symbols, frequencies)
    if filler < 0:
        return BAD_TABLE
    if symbols[n_symbols - 1] >> bits != 0:
        return BAD_SYMBOL

    for lane in range(LANES):
        state = read_u32(_at(payload, states_at + 4 * lane))
        if state < RANS_STATE_LOW:
            return BAD_STATE
        states[lane] = np.uint32(state)

    previous = -1
    patch_symbols = patches_at + 2 * n_patches
    for i in range(n_patches):
        position = read_u16(_at(payload, patches_at + 2 * i))
        symbol = np.int64(payload[patch_symbols + i])
        if position <= previous or position >= n_rows * ROW or symbol == filler:
            return BAD_PATCH
        if symbol >> bits != 0:
            return BAD_SYMBOL
        previous = position

    layout[N_WORDS] = n_words
    layout[N_PATCHES] = n_patches
    layout[N_SYMBOLS] = n_symbols
    layout[WORDS_AT] = words_at
    layout[STATES_AT] = states_at
    layout[PATCHES_AT] = patches_at
    layout[FILLER] = filler
    return OK


@kernel
def _finish(payload, n, bits, out, layout, states, n_used):  # type: ignore[no-untyped-def]
    """After the rows: check the words and end states, write the tail and the patches. A status."""
    if n_used != layout[N_WORDS]:
        return BAD_WORDS
    first = (n - 1) // ROW * ROW
    for lane in range(LANES):
        state = np.int64(states[lane])
        if state >> 16 != 1:
            return BAD_STATE
        for j in range(2):
            symbol = (state >> (8 * j)) & 255
            i = first + 2 * lane + j
            if i < n:
                if symbol >> bits != 0:
                    return BAD_SYMBOL
            elif symbol != 0:
                return BAD_STATE
            out[i] = np.uint8(symbol)
    positions = layout[PATCHES_AT]
    symbols = positions + 2 * layout[N_PATCHES]
    for i in range(layout[N_PATCHES]):
        position = read_u16(_at(payload, positions + 2 * i))
        if np.int64(out[position]) != layout[FILLER]:
            return BAD_PATCH
        out[position] = payload[symbols + i]
    return OK


@kernel
def _prepare(coder, payload, n, bits, scratch, slot):  # type: ignore[no-untyped-def]
    """Check a payload and build its table in `slot` of the scratch. A status."""
    symbols, frequencies = scratch.symbols[slot], scratch.frequencies[slot]
    layout, states, table = scratch.layouts[slot], scratch.states[slot], scratch.tables[slot]
    status = _examine(coder, payload, n, bits, layout, states, symbols, frequencies)
    if status == OK:
        present = symbols[: layout[N_SYMBOLS]]
        if coder == RANS8:
            simd.decode_table8(present, frequencies, table)
        else:
            simd.decode_table12(present, frequencies, table)
    return status


@inlined
def decode_plane(coder, payload, n, bits, out, scratch):  # type: ignore[no-untyped-def]
    """Decode a rans8 or rans12 payload (uint8) of `n` symbols. A status.

    `out` (uint8) has room for `n` rounded up to a multiple of 64. The payload may be hostile:
    nothing outside it is read and nothing outside `out`'s room written, whatever it says.
    """
    status = _prepare(coder, payload, n, bits, scratch, np.int64(0))
    if status != OK:
        return status
    layout, states, table = scratch.layouts[0], scratch.states[0], scratch.tables[0]
    n_rows = (n - 1) // ROW
    words, n_words = payload[layout[WORDS_AT] :], layout[N_WORDS]
    if coder == RANS8:
        n_used = simd.decode_rows8(words, n_words, n_rows, table, states, out)
    else:
        n_used = simd.decode_rows12(words, n_words, n_rows, table, states, out)
    return _finish(payload, n, bits, out, layout, states, n_used)


@inlined
def decode_two_planes(  # type: ignore[no-untyped-def]
    payload_a, out_a, payload_b, out_b, n, bits, scratch
):
    """Decode two rans8 payloads of `n` symbols at once; `status_a | status_b << 8`.

    -1 if one of them cannot begin: the other must then be decoded alone.
    """
    a = _prepare(np.int64(RANS8), payload_a, n, bits, scratch, np.int64(0))
    b = _prepare(np.int64(RANS8), payload_b, n, bits, scratch, np.int64(1))
    if a != OK or b != OK:
        return np.int64(-1)
    layouts, states, tables = scratch.layouts, scratch.states, scratch.tables
    used_a, used_b = simd.decode_rows8_pair(
        payload_a[layouts[0, WORDS_AT] :],
        layouts[0, N_WORDS],
        tables[0],
        states[0],
        out_a,
        payload_b[layouts[1, WORDS_AT] :],
        layouts[1, N_WORDS],
        tables[1],
        states[1],
        out_b,
        (n - 1) // ROW,
    )
    a = _finish(payload_a, n, bits, out_a, layouts[0], states[0], used_a)
    return a | _finish(payload_b, n, bits, out_b, layouts[1], states[1], used_b) << 8


# --- encode -------------------------------------------------------------------------------------


@kernel
def encode(coder, symbols, n, present, frequencies, out, scratch):  # type: ignore[no-untyped-def]
    """Write the payload of `n` symbols (uint8); (patches, payload bytes).

    The table is `present` (uint8, ascending) with `frequencies` (uint32). Symbols that it lacks
    are coded as the most frequent one, and patched. 0 bytes if the payload would not be smaller
    than `out`.
    """
    n_symbols = present.size
    n_rows = (n - 1) // ROW
    table, states, words = scratch.table, scratch.states, scratch.words
    for lane in range(LANES):
        states[lane] = RANS_STATE_LOW
    for i in range(n_rows * ROW, n):
        j = i - n_rows * ROW
        states[j >> 1] |= np.uint32(symbols[i]) << np.uint32(8 * (j & 1))

    if coder == RANS8:
        simd.encode_table8(present, frequencies, table)
        n_words = simd.encode_rows8(symbols, n_rows, table, states, words, scratch.row_flags)
    else:
        simd.encode_table12(present, frequencies, table)
        n_words = simd.encode_rows12(symbols, n_rows, table, states, words, scratch.row_flags)

    known = scratch.known
    for i in range(256):
        known[i] = 0
    for i in range(n_symbols):
        known[present[i]] = 1
    n_patches = 0
    for row in range(n_rows):
        if scratch.row_flags[row] != 0:
            for i in range(row * ROW, (row + 1) * ROW):
                n_patches += 1 - np.int64(known[symbols[i]])
    filler, width = frequency_width(coder, frequencies, n_symbols)
    size = RANS_HEADER_BYTES + table_bytes(coder, n_symbols, width) + 2 * n_words
    size += RANS_STATES_BYTES + PATCH_BYTES * n_patches
    if size >= out.size:
        return n_patches, 0

    write_u32(_at(out, np.int64(0)), n_words)
    write_u16(_at(out, np.int64(4)), n_patches)
    write_u16(_at(out, np.int64(6)), n_symbols - 1 | width << 8)
    at = np.int64(RANS_HEADER_BYTES)
    for i in range(at, at + table_bytes(coder, n_symbols, width)):
        out[i] = 0
    if coder == RANS8:
        for i in range(n_symbols):
            out[at + i] = present[i]
            out[at + n_symbols + i] = np.uint8(frequencies[i])
    else:
        for i in range(n_symbols):
            symbol, frequency = np.int64(present[i]), np.int64(frequencies[i])
            out[at + (symbol >> 3)] |= np.uint8(1 << (symbol & 7))
            shifted = 0 if i == filler else frequency << (i * width & 7)
            where = at + BITMAP_BYTES + (i * width >> 3)
            while shifted != 0:
                out[where] |= np.uint8(shifted & 255)
                shifted >>= 8
                where += 1
    at += table_bytes(coder, n_symbols, width)
    first = _at(words, 2 * (words.size - n_words))
    copy_bytes(_at(out, at), first, np.uint64(2 * n_words))
    at += 2 * n_words
    for lane in range(LANES):
        write_u32(_at(out, at), np.int64(states[lane]))
        at += 4
    patch_symbols = at + 2 * n_patches
    for row in range(n_rows):
        if scratch.row_flags[row] != 0:
            for i in range(row * ROW, (row + 1) * ROW):
                if known[symbols[i]] == 0:
                    write_u16(_at(out, at), np.int64(i))
                    at += 2
                    out[patch_symbols] = symbols[i]
                    patch_symbols += 1
    return n_patches, size
