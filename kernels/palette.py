# SPDX-License-Identifier: Apache-2.0
"""The palette coder: consecutive symbols in 0 to 4 bits, all others in a patch list.

The exponents of a tensor crowd together, so that a window of 8 or 16 neighbouring symbols holds
nearly all of them. A symbol is then `base` plus a short code: decoding needs no table and every
symbol is independent of the others, which makes this the fast coder on any machine.

The encoder's choices
---------------------
`c[s]` of `N` counted symbols are `s`. For each number of code bits `k` that is below the plane's
width, the window of `2^k` symbols (modulo the width) with the largest sum of counts is
taken, of equals the one with the lowest base. The size is the rows of codes plus `PATCH_BYTES` for
each symbol outside the window, scaled from the counted symbols to all of them, rounded up. The
smallest wins, of equals the one with the fewest bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .bits import popcount, trailing_zeros
from .jit import inlined
from .spec import (
    BAD_PADDING,
    BAD_PATCH,
    BAD_SIZE,
    BAD_SYMBOL,
    OK,
    PALETTE_MAX_BITS,
    PATCH_BYTES,
    ROW,
)
from .vector import I64, constant, load, loop, read_u16, splat, store, vector, write_u16

WORD_BYTES = 8  # of a bit row


def _rows(*, decode: bool) -> Any:
    """An intrinsic over rows of 64 symbols: `(symbols, n_rows, code_bits, base, mask, codes, out)`.

    All but the numbers are addresses; `mask` is the largest symbol. Encoding writes the codes and
    to `out` a u64 for each row with the bits of symbols outside the window; decoding writes
    symbols only.
    """
    row, flags = vector(ROW, 8), vector(ROW, 1)
    zero = constant(row, 0)

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(
        typing_context: Any,  # noqa: ARG001 - Numba passes it
        symbols: Any,
        n_rows: Any,
        code_bits: Any,
        base: Any,
        mask: Any,
        codes: Any,
        out: Any,
    ) -> Any:
        signature = types.void(symbols, n_rows, code_bits, base, mask, codes, out)

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            symbols_at, count, width, lowest, largest, codes_at, out_at = arguments
            lowest, largest = splat(builder, lowest, row), splat(builder, largest, row)
            span = splat(builder, builder.shl(constant(I64, 1), width), row)
            row_bytes = builder.mul(width, constant(I64, WORD_BYTES))

            def one_row(i: Any, _state: Any) -> list[Any]:
                where = builder.add(symbols_at, builder.mul(i, constant(I64, ROW)))
                words = builder.add(codes_at, builder.mul(i, row_bytes))
                code = zero
                if not decode:
                    x = builder.and_(builder.sub(load(builder, where, row), lowest), largest)
                    inside = builder.icmp_unsigned("<", x, span)
                    code = builder.select(inside, x, zero)
                    outside = builder.bitcast(builder.not_(inside), I64)
                    flags_at = builder.mul(i, constant(I64, WORD_BYTES))
                    store(builder, outside, builder.add(out_at, flags_at))

                def one_bit(j: Any, state: Any) -> list[Any]:
                    bit = splat(builder, builder.shl(constant(I64, 1), j), row)
                    word_at = builder.add(words, builder.mul(j, constant(I64, WORD_BYTES)))
                    if decode:
                        chosen = builder.bitcast(load(builder, word_at, I64), flags)
                        return [builder.or_(state[0], builder.select(chosen, bit, zero))]
                    chosen = builder.icmp_unsigned("!=", builder.and_(code, bit), zero)
                    store(builder, builder.bitcast(chosen, I64), word_at)
                    return []

                result = loop(builder, width, [zero] if decode else [], one_bit)
                if decode:
                    y = builder.and_(builder.add(result[0], lowest), largest)
                    store(builder, y, where)
                return []

            loop(builder, count, [], one_row)

        return signature, generate

    return rows


_encode_rows, _decode_rows = _rows(decode=False), _rows(decode=True)


@inlined
def plan(counts, n_counted, n, bits):  # type: ignore[no-untyped-def]
    """The best palette for `n` symbols, judged by `counts` (uint32[256]) of `n_counted` of them.

    Returns (code bits, base, estimated payload bytes).
    """
    whole = np.int64(1) << bits
    n_rows = (n + ROW - 1) // ROW
    best_bits, best_base, best_size = 0, 0, np.int64(1) << 62
    for k in range(min(PALETTE_MAX_BITS + 1, bits)):
        span = np.int64(1) << k
        inside = np.int64(0)
        for s in range(span):
            inside += np.int64(counts[s])
        most, base = inside, 0
        for s in range(whole - 1):
            inside += np.int64(counts[(s + span) & (whole - 1)]) - np.int64(counts[s])
            if inside > most:
                most, base = inside, s + 1
        n_patches = ((n_counted - most) * n + n_counted - 1) // n_counted
        size = WORD_BYTES * k * n_rows + PATCH_BYTES * n_patches + 1
        if size < best_size:
            best_bits, best_base, best_size = k, base, size
    return best_bits, best_base, best_size


@inlined
def encode(symbols, n, bits, code_bits, base, out, flags):  # type: ignore[no-untyped-def]
    """Write the payload of `n` symbols; its bytes, or 0 if they would not be fewer than `out`.

    `symbols` (uint8) has room up to a multiple of 64, and what stands there beyond `n` is
    overwritten; `flags` is uint64[ceil(n / 64)].
    """
    n_rows = (n + ROW - 1) // ROW
    at = WORD_BYTES * code_bits * n_rows
    if at >= out.size:
        return 0
    for i in range(n, n_rows * ROW):
        symbols[i] = base
    target = np.uint64(out.ctypes.data)
    _encode_rows(
        np.uint64(symbols.ctypes.data),
        np.uint64(n_rows),
        np.uint64(code_bits),
        np.uint64(base),
        np.uint64((1 << bits) - 1),
        target,
        np.uint64(flags.ctypes.data),
    )
    n_patches = np.int64(0)
    for row in range(n_rows):
        n_patches += popcount(flags[row])
    size = at + PATCH_BYTES * n_patches + 1
    if size >= out.size or n_patches == n:
        return 0
    patch_symbols = at + 2 * n_patches
    out[size - 1] = base
    for row in range(n_rows):
        rest = flags[row]
        while rest != 0:
            i = np.int64(row) * ROW + trailing_zeros(rest)
            rest &= rest - np.uint64(1)
            write_u16(target + np.uint64(at), i)
            at += 2
            out[patch_symbols] = symbols[i]
            patch_symbols += 1
    return size


@inlined
def decode(payload, n, bits, code_bits, out):  # type: ignore[no-untyped-def]
    """Decode a payload (uint8, of the size that its entry names) of `n` symbols. A status.

    `out` (uint8) has room for `n` rounded up to a multiple of 64. The payload may be hostile.
    """
    n_rows = (n + ROW - 1) // ROW
    positions = WORD_BYTES * code_bits * n_rows
    n_patches = (payload.size - positions - 1) // PATCH_BYTES
    if payload.size <= positions or positions + PATCH_BYTES * n_patches + 1 != payload.size:
        return BAD_SIZE
    base = np.int64(payload[payload.size - 1])
    mask = (np.int64(1) << bits) - 1
    if n_patches >= n:
        return BAD_PATCH
    if base > mask or code_bits >= bits:
        return BAD_SYMBOL
    source = np.uint64(payload.ctypes.data)
    _decode_rows(
        np.uint64(out.ctypes.data),
        np.uint64(n_rows),
        np.uint64(code_bits),
        np.uint64(base),
        np.uint64(mask),
        source,
        np.uint64(0),
    )
    for i in range(n, n_rows * ROW):
        if out[i] != base:
            return BAD_PADDING
    span = np.int64(1) << code_bits
    symbols = positions + 2 * n_patches
    previous = np.int64(-1)
    sound = True
    for i in range(n_patches):
        position = read_u16(source + np.uint64(positions + 2 * i))
        symbol = np.int64(payload[np.uint64(symbols + i)])
        where = min(position, n - 1)  # never outside, whatever the list says
        fits = (position > previous) & (position < n) & (out[where] == base)
        sound &= fits & (symbol <= mask) & (((symbol - base) & mask) >= span)
        out[where] = np.uint8(symbol)
        previous = position
    return OK if sound else BAD_PATCH
