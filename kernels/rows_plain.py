# SPDX-License-Identifier: Apache-2.0
"""Rows of rANS in plain Numba: for every processor without a path of its own."""

from __future__ import annotations

import numpy as np
from .jit import kernel
from .spec import LANES, RANS8_BITS, RANS12_BITS, RANS_STATE_LOW, ROW

DECODE_TABLE_BYTES = 4 << RANS12_BITS  # u32 a slot
ENCODE_TABLE_BYTES = 16 * 256  # two u64 a symbol


@kernel
def _decode_table(symbols, frequencies, table, bits):  # type: ignore[no-untyped-def]
    """A u32 for each slot: frequency, slot - start, symbol from the lowest bits up."""
    entries = table.view(np.uint32)
    slot = np.int64(0)
    for i in range(symbols.size):
        frequency = np.int64(frequencies[i])
        for j in range(frequency):
            entry = np.int64(symbols[i]) << (2 * bits) | j << bits | frequency
            entries[slot + j] = np.uint32(entry)
        slot += frequency


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _decode_table(symbols, frequencies, table, RANS8_BITS)


@kernel
def decode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _decode_table(symbols, frequencies, table, RANS12_BITS)


@kernel
def decode_rows8(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    entries = table.view(np.uint32)
    mask, bits = np.uint32(255), np.uint32(8)
    used = np.uint64(0)
    limit = np.uint64(n_words)
    i = np.uint64(0)
    for _ in range(n_rows):
        at = min(used, limit)
        first = at
        for lane in range(np.uint64(LANES)):
            x = states[lane]
            e = entries[np.uint64(x & mask)]
            x = (e & mask) * (x >> bits) + ((e >> bits) & mask)
            out[i] = np.uint8(e >> np.uint32(16))
            e = entries[np.uint64(x & mask)]
            x = (e & mask) * (x >> bits) + ((e >> bits) & mask)
            out[i + np.uint64(1)] = np.uint8(e >> np.uint32(16))
            i += np.uint64(2)
            if x < np.uint32(RANS_STATE_LOW):
                word = np.uint32(words[at + at]) | np.uint32(words[at + at + np.uint64(1)]) << bits
                x = x << np.uint32(16) | word
                at += np.uint64(1)
            states[lane] = x
        used += at - first
    return np.int64(used)


@kernel
def decode_rows8_pair(  # type: ignore[no-untyped-def]
    words_a, n_words_a, table_a, states_a, out_a, words_b, n_words_b, table_b, states_b, out_b, n_rows
):
    """Two planes at once, where that is faster; here it is not. The words used of each."""
    used_a = decode_rows8(words_a, n_words_a, n_rows, table_a, states_a, out_a)
    return used_a, decode_rows8(words_b, n_words_b, n_rows, table_b, states_b, out_b)


@kernel
def decode_rows12(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    entries = table.view(np.uint32)
    mask, bits = np.uint32(4095), np.uint32(12)
    used = np.uint64(0)
    limit = np.uint64(n_words)
    i = np.uint64(0)
    for _ in range(n_rows):
        at = min(used, limit)
        first = at
        for j in range(np.uint64(2)):
            for lane in range(np.uint64(LANES)):
                x = states[lane]
                e = entries[np.uint64(x & mask)]
                x = (e & mask) * (x >> bits) + ((e >> bits) & mask)
                out[i + lane + lane + j] = np.uint8(e >> np.uint32(24))
                if x < np.uint32(RANS_STATE_LOW):
                    word = np.uint32(words[at + at])
                    word |= np.uint32(words[at + at + np.uint64(1)]) << np.uint32(8)
                    x = x << np.uint32(16) | word
                    at += np.uint64(1)
                states[lane] = x
        i += np.uint64(ROW)
        used += at - first
    return np.int64(used)


@kernel
def _encode_table(symbols, frequencies, table, bits):  # type: ignore[no-untyped-def]
    """For each of 256 symbols (frequency, start | flag of a patched symbol)."""
    entries = table.view(np.uint32)
    most = 0
    most_start = np.uint32(0)
    start = np.uint32(0)
    for i in range(symbols.size):
        if frequencies[i] > frequencies[most]:
            most = i
            most_start = start
        start += np.uint32(frequencies[i])
    for s in range(256):
        entries[2 * s] = frequencies[most]
        entries[2 * s + 1] = most_start | np.uint32(1 << 31)
    start = np.uint32(0)
    for i in range(symbols.size):
        entries[2 * symbols[i]] = frequencies[i]
        entries[2 * symbols[i] + 1] = start
        start += np.uint32(frequencies[i])


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _encode_table(symbols, frequencies, table, RANS8_BITS)


@kernel
def encode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _encode_table(symbols, frequencies, table, RANS12_BITS)


@kernel
def encode_rows8(symbols, n_rows, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    entries = table.view(np.uint32)
    at = words.size
    start_mask = np.uint32((1 << 31) - 1)
    for row in range(n_rows - 1, -1, -1):
        flag = np.uint32(0)
        for lane in range(LANES - 1, -1, -1):
            x = states[lane]
            a = 2 * np.int64(symbols[row * ROW + 2 * lane])
            b = 2 * np.int64(symbols[row * ROW + 2 * lane + 1])
            flag |= entries[a + 1] | entries[b + 1]
            if x >> np.uint32(16) >= entries[a] * entries[b]:
                at -= 1
                words[at] = np.uint16(x)
                x >>= np.uint32(16)
            q = x // entries[b]
            x = (q << np.uint32(8)) + (x - q * entries[b]) + (entries[b + 1] & start_mask)
            q = x // entries[a]
            x = (q << np.uint32(8)) + (x - q * entries[a]) + (entries[a + 1] & start_mask)
            states[lane] = x
        row_flags[row] = np.uint8(flag >> np.uint32(31))
    return words.size - at


@kernel
def encode_rows12(symbols, n_rows, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    entries = table.view(np.uint32)
    at = words.size
    start_mask = np.uint32((1 << 31) - 1)
    for row in range(n_rows - 1, -1, -1):
        flag = np.uint32(0)
        for j in range(1, -1, -1):
            for lane in range(LANES - 1, -1, -1):
                x = states[lane]
                e = 2 * np.int64(symbols[row * ROW + 2 * lane + j])
                flag |= entries[e + 1]
                if x >> np.uint32(20) >= entries[e]:
                    at -= 1
                    words[at] = np.uint16(x)
                    x >>= np.uint32(16)
                q = x // entries[e]
                x = (q << np.uint32(12)) + (x - q * entries[e]) + (entries[e + 1] & start_mask)
                states[lane] = x
        row_flags[row] = np.uint8(flag >> np.uint32(31))
    return words.size - at
