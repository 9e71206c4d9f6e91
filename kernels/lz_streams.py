# SPDX-License-Identifier: Apache-2.0
"""The entropy stage of LZ: streams of symbols that share one set of 32 rANS states.

A stream is stored raw, as one constant symbol, or as rANS with 12-bit probabilities. The
coded streams follow one another through the same states, so that a block pays for them once; a
stream's last row may be partial. Arguments are addresses and numbers, uint64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import lz_rows
from .choose import log2_fixed, normalise
from .jit import kernel
from .lz_ops import get8, get16, get32, get64, highest_bit, put8, put16, put32
from .lz_spec import CODED_STREAM, CONSTANT_STREAM, RAW_STREAM, UNIFORM
from .spec import (
    LANES,
    LOG2_BITS,
    RANS12_BITS,
    RANS_STATE_LOW,
    ROW,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 1 << RANS12_BITS
U = np.uint64


class Counts(NamedTuple):
    """Work space of `plan`."""

    counts: NDArray[np.uint32]  # [4, 256]: one histogram counts in four tables
    present: NDArray[np.uint8]  # [256]
    frequencies: NDArray[np.uint32]  # [256]


# --- encode ---------------------------------------------------------------------------------------


@kernel
def _count(symbols, n, counts):  # type: ignore[no-untyped-def]
    """Histogram of `n` symbols into `counts[0]`."""
    for table in range(U(4)):
        for s in range(U(256)):
            counts[table, s] = 0
    byte, one = U(255), np.uint32(1)
    whole = n & ~U(7)
    for i in range(U(0), whole, U(8)):
        x = get64(symbols + i)
        counts[U(0), x & byte] += one
        counts[U(1), (x >> U(8)) & byte] += one
        counts[U(2), (x >> U(16)) & byte] += one
        counts[U(3), (x >> U(24)) & byte] += one
        counts[U(0), (x >> U(32)) & byte] += one
        counts[U(1), (x >> U(40)) & byte] += one
        counts[U(2), (x >> U(48)) & byte] += one
        counts[U(3), x >> U(56)] += one
    for i in range(whole, n):
        counts[U(0), get8(symbols + i)] += one
    for s in range(U(256)):
        counts[U(0), s] += counts[U(1), s] + counts[U(2), s] + counts[U(3), s]


@kernel
def entropy_of(counts, n):  # type: ignore[no-untyped-def]
    """Order-0 entropy of `n` symbols with these counts (u32[256]), bits of LOG2_BITS fixed point."""
    bits = np.int64(n) * log2_fixed(np.int64(n))
    for s in range(U(256)):
        if counts[s] > np.uint32(1):
            bits -= np.int64(counts[s]) * log2_fixed(np.int64(counts[s]))
    return U(bits)


@kernel
def entropy(symbols, n, work):  # type: ignore[no-untyped-def]
    """`entropy_of` the `n` symbols at an address."""
    _count(symbols, n, work.counts)
    return entropy_of(work.counts[0], n)


@kernel
def plan(symbols, n, frequencies, work):  # type: ignore[no-untyped-def]
    """How to store `n` symbols: (mode, first, last symbol, bytes, bytes of these that a table takes).

    Fills `frequencies` (u32 by symbol) of a coded stream, whose bytes are an estimate that leaves out the
    states.
    """
    counts, present, packed = work
    _count(symbols, n, counts)
    n_present = np.int64(0)
    pairs = U(0)
    for s in range(U(256)):
        c = U(counts[U(0), s])
        pairs += c * (c - U(1))
        if c != U(0):
            present[U(n_present)] = s
            n_present += 1
    if n_present < 2:
        return CONSTANT_STREAM, U(0), U(present[0]) if n_present == 1 else U(0), U(1), U(0)
    if pairs * U(UNIFORM) <= n * (n - U(1)):
        return RAW_STREAM, U(0), U(0), n, U(0)
    normalise(counts[0], present, n_present, np.int64(n), RANS12_BITS, packed)
    first, last = U(present[0]), U(present[U(n_present - 1)])
    for s in range(first, last):
        put32(frequencies + (s << U(2)), U(0))
    cost = np.int64(0)
    bits = U(4) * ((last - first + U(2)) & ~U(1))
    for i in range(U(n_present)):
        s, f = U(present[i]), U(packed[i])
        put32(frequencies + (s << U(2)), f)
        bits += highest_bit(f)
        share = (RANS12_BITS << LOG2_BITS) - log2_fixed(np.int64(f))
        cost += np.int64(counts[U(0), s]) * share
    table = U(2) + ((bits + U(7)) >> U(3))
    size = (U(cost) >> U(LOG2_BITS + 3)) + U(1) + table
    if size >= n:
        return RAW_STREAM, first, last, n, U(0)
    return CODED_STREAM, first, last, size, table


@kernel
def encode_stream(  # type: ignore[no-untyped-def]
    symbols, n, frequencies, first, last, table, states, arguments, end, flags
):
    """Push `n` symbols on the states, last row first, words downwards from `end`; their begin."""
    starts = U(0)
    for s in range(first, last + U(1)):
        f = get32(frequencies + (s << U(2)))
        if f != U(0):
            lz_rows.encode_entry(table, s, f, starts)
        put32(frequencies + U(1024) + (s << U(2)), starts)
        starts += f
    n_rows = n // U(ROW)
    base = n_rows * U(ROW)
    for turn in range(U(2)):
        for lane in range(U(LANES)):
            i = base + U(2) * (U(LANES - 1) - lane) + U(1) - turn
            if i < n:
                s = get8(symbols + i) << U(2)
                f, start = get32(frequencies + s), get32(frequencies + U(1024) + s)
                where = states + ((i >> U(1)) % U(LANES) << U(2))
                x = get32(where)
                if x >> U(20) >= f:
                    end -= U(2)
                    put16(end, x)
                    x >>= U(16)
                q = x // f
                put32(where, (q << U(RANS12_BITS)) + (x - q * f) + start)
    if n_rows != U(0):
        end = lz_rows.encode_rows(arguments, symbols, n_rows, table, states, end, flags)
    return end


# --- decode ---------------------------------------------------------------------------------------


@kernel
def decode_stream(  # type: ignore[no-untyped-def]
    words, n_words, n, frequencies, first, last, table, states, arguments, out
):
    """Pop `n` symbols to `out`, with room for 64 more; how many words they asked for.

    128 bytes behind the `n_words` words are readable.
    """
    at = table
    for s in range(first, last + U(1)):
        f = get32(frequencies + (s << U(2)))
        lz_rows.ramp(at, f | s << U(2 * RANS12_BITS), f)
        at += f << U(2)
    n_rows = n // U(ROW)
    used = U(0)
    if n_rows != U(0):
        used = lz_rows.decode_rows(arguments, words, n_words, n_rows, table, states, out)
    base = n_rows * U(ROW)
    low = U(SCALE - 1)
    for turn in range(U(2)):
        for lane in range(U(LANES)):
            i = base + U(2) * lane + turn
            if i < n:
                where = states + (lane << U(2))
                x = get32(where)
                entry = get32(table + ((x & low) << U(2)))
                put8(out + i, entry >> U(2 * RANS12_BITS))
                x = (x >> U(RANS12_BITS)) * (entry & low) + ((entry >> U(RANS12_BITS)) & low)
                if x < U(RANS_STATE_LOW):
                    x = x << U(16) | get16(words + (min(used, n_words) << U(1)))
                    used += U(1)
                put32(where, x)
    return used
