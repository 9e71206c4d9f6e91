# SPDX-License-Identifier: Apache-2.0
"""Interleaved rANS: payloads of the coders rans8 and rans12, as format.md lays them out.

What a row costs is decided in `simd.py`; here are the parts that run once a plane: the
payload's layout, its checks, the tail in the states, and the patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from . import simd
from .jit import kernel
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
    RANS12_BITS,
    RANS12_MAX_SYMBOLS,
    RANS_HEADER_BYTES,
    RANS_STATE_LOW,
    RANS_STATES_BYTES,
    ROW,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows of `Layout`: byte offsets and counts of a payload under examination.
N_WORDS, N_PATCHES, N_SYMBOLS, SYMBOLS_AT, FREQUENCIES_AT, WORDS_AT, STATES_AT, PATCHES_AT = range(8)
LAYOUT_FIELDS = 8


class DecodeScratch(NamedTuple):
    """What decoding a pair of planes needs; `decode_scratch` makes it."""

    tables: NDArray[np.uint8]  # [2, simd.DECODE_TABLE_BYTES]
    states: NDArray[np.uint32]  # [2, LANES]
    layouts: NDArray[np.int64]  # [2, LAYOUT_FIELDS]


class EncodeScratch(NamedTuple):
    """What encoding a plane needs; `encode_scratch` makes it."""

    counts: NDArray[np.uint32]  # [4, 256]: one histogram counts in four tables
    table: NDArray[np.uint8]  # simd.ENCODE_TABLE_BYTES
    words: NDArray[np.uint16]  # filled from the end
    row_flags: NDArray[np.uint8]  # rows that hold a patched symbol
    states: NDArray[np.uint32]  # [LANES]
    symbols: NDArray[np.uint8]  # [2, 256]: tables of rans8 and rans12
    frequencies: NDArray[np.uint32]  # [2, 256]


def decode_scratch(block_words: int) -> DecodeScratch:  # noqa: ARG001 - same shape as the encoder's
    """Work space for `decode_plane` and `decode_two_planes`, one for each thread."""
    return DecodeScratch(
        np.empty((2, simd.DECODE_TABLE_BYTES), np.uint8),
        np.empty((2, LANES), np.uint32),
        np.empty((2, LAYOUT_FIELDS), np.int64),
    )


def encode_scratch(block_words: int) -> EncodeScratch:
    """Work space for `choose.encode_plane` of up to `block_words` symbols, one for each thread."""
    return EncodeScratch(
        np.empty((4, 256), np.uint32),
        np.empty(simd.ENCODE_TABLE_BYTES, np.uint8),
        np.empty(block_words + 2 * LANES, np.uint16),
        np.empty(block_words // ROW + 1, np.uint8),
        np.empty(LANES, np.uint32),
        np.empty((2, 256), np.uint8),
        np.empty((2, 256), np.uint32),
    )


@kernel
def _read(payload: NDArray[np.uint8], at: int, n_bytes: int) -> int:
    value = np.int64(0)
    for i in range(n_bytes):
        value |= np.int64(payload[at + i]) << (8 * i)
    return value


@kernel
def _write(value: int, n_bytes: int, out: NDArray[np.uint8], at: int) -> int:
    for i in range(n_bytes):
        out[at + i] = np.uint8((value >> (8 * i)) & 255)
    return at + n_bytes


@kernel
def table_bytes(coder: int, n_symbols: int) -> int:
    """Bytes of a payload's table: symbols and frequencies, with rans12's alignment."""
    return 2 * n_symbols if coder == RANS8 else 3 * n_symbols + n_symbols % 2


# --- decode -------------------------------------------------------------------------------------


@kernel
def _examine(  # type: ignore[no-untyped-def]
    coder, argument, payload, n, bits, layout, states
):
    """Check a payload's sizes, table, states and patches; fill `layout` and `states`. A status."""
    n_rows = (n - 1) // ROW
    if payload.size != argument or argument < RANS_HEADER_BYTES + RANS_STATES_BYTES:
        return BAD_SIZE
    n_words = _read(payload, 0, 4)
    n_patches = _read(payload, 4, 2)
    n_symbols = np.int64(payload[6]) + 1
    most = RANS8_MAX_SYMBOLS if coder == RANS8 else RANS12_MAX_SYMBOLS
    if payload[7] != 0 or n_symbols < 2 or n_symbols > most:
        return BAD_TABLE
    frequency_bytes = 1 if coder == RANS8 else 2
    symbols_at = RANS_HEADER_BYTES
    frequencies_at = symbols_at + n_symbols
    if coder == RANS12:
        frequencies_at += n_symbols % 2
    words_at = frequencies_at + frequency_bytes * n_symbols
    states_at = words_at + 2 * n_words
    patches_at = states_at + RANS_STATES_BYTES
    if patches_at + PATCH_BYTES * n_patches != argument:
        return BAD_SIZE
    if frequencies_at > symbols_at + n_symbols and payload[symbols_at + n_symbols] != 0:
        return BAD_TABLE

    total = 0
    previous = -1
    for i in range(n_symbols):
        symbol = np.int64(payload[symbols_at + i])
        frequency = _read(payload, frequencies_at + frequency_bytes * i, frequency_bytes)
        if symbol <= previous or frequency == 0:
            return BAD_TABLE
        previous = symbol
        total += frequency
    if total != 1 << (RANS8_BITS if coder == RANS8 else RANS12_BITS):
        return BAD_TABLE
    if previous >> bits != 0:
        return BAD_SYMBOL

    for lane in range(LANES):
        state = _read(payload, states_at + 4 * lane, 4)
        if state < RANS_STATE_LOW:
            return BAD_STATE
        states[lane] = np.uint32(state)

    previous = -1
    symbols = patches_at + 2 * n_patches
    for i in range(n_patches):
        position = _read(payload, patches_at + 2 * i, 2)
        if position <= previous or position >= n_rows * ROW:
            return BAD_PATCH
        if payload[symbols + i] >> bits != 0:
            return BAD_SYMBOL
        previous = position

    layout[N_WORDS] = n_words
    layout[N_PATCHES] = n_patches
    layout[N_SYMBOLS] = n_symbols
    layout[SYMBOLS_AT] = symbols_at
    layout[FREQUENCIES_AT] = frequencies_at
    layout[WORDS_AT] = words_at
    layout[STATES_AT] = states_at
    layout[PATCHES_AT] = patches_at
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
        out[_read(payload, positions + 2 * i, 2)] = payload[symbols + i]
    return OK


