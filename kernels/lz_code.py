# SPDX-License-Identifier: Apache-2.0
"""The entropy stage of LZ: several streams of symbols, one set of 32 rANS states.

A stream is stored raw, as one constant symbol, or as rANS with 12-bit probabilities. The
coded streams follow one another through the same states, so that a block pays for them once; a
stream's last row may be partial. `docs/format.md` lays out the bytes.
"""

from __future__ import annotations

import numpy as np

from . import simd
from .choose import log2_fixed, normalise
from .jit import kernel
from .lz_ops import highest_bit, load64, store64
from .spec import (
    BAD_PADDING,
    BAD_SIZE,
    BAD_STATE,
    BAD_SYMBOL,
    BAD_TABLE,
    BAD_WORDS,
    LANES,
    LOG2_BITS,
    OK,
    RANS12_BITS,
    RANS_STATE_LOW,
    RANS_STATES_BYTES,
    ROW,
)

RAW, CONSTANT, CODED = range(3)  # how a stream is stored
SCALE = 1 << RANS12_BITS
RIDERS = 2 * LANES  # bytes that ride in the states' spare bits
U = np.uint64


# --- frequencies as bytes -------------------------------------------------------------------------


@kernel
def _table_bytes(frequencies, first, last):
    """Bytes of a stored table: two symbols, a width in 4 bits each, the bits below the highest."""
    bits = 4 * (last - first + 1 + ((last - first + 1) & 1))
    for s in range(first, last + 1):
        if frequencies[s] > 1:
            bits += np.int64(highest_bit(U(frequencies[s])))
    return 2 + (bits + 7) // 8


@kernel
def _write_table(frequencies, first, last, out, at):
    out[at] = first
    out[at + 1] = last
    at += 2
    for s in range(first, last + 1, 2):
        pair = np.uint8(0)
        for j in range(2):
            if s + j <= last and frequencies[s + j] != 0:
                pair |= np.uint8((np.int64(highest_bit(U(frequencies[s + j]))) + 1) << (4 * j))
        out[at] = pair
        at += 1
    held, n_held = np.int64(0), 0
    for s in range(first, last + 1):
        f = np.int64(frequencies[s])
        if f > 1:
            width = np.int64(highest_bit(U(f)))
            held |= (f - (1 << width)) << n_held
            n_held += width
            while n_held >= 8:
                out[at] = held & 255
                at += 1
                held >>= 8
                n_held -= 8
    if n_held > 0:
        out[at] = held
        at += 1
    return at


@kernel
def _read_table(payload, at, frequencies):
    """Fill `frequencies` u32[256]; (status, where the table ends, first, last symbol)."""
    size = payload.size
    if at + 2 > size:
        return BAD_SIZE, at, 0, 0
    first, last = np.int64(payload[at]), np.int64(payload[at + 1])
    widths_at = at + 2
    at = widths_at + (last - first + 2) // 2
    if last <= first or at > size:
        return BAD_TABLE, at, 0, 0
    if (last - first) & 1 == 0 and payload[at - 1] >> 4 != 0:
        return BAD_TABLE, at, 0, 0
    frequencies[:] = 0
    held, n_held = np.int64(0), 0
    total = np.int64(0)
    for s in range(first, last + 1):
        i = s - first
        width = (np.int64(payload[widths_at + (i >> 1)]) >> (4 * (i & 1))) & 15
        if width == 0:
            if s == first or s == last:
                return BAD_TABLE, at, 0, 0
            continue
        width -= 1
        while n_held < width:
            if at >= size:
                return BAD_SIZE, at, 0, 0
            held |= np.int64(payload[at]) << n_held
            at += 1
            n_held += 8
        f = (1 << width) | (held & ((1 << width) - 1))
        held >>= width
        n_held -= width
        frequencies[s] = np.uint32(f)
        total += f
    if total != SCALE or held != 0:
        return BAD_TABLE, at, 0, 0
    return OK, at, first, last


# --- encode ---------------------------------------------------------------------------------------


