# SPDX-License-Identifier: Apache-2.0
"""The encoder's choices: which coder and which table a plane gets.

The encoder's choices
---------------------
They decide bytes, so that every encoder makes them alike, in integers only. `N` is the number
of symbols counted, `c[s]` how many of them are `s`; only full rows are counted, never the tail, so
that each symbol of a table occurs in the coded rows.

1. All symbols equal: constant. Otherwise the payload must be smaller than raw's, or raw it is. Raw, too,
   if there are more than `2^MAX_BLOCK_LOG` symbols (of blocks of a sparse frame that are not).
2. With `SAMPLE_MIN_ROWS` full rows or more, count the rows divisible by `PROBE_STRIDE`. If their
   order-0 entropy is above `1 - 2^-PROBE_MIN_GAIN_LOG` of the raw bits: raw.
3. Count the rows divisible by `SAMPLE_STRIDE`; with fewer rows than that, all full rows.
4. rans8's table takes the symbols with `c[s] * 2^RARE_LOG >= N`, and of more than
   `RANS8_MAX_SYMBOLS` only those that pass twice that threshold, or four times, and so on.
   rans12's takes all with `c[s] >= 2` and `c[s] * 2^RARE_LOG_12 >= N`. If that is one symbol, the most
   frequent of the others (ties: the lowest) joins it, if any occurs; one alone makes no table.
5. Frequencies: `M = 2^P`, `K` the sum of the table's counts. A symbol with `c * M < K` gets 1; the
   rest share what is left of `M` and `K` in proportion, rounded to nearest, at least 1. While the sum
   is short of `2^P`, the symbol with the largest `c / (2 f + 1)` gets one more; while it is over, of
   those with `f > 1` the one with the smallest `c / (2 f - 1)` gets one less (ties: the lowest).
6. The size of each is estimated: header, table, states, `P - log2 f` bits for a symbol,
   and for a symbol that the table lacks a patch and the bits of the most frequent one. `log2` has
   `LOG2_BITS` bits of fraction, from a table of 2^8 steps with linear interpolation. The counts are
   scaled to all full rows. rans12 wins if it is smaller by `2^-RANS12_MIN_GAIN_LOG` of rans8's, as it is
   slower; raw, if the winner is not below it.
7. If rans12 won from a sample, or there was no table, or the payload has more than
   `n >> PATCH_RETRY_LOG` patches, all full rows are counted and steps 4 to 6 repeated.
"""

from __future__ import annotations

import numpy as np

from . import rans
from .arrays import view_u64
from .jit import inlined, kernel
from .planes import pack_bits, raw_plane_bytes
from .spec import (
    CONSTANT,
    ENTRY_CODER_SHIFT,
    LOG2_BITS,
    LOG2_STEPS_LOG,
    MAX_BLOCK_LOG,
    PATCH_BYTES,
    PATCH_RETRY_LOG,
    PROBE_MIN_GAIN_LOG,
    PROBE_STRIDE,
    RANS8,
    RANS8_BITS,
    RANS8_MAX_SYMBOLS,
    RANS12,
    RANS12_BITS,
    RANS12_MIN_GAIN_LOG,
    RANS_HEADER_BYTES,
    RANS_STATES_BYTES,
    RARE_LOG,
    RARE_LOG_12,
    RAW,
    ROW,
    SAMPLE_MIN_ROWS,
    SAMPLE_STRIDE,
    log2_table,
)
from .uniform import is_constant
from .vector import copy_bytes

LOG2 = np.array(log2_table(), np.uint16)


@kernel
def log2_fixed(x: int) -> int:
    """log2 of 1 <= x < 2^32 with LOG2_BITS bits of fraction."""
    k = 0
    for shift in (16, 8, 4, 2, 1):
        if x >> (k + shift) != 0:
            k += shift
    scaled = np.int64(x) << (32 - k)  # 1.0 is 2^32
    below = 32 - LOG2_STEPS_LOG
    step = (scaled >> below) & ((1 << LOG2_STEPS_LOG) - 1)
    rest = scaled & ((1 << below) - 1)
    low, high = np.int64(LOG2[step]), np.int64(LOG2[step + 1])
    return (k << LOG2_BITS) + low + ((high - low) * rest >> below)