@kernel
def decode_plane(coder, argument, payload, n, bits, out, scratch):  # type: ignore[no-untyped-def]
    """Decode a rans8 or rans12 payload (uint8, `argument` bytes) of `n` symbols. A status.

    `out` (uint8) has room for `n` rounded up to a multiple of 64. The payload may be hostile:
    nothing outside it is read and nothing outside `out`'s room written, whatever it says.
    """
    layout, states, table = scratch.layouts[0], scratch.states[0], scratch.tables[0]
    status = _examine(coder, argument, payload, n, bits, layout, states)
    if status != OK:
        return status
    n_rows = (n - 1) // ROW
    words = payload[layout[WORDS_AT] :]
    n_words = layout[N_WORDS]
    symbols = payload[layout[SYMBOLS_AT] : layout[SYMBOLS_AT] + layout[N_SYMBOLS]]
    frequencies = payload[layout[FREQUENCIES_AT] : layout[WORDS_AT]]
    if coder == RANS8:
        simd.decode_table8(symbols, frequencies, table)
        n_used = simd.decode_rows8(words, n_words, n_rows, table, states, out)
    else:
        simd.decode_table12(symbols, frequencies, table)
        n_used = simd.decode_rows12(words, n_words, n_rows, table, states, out)
    return _finish(payload, n, bits, out, layout, states, n_used)


@kernel
def decode_two_planes(  # type: ignore[no-untyped-def]
    payload_a, n_a, out_a, payload_b, n_b, out_b, bits, scratch
):
    """Decode two rans8 payloads at once, which is faster; `status_a | status_b << 8`."""
    a = decode_plane(RANS8, payload_a.size, payload_a, n_a, bits, out_a, scratch)
    b = decode_plane(RANS8, payload_b.size, payload_b, n_b, bits, out_b, scratch)
    return a | b << 8


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
    states[:] = RANS_STATE_LOW
    for i in range(n_rows * ROW, n):
        j = i - n_rows * ROW
        states[j >> 1] |= np.uint32(symbols[i]) << np.uint32(8 * (j & 1))

    if coder == RANS8:
        simd.encode_table8(present, frequencies, table)
        n_words = simd.encode_rows8(symbols, n_rows, table, states, words, scratch.row_flags)
    else:
        simd.encode_table12(present, frequencies, table)
        n_words = simd.encode_rows12(symbols, n_rows, table, states, words, scratch.row_flags)

    known = np.zeros(256, np.uint8)
    for i in range(n_symbols):
        known[present[i]] = 1
    n_patches = 0
    for row in range(n_rows):
        if scratch.row_flags[row] != 0:
            for i in range(row * ROW, (row + 1) * ROW):
                n_patches += 1 - np.int64(known[symbols[i]])
    size = RANS_HEADER_BYTES + table_bytes(coder, n_symbols) + 2 * n_words
    size += RANS_STATES_BYTES + PATCH_BYTES * n_patches
    if size >= out.size:
        return n_patches, 0

    at = _write(n_words, 4, out, 0)
    at = _write(n_patches, 2, out, at)
    at = _write(n_symbols - 1, 2, out, at)
    out[at : at + n_symbols] = present
    at += n_symbols
    if coder == RANS12 and n_symbols % 2 == 1:
        out[at] = 0
        at += 1
    for i in range(n_symbols):
        at = _write(np.int64(frequencies[i]), 1 if coder == RANS8 else 2, out, at)
    used = words[words.size - n_words :].view(np.uint8)
    out[at : at + 2 * n_words] = used
    at += 2 * n_words
    for lane in range(LANES):
        at = _write(np.int64(states[lane]), 4, out, at)
    patch_symbols = at + 2 * n_patches
    for row in range(n_rows):
        if scratch.row_flags[row] != 0:
            for i in range(row * ROW, (row + 1) * ROW):
                if known[symbols[i]] == 0:
                    at = _write(i, 2, out, at)
                    out[patch_symbols] = symbols[i]
                    patch_symbols += 1
    return n_patches, size
