# SPDX-License-Identifier: Apache-2.0
"""Tables of rans12 for vector gathers: an entry of 4 or 8 bytes is all that a step needs."""

from __future__ import annotations

import numpy as np

from .arrays import view_u32
from .division import most_frequent, reciprocal, rounds_up
from .jit import kernel
from .spec import RANS12_BITS

# decode table: u32 by slot; frequency, slot - start and symbol from the lowest bits up
DECODE12_TABLE_BYTES = 4 << RANS12_BITS
SYMBOL = 2 * RANS12_BITS
# encode table: by symbol u32 reciprocal, u32 shift, bias, 2^P - frequency and patched, whose first bits
# are these; then 16 dwords `more`, 16 dwords of two 16-bit 16s, and a mask of odd lanes
BIAS, BIAS_BITS, COMPLEMENT, PATCHED = 5, RANS12_BITS + 1, 18, 30
MORE, SIXTEEN, ODD = 2048, 2112, 2176
ENCODE12_TABLE_BYTES = 2240


@kernel
def decode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    entries = view_u32(table)
    slot = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        entry = np.int64(symbols[i]) << SYMBOL | f
        for j in range(f):
            entries[slot + j] = np.uint32(entry | j << RANS12_BITS)
        slot += f


@kernel
def encode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    entries = view_u32(table)
    most = most_frequent(frequencies, symbols.size)
    up = rounds_up(np.int64(frequencies[most]), np.int64(RANS12_BITS))
    for i in range(16):
        entries[(MORE >> 2) + i] = np.uint32(not up)
        entries[(SIXTEEN >> 2) + i] = np.uint32(16 << 16 | 16)
    entries[ODD >> 2] = np.uint32(0xAAAA)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        r, shift, lacks = reciprocal(f, up)
        complement = (1 << RANS12_BITS) - f
        symbol = np.int64(symbols[i])
        entries[2 * symbol] = np.uint32(r)
        fields = shift | (start + lacks * complement) << BIAS | complement << COMPLEMENT
        entries[2 * symbol + 1] = np.uint32(fields)
        start += f
    filler = np.int64(symbols[most])
    known = 0
    for symbol in range(256):
        if known < symbols.size and symbols[known] == symbol:
            known += 1
        else:
            entries[2 * symbol] = entries[2 * filler]
            entries[2 * symbol + 1] = entries[2 * filler + 1] | np.uint32(1 << PATCHED)