@kernel
def histogram(symbols, n_rows, stride, counts):  # type: ignore[no-untyped-def]
    """Count the rows 0, stride, 2 stride, ... into `counts[0]`; how many symbols these are.

    Four tables, as a symbol that follows its equal would wait for the other's sum to be stored.
    """
    for table in range(4):
        for s in range(256):
            counts[table, s] = 0
    eights = view_u64(symbols)
    byte = np.uint64(255)
    n_counted = 0
    for row in range(0, n_rows, stride):
        for i in range(row * ROW // 8, (row + 1) * ROW // 8):
            x = eights[i]
            counts[0, x & byte] += np.uint32(1)
            counts[1, (x >> np.uint64(8)) & byte] += np.uint32(1)
            counts[2, (x >> np.uint64(16)) & byte] += np.uint32(1)
            counts[3, (x >> np.uint64(24)) & byte] += np.uint32(1)
            counts[0, (x >> np.uint64(32)) & byte] += np.uint32(1)
            counts[1, (x >> np.uint64(40)) & byte] += np.uint32(1)
            counts[2, (x >> np.uint64(48)) & byte] += np.uint32(1)
            counts[3, x >> np.uint64(56)] += np.uint32(1)
        n_counted += ROW
    for s in range(256):
        counts[0, s] += counts[1, s] + counts[2, s] + counts[3, s]
    return n_counted


@inlined
def _promising(counts, n_counted, bits):  # type: ignore[no-untyped-def]
    """Whether the entropy of the probe is far enough below `bits`."""
    total = n_counted * log2_fixed(n_counted)
    for s in range(256):
        if counts[0, s] != 0:
            total -= np.int64(counts[0, s]) * log2_fixed(np.int64(counts[0, s]))
    raw = n_counted * bits << LOG2_BITS
    return total <= raw - (raw >> PROBE_MIN_GAIN_LOG)


@kernel
def normalise(counts, symbols, n_symbols, n_kept, bits, frequencies):  # type: ignore[no-untyped-def]
    """Frequencies that sum to 2^bits, in proportion to the counts of `symbols[:n_symbols]`.

    `n_kept` is the sum of these counts.
    """
    whole = np.int64(1) << bits
    target, share = whole, np.int64(n_kept)
    for i in range(n_symbols):
        c = np.int64(counts[symbols[i]])
        if c * whole < n_kept:
            target -= 1
            share -= c
    total = np.int64(0)
    for i in range(n_symbols):
        c = np.int64(counts[symbols[i]])
        f = np.int64(1)
        if c * whole >= n_kept:
            f = max(np.int64(1), (2 * c * target + share) // (2 * share))
        frequencies[i] = np.uint32(f)
        total += f
    while total != whole:
        step = 1 if total < whole else -1
        best = -1
        best_count, best_width = np.int64(0), np.int64(1)
        for i in range(n_symbols):
            c, f = np.int64(counts[symbols[i]]), np.int64(frequencies[i])
            if step < 0 and f == 1:
                continue
            width = 2 * f + step
            difference = c * best_width - best_count * width
            if best < 0 or difference * step > 0:
                best, best_count, best_width = i, c, width
        frequencies[best] = np.uint32(np.int64(frequencies[best]) + step)
        total += step


@kernel
def _plan(counts, n_counted, n_coded, coder, symbols, frequencies):  # type: ignore[no-untyped-def]
    """The table of one coder and its estimate: (symbols in the table, payload bytes).

    `n_coded` is the number of symbols in all full rows.
    """
    bits = RANS8_BITS if coder == RANS8 else RANS12_BITS
    least = (n_counted + (1 << RARE_LOG) - 1) >> RARE_LOG
    if coder == RANS12:
        least = max(2, (n_counted + (1 << RARE_LOG_12) - 1) >> RARE_LOG_12)
    n_symbols = RANS8_MAX_SYMBOLS + 1
    while coder == RANS8 and n_symbols > RANS8_MAX_SYMBOLS:
        n_symbols = 0
        for s in range(256):
            n_symbols += np.int64(counts[s] >= least)
        if n_symbols > RANS8_MAX_SYMBOLS:
            least *= 2
    n_symbols, n_kept = np.int64(0), np.int64(0)
    for s in range(256):
        if counts[s] >= least:
            symbols[n_symbols] = s
            n_kept += np.int64(counts[s])
            n_symbols += 1
    if n_symbols == 1:
        other, most = np.int64(0), np.int64(0)
        for s in range(256):
            c = np.int64(counts[s])
            if most < c < least:
                other, most = s, c
        if most != 0:
            symbols[1] = max(symbols[0], other)
            symbols[0] = min(symbols[0], other)
            n_symbols, n_kept = np.int64(2), n_kept + most
    if n_symbols < 2:
        return 0, np.int64(1) << 32
    normalise(counts, symbols, n_symbols, n_kept, bits, frequencies)
    filler, width = rans.frequency_width(coder, frequencies, n_symbols)
    one = np.int64(1) << LOG2_BITS
    patch = 8 * PATCH_BYTES * one + bits * one - log2_fixed(np.int64(frequencies[filler]))
    total = (n_counted - n_kept) * patch
    for i in range(n_symbols):
        c = np.int64(counts[symbols[i]])
        total += c * (bits * one - log2_fixed(np.int64(frequencies[i])))
    size = (total * n_coded // n_counted) >> (LOG2_BITS + 3)
    size += RANS_HEADER_BYTES + RANS_STATES_BYTES + rans.table_bytes(coder, n_symbols, width)
    return n_symbols, size


@inlined
def _rans_plane(symbols, n, bits, raw_bytes, out, scratch):  # type: ignore[no-untyped-def]
    """Code the plane if that makes it smaller than `raw_bytes`: (coder, bytes), or RAW."""
    n_rows = (n - 1) // ROW
    if n_rows == 0 or n > 1 << MAX_BLOCK_LOG:
        return RAW, 0
    counts = scratch.counts
    stride = np.int64(1)
    if n_rows >= SAMPLE_MIN_ROWS:
        if not _promising(counts, histogram(symbols, n_rows, np.int64(PROBE_STRIDE), counts), bits):
            return RAW, 0
        stride = np.int64(SAMPLE_STRIDE)
    while True:
        n_counted = histogram(symbols, n_rows, stride, counts)
        coder = RANS8
        n_symbols, size = 0, np.int64(0)
        for candidate in (RANS8, RANS12):
            table = scratch.symbols[candidate - RANS8]
            frequencies = scratch.frequencies[candidate - RANS8]
            count, estimate = _plan(
                counts[0], n_counted, n_rows * ROW, candidate, table, frequencies
            )
            if candidate == RANS8 or estimate + (size >> RANS12_MIN_GAIN_LOG) < size:
                coder, n_symbols, size = candidate, count, estimate
        if stride > 1 and (n_symbols == 0 or coder == RANS12):
            stride = np.int64(1)
            continue
        if n_symbols == 0 or size >= raw_bytes:
            return RAW, 0
        table = scratch.symbols[coder - RANS8]
        frequencies = scratch.frequencies[coder - RANS8]
        n_patches, size = rans.encode(
            np.int64(coder), symbols, n, table[:n_symbols], frequencies, out[:raw_bytes], scratch
        )
        if stride > 1 and n_patches > n >> PATCH_RETRY_LOG:
            stride = np.int64(1)
            continue
        return coder if size > 0 else RAW, size


@inlined
def encode_plane(symbols, n, bits, out, scratch):  # type: ignore[no-untyped-def]
    """Write the payload of `n` symbols (uint8, room for n + 64) to `out`; the block table's entry.

    `out` must have room for the plane stored raw and 64 bytes more; `scratch` is
    `rans.encode_scratch`.
    """
    if is_constant(symbols, n):
        return CONSTANT << ENTRY_CODER_SHIFT | np.int64(symbols[0])
    raw_bytes = raw_plane_bytes(n, bits)
    coder, size = _rans_plane(symbols, n, bits, raw_bytes, out, scratch)
    if coder == RAW:
        size = raw_bytes
        if bits == 8:
            assert out.size >= n
            copy_bytes(np.uint64(out.ctypes.data), np.uint64(symbols.ctypes.data), np.uint64(n))
        else:
            pack_bits(symbols, n, bits, out)
    return coder << ENTRY_CODER_SHIFT | size