@kernel
def count(symbols, n, counts):
    """Histogram of `n` symbols at address `symbols` into `counts[0]` (u32[4, 256])."""
    counts[:] = 0
    byte = U(255)
    eights = n >> U(3)
    for i in range(eights):
        x = load64(symbols + (i << U(3)))
        counts[U(0), x & byte] += np.uint32(1)
        counts[U(1), (x >> U(8)) & byte] += np.uint32(1)
        counts[U(2), (x >> U(16)) & byte] += np.uint32(1)
        counts[U(3), (x >> U(24)) & byte] += np.uint32(1)
        counts[U(0), (x >> U(32)) & byte] += np.uint32(1)
        counts[U(1), (x >> U(40)) & byte] += np.uint32(1)
        counts[U(2), (x >> U(48)) & byte] += np.uint32(1)
        counts[U(3), x >> U(56)] += np.uint32(1)
    for i in range(eights << U(3), n):
        counts[U(0), load64(symbols + i) & byte] += np.uint32(1)
    for s in range(U(256)):
        counts[U(0), s] += counts[U(1), s] + counts[U(2), s] + counts[U(3), s]


@kernel
def plan(counts, n, present, frequencies, dense):
    """How to store a stream with these counts: (mode, symbols in the table, bytes).

    Fills `present` and `frequencies` (of `n_present` symbols), and `dense` u32[256] by symbol. The
    bytes of a coded stream are an estimate that leaves out the states.
    """
    n_present = 0
    for s in range(256):
        if counts[s] != 0:
            present[n_present] = s
            n_present += 1
    if n_present < 2:
        return CONSTANT, n_present, np.int64(1)
    normalise(counts, present, n_present, n, RANS12_BITS, frequencies)
    dense[:] = 0
    bits = np.int64(0)
    for i in range(n_present):
        s = present[i]
        dense[s] = frequencies[i]
        cost = (RANS12_BITS << LOG2_BITS) - log2_fixed(np.int64(frequencies[i]))
        bits += np.int64(counts[s]) * cost
    size = (bits >> (LOG2_BITS + 3)) + 1
    size += _table_bytes(dense, np.int64(present[0]), np.int64(present[n_present - 1]))
    if size >= n:
        return RAW, n_present, np.int64(n)
    return CODED, n_present, size


@kernel
def encode_stream(symbols, n, present, frequencies, dense, starts, table, states, words, row_flags):
    """Push `n` symbols on the states, last row first; how many of `words` (from the end) it fills."""
    start = np.uint32(0)
    for i in range(present.size):
        starts[present[i]] = start
        start += frequencies[i]
    n_rows = n // ROW
    base = n_rows * ROW
    at = words.size
    for j in range(1, -1, -1):
        for lane in range(LANES - 1, -1, -1):
            i = base + 2 * lane + j
            if i < n:
                s = symbols[i]
                x, f = states[lane], dense[s]
                if x >> np.uint32(20) >= f:
                    at -= 1
                    words[at] = np.uint16(x)
                    x >>= np.uint32(16)
                q = x // f
                states[lane] = (q << np.uint32(12)) + (x - q * f) + starts[s]
    if n_rows > 0:
        simd.encode_table12(present, frequencies, table)
        at -= simd.encode_rows12(symbols, n_rows, table, states, words[:at], row_flags)
    return words.size - at


# --- decode ---------------------------------------------------------------------------------------


@kernel
def decode_stream(payload, at, n_words, n, frequencies, first, last, scratch, out):
    """Pop `n` symbols to `out`; words used, which the caller compares with `n_words`.

    The 64 bytes behind the words, at `at + 2 n_words`, must be readable. `out` has room for n + 64.
    """
    table, states, symbols, packed, starts = scratch
    n_present = 0
    start = np.uint32(0)
    for s in range(first, last + 1):
        if frequencies[s] != 0:
            symbols[n_present] = s
            packed[n_present] = frequencies[s]
            starts[n_present] = start
            start += frequencies[s]
            n_present += 1
    n_rows = n // ROW
    used = np.int64(0)
    if n_rows > 0:
        simd.decode_table12(symbols[:n_present], packed[:n_present], table)
        used = np.int64(
            simd.decode_rows12(payload[at:], n_words, n_rows, table, states, out)
        )
    base = n_rows * ROW
    for j in range(2):
        for lane in range(LANES):
            i = base + 2 * lane + j
            if i < n:
                x = states[lane]
                slot = x & np.uint32(SCALE - 1)
                low, high = 0, n_present
                while high - low > 1:
                    middle = (low + high) >> 1
                    if starts[middle] <= slot:
                        low = middle
                    else:
                        high = middle
                out[i] = symbols[low]
                x = np.uint32(packed[low]) * (x >> np.uint32(12)) + (slot - starts[low])
                if x < np.uint32(RANS_STATE_LOW):
                    where = at + 2 * min(used, n_words)
                    word = np.uint32(payload[where]) | np.uint32(payload[where + 1]) << np.uint32(8)
                    x = x << np.uint32(16) | word
                    used += 1
                states[lane] = x
    return used
