# SPDX-License-Identifier: Apache-2.0
"""The frequencies of a stream as bytes."""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .lz_ops import get8, get32, highest_bit, put8, put32
from .spec import BAD_SIZE, BAD_TABLE, OK, RANS12_BITS

SCALE = 1 << RANS12_BITS
U = np.uint64


@kernel
def write_table(frequencies, first, last, at):  # type: ignore[no-untyped-def]
    """Write the frequencies (u32 by symbol) of `first` ... `last` to `at`; where the table ends."""
    put8(at, first)
    put8(at + U(1), last)
    at += U(2)
    n = last - first + U(1)
    for i in range(U(0), n, U(2)):
        pair = U(0)
        for j in range(U(2)):
            f = get32(frequencies + ((first + i + j) << U(2)))
            if i + j < n and f != U(0):
                pair |= (highest_bit(f) + U(1)) << (U(4) * j)
        put8(at, pair)
        at += U(1)
    held, n_held = U(0), U(0)
    for s in range(first, last + U(1)):
        f = get32(frequencies + (s << U(2)))
        if f != U(0):
            width = highest_bit(f)
            held |= (f ^ (U(1) << width)) << n_held
            n_held += width
            while n_held >= U(8):
                put8(at, held)
                at += U(1)
                held >>= U(8)
                n_held -= U(8)
    if n_held != U(0):
        put8(at, held)
        at += U(1)
    return at


@kernel
def read_table(at, end, frequencies):  # type: ignore[no-untyped-def]
    """Read a table from `at`, nothing from `end` on; (status, its end, first, last symbol)."""
    if end - at < U(2):
        return OK + BAD_SIZE, at, U(0), U(0)
    first, last = get8(at), get8(at + U(1))
    widths = at + U(2)
    if last <= first:
        return OK + BAD_TABLE, at, U(0), U(0)
    n = last - first + U(1)
    n_widths = (n + U(1)) >> U(1)
    if end - widths < n_widths:
        return OK + BAD_SIZE, at, U(0), U(0)
    at = widths + n_widths
    if get8(widths) & U(15) == U(0) or get8(at - U(1)) >> (U(4) - U(4) * (n & U(1))) == U(0):
        return OK + BAD_TABLE, at, U(0), U(0)  # the first or the last frequency is 0
    if n & U(1) == U(1) and get8(at - U(1)) > U(15):
        return OK + BAD_TABLE, at, U(0), U(0)
    held, n_held = U(0), U(0)
    total = U(0)
    for i in range(n):
        width = (get8(widths + (i >> U(1))) >> (U(4) * (i & U(1)))) & U(15)
        f = U(0)
        if width != U(0):
            width -= U(1)
            while n_held < width:
                if at >= end:
                    return OK + BAD_SIZE, at, U(0), U(0)
                held |= get8(at) << n_held
                at += U(1)
                n_held += U(8)
            f = (U(1) << width) | (held & ((U(1) << width) - U(1)))
            held >>= width
            n_held -= width
            total += f
        put32(frequencies + ((first + i) << U(2)), f)
    if total != U(SCALE) or held != U(0):
        return OK + BAD_TABLE, at, U(0), U(0)
    return OK, at, first, last
