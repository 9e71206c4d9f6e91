# SPDX-License-Identifier: Apache-2.0
"""The sparse transform: which words of a block are zero, and the others packed together.

The **mask** has a bit for each word and is coded as a plane of its own, four bits a symbol: that
takes a quarter of the time of single bits, and an order-0 coder then finds 2:4 sparsity by
itself. The block's other planes hold only the words that are not zero, so that a zero costs
nothing but its bit.

A float is zero if its magnitude is. Multiplying with a mask of ones and zeros leaves -0.0 where weights
were negative, so the signs of the zeros are another plane, of one bit each: constant
where all zeros are positive.

The encoder's choice
--------------------
An array is looked at if it has at least `SPARSE_MIN_WORDS` words, of a type of more than one plane, and
if of every `ceil(m / SPARSE_PROBE_ROWS)`-th of its `m` full rows of 64 words, from the first, at
least `2^-SPARSE_PROBE_LOG` are zero. Then the zeros of every
`SPARSE_STRIDE`th full row of a block are counted. The block is tried if there are such rows and at
least `2^-SPARSE_LOG` of their words are zero. It is packed if that makes it smaller, entries not
counted, or, untried, if it is of floats and `2^-SPARSE_SURE_LOG` of its words are zero. The frame is
sparse if any block is packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import simd
from .arrays import stack_array
from .jit import inlined, kernel
from .spec import MASK_BITS, ROTATE, ROTATE_BIAS, ROW, SPARSE_LOG, SPARSE_STRIDE
from .vector import I64, constant, load, loop, splat, store, vector

MASK_ROW = ROW // MASK_BITS  # symbols of the mask for a row of words
VECTOR_BYTES = 64
ONES = 0x4332322132212110  # of the symbol s, at bit 4 s
ONE, NONE = np.uint64(1), np.uint64(0)
I8 = ir.IntType(8)
PAIRS = vector(8, 16)  # 16 symbols seen as 8 pairs

_row = stack_array(types.uint8, 8 * ROW)


def _vector_row(
    builder: Any,
    word_bytes: int,
    addresses: tuple[Any, Any, Any],
    dropped: Any,
    magnitude: Any,
    *,
    expand: bool,
) -> tuple[Any, Any]:
    """64 words with compressing and expanding vector moves.

    `addresses` are those of the words, the mask and the packed words; the last, moved on, and
    `dropped` with the bits of all zeros are returned.
    """
    row_at, symbols_at, packed_at = addresses
    lanes = VECTOR_BYTES // word_bytes
    kind, few = vector(lanes, 8 * word_bytes), ir.IntType(lanes)
    zero = constant(kind, 0)
    magnitude = splat(builder, magnitude, kind)
    dropped_lanes = zero

    def call(name: str, values: list[Any]) -> Any:
        signature = ir.FunctionType(kind, [value.type for value in values])
        name = f"llvm.{name}.v{lanes}i{8 * word_bytes}"
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        return builder.call(function, values)

    bits = constant(I64, 0)
    if expand:
        pairs = load(builder, symbols_at, PAIRS)
        pairs = builder.or_(pairs, builder.lshr(pairs, constant(PAIRS, 8 - MASK_BITS)))
        bits = builder.bitcast(builder.trunc(pairs, vector(8, 8)), I64)
    for v in range(word_bytes):
        where = builder.add(row_at, constant(I64, VECTOR_BYTES * v))
        below = constant(I64, lanes * v)
        if expand:
            chosen = _resize(builder, builder.lshr(bits, below), few)
            flags = builder.bitcast(chosen, vector(lanes, 1))
            source = builder.inttoptr(packed_at, ir.PointerType())
            store(builder, call("masked.expandload", [source, flags, zero]), where)
        else:
            x = load(builder, where, kind)
            flags = builder.icmp_unsigned("!=", builder.and_(x, magnitude), zero)
            dropped_lanes = builder.or_(dropped_lanes, builder.select(flags, zero, x))
            packed = call("experimental.vector.compress", [x, flags, zero])
            store(builder, packed, packed_at)
            chosen = builder.bitcast(flags, few)
            bits = builder.or_(bits, builder.shl(_resize(builder, chosen, I64), below))
        n_set = _resize(builder, builder.ctpop(chosen), I64)
        packed_at = builder.add(packed_at, builder.mul(n_set, constant(I64, word_bytes)))
    if not expand:
        pairs = builder.zext(builder.bitcast(bits, vector(8, 8)), PAIRS)
        pairs = builder.or_(pairs, builder.shl(pairs, constant(PAIRS, 8 - MASK_BITS)))
        store(builder, builder.and_(pairs, constant(PAIRS, 0x0F0F)), symbols_at)
        any_dropped = builder.icmp_unsigned("!=", dropped_lanes, zero)
        any_dropped = _resize(builder, builder.bitcast(any_dropped, few), I64)
        dropped = builder.or_(dropped, any_dropped)
    return packed_at, dropped


def _plain_row(
    builder: Any,
    word_bytes: int,
    addresses: tuple[Any, Any, Any],
    dropped: Any,
    magnitude: Any,
    *,
    expand: bool,
) -> tuple[Any, Any]:
    """The same word by word, without branches."""
    row_at, symbols_at, packed_at = addresses
    word = ir.IntType(8 * word_bytes)
    zero = constant(word, 0)
    magnitude = _resize(builder, magnitude, word)

    def one_symbol(i: Any, state: Any) -> list[Any]:
        at, dropped = state
        symbol_at = builder.add(symbols_at, i)
        first = builder.add(row_at, builder.mul(i, constant(I64, MASK_BITS * word_bytes)))
        bits = constant(I64, 0)
        if expand:
            bits = builder.zext(load(builder, symbol_at, I8), I64)
        for b in range(MASK_BITS):
            where = builder.add(first, constant(I64, word_bytes * b))
            x = load(builder, at if expand else where, word)
            if expand:
                is_set = builder.and_(builder.lshr(bits, constant(I64, b)), constant(I64, 1))
                store(builder, builder.mul(x, _resize(builder, is_set, word)), where)
            else:
                store(builder, x, at)
                flag = builder.icmp_unsigned("!=", builder.and_(x, magnitude), zero)
                left = _resize(builder, builder.select(flag, zero, x), I64)
                dropped = builder.or_(dropped, left)
                is_set = builder.zext(flag, I64)
                bits = builder.or_(bits, builder.shl(is_set, constant(I64, b)))
            at = builder.add(at, builder.mul(is_set, constant(I64, word_bytes)))
        if not expand:
            store(builder, builder.trunc(bits, I8), symbol_at)
        return [at, dropped]

    packed_at, dropped = loop(builder, constant(I64, MASK_ROW), [packed_at, dropped], one_symbol)
    return packed_at, dropped


def _resize(builder: Any, value: Any, kind: Any) -> Any:
    """A scalar, truncated or extended with zeros to `kind`."""
    if value.type.width == kind.width:
        return value
    return (builder.zext if value.type.width < kind.width else builder.trunc)(value, kind)


def _row_kernel(word_bytes: int, *, expand: bool) -> Any:
    """An intrinsic over rows of 64 words: `(words, n_rows, mask, packed, magnitude)`.

    `magnitude` has the bits that make a word count as one that is not zero, the rest are addresses.
    Returns twice the number of such words, plus 1 if a word that is not among them has
    other bits. `packed` has room for 64 words more than these.
    """
    one_row = _vector_row if simd.LEVEL == "avx512" else _plain_row

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(
        typing_context: Any,  # noqa: ARG001 - Numba passes it
        words: Any,
        n_rows: Any,
        mask: Any,
        packed: Any,
        magnitude: Any,
    ) -> Any:
        signature = types.uint64(words, n_rows, mask, packed, magnitude)

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            words_at, count, mask_at, packed_at, magnitude = arguments

            def body(i: Any, state: Any) -> list[Any]:
                at, dropped = state
                row_at = builder.add(words_at, builder.mul(i, constant(I64, ROW * word_bytes)))
                symbols_at = builder.add(mask_at, builder.mul(i, constant(I64, MASK_ROW)))
                addresses = row_at, symbols_at, at
                return list(
                    one_row(builder, word_bytes, addresses, dropped, magnitude, expand=expand)
                )

            end, dropped = loop(builder, count, [packed_at, constant(I64, 0)], body)
            n_bytes = builder.sub(end, packed_at)
            twice = builder.udiv(builder.shl(n_bytes, constant(I64, 1)), constant(I64, word_bytes))
            some = builder.icmp_unsigned("!=", dropped, constant(I64, 0))
            return builder.or_(twice, builder.zext(some, I64))

        return signature, generate

    return rows


_pack_1, _pack_2, _pack_4, _pack_8 = (_row_kernel(b, expand=False) for b in (1, 2, 4, 8))
_expand_1, _expand_2, _expand_4, _expand_8 = (_row_kernel(b, expand=True) for b in (1, 2, 4, 8))


@kernel
def _pack_rows(words, n_rows, mask, packed, word_bytes, magnitude):  # type: ignore[no-untyped-def]
    if word_bytes == 1:
        return _pack_1(words, n_rows, mask, packed, magnitude)
    if word_bytes == 2:
        return _pack_2(words, n_rows, mask, packed, magnitude)
    if word_bytes == 4:
        return _pack_4(words, n_rows, mask, packed, magnitude)
    return _pack_8(words, n_rows, mask, packed, magnitude)


@kernel
def _expand_rows(words, n_rows, mask, packed, word_bytes):  # type: ignore[no-untyped-def]
    if word_bytes == 1:
        return _expand_1(words, n_rows, mask, packed, NONE) >> ONE
    if word_bytes == 2:
        return _expand_2(words, n_rows, mask, packed, NONE) >> ONE
    if word_bytes == 4:
        return _expand_4(words, n_rows, mask, packed, NONE) >> ONE
    return _expand_8(words, n_rows, mask, packed, NONE) >> ONE


@inlined
def mask_symbols(n: int) -> int:
    """Symbols of the mask plane of `n` words."""
    return (n + MASK_BITS - 1) // MASK_BITS


@inlined
def magnitude_bits(word_bytes, transform):  # type: ignore[no-untyped-def]
    """The bits of a word (uint64) that make it count as one that is not zero."""
    has_sign = transform == ROTATE or transform == ROTATE_BIAS  # noqa: PLR1714
    return (ONE << np.uint64(8 * word_bytes - has_sign)) - ONE if has_sign else ~NONE


@inlined
def promising(raw, word_bytes, magnitude, mask, packed):  # type: ignore[no-untyped-def]
    """Whether the sample of a block has zeros enough for `pack`; same arguments, work space."""
    row_bytes = ROW * word_bytes
    n_rows = raw.size // row_bytes
    source, target = np.uint64(raw.ctypes.data), np.uint64(packed.ctypes.data)
    symbols = np.uint64(mask.ctypes.data)
    n_counted, n_set = 0, NONE
    for row in range(0, n_rows, SPARSE_STRIDE):
        where = source + np.uint64(row * row_bytes)
        n_set += _pack_rows(where, ONE, symbols, target, word_bytes, magnitude) >> ONE
        n_counted += ROW
    return (n_counted - np.int64(n_set)) << SPARSE_LOG >= max(n_counted, 1)


@inlined
def pack(raw, word_bytes, magnitude, mask, packed):  # type: ignore[no-untyped-def]
    """Put the words of `raw` (uint8, contiguous) that are not zero into `packed`.

    Returns (their number, whether a zero has a sign). `mask` (uint8, room for a multiple of 16)
    gets the mask plane's symbols; `packed` (uint8) has room for 64 words more than `raw`.
    """
    row_bytes = ROW * word_bytes
    n_rows = raw.size // row_bytes
    source, target = np.uint64(raw.ctypes.data), np.uint64(packed.ctypes.data)
    symbols = np.uint64(mask.ctypes.data)
    found = _pack_rows(source, np.uint64(n_rows), symbols, target, word_bytes, magnitude)
    count, signs = found >> ONE, found & ONE
    rest = raw.size - n_rows * row_bytes
    if rest > 0:
        last = _row()
        for i in range(row_bytes):
            last[i] = raw[n_rows * row_bytes + i] if i < rest else 0
        source = np.uint64(last.ctypes.data)
        symbols += np.uint64(n_rows * MASK_ROW)
        target += count * np.uint64(word_bytes)
        found = _pack_rows(source, ONE, symbols, target, word_bytes, magnitude)
        count += found >> ONE
        signs |= found & ONE
    return np.int64(count), signs != NONE


@inlined
def read_signs(raw, word_bytes, mask, signs):  # type: ignore[no-untyped-def]
    """After `pack`, the sign bits of the zeros as symbols, in order; their number.

    `signs` (uint8) has room for a symbol of each word.
    """
    n = np.uint64(raw.size // word_bytes)
    at = NONE
    for i in range(n):
        top = raw[(i + ONE) * np.uint64(word_bytes) - ONE]
        signs[at] = top >> np.uint8(7)
        at += ONE - ((np.uint64(mask[i // np.uint64(4)]) >> (i & np.uint64(3))) & ONE)
    return np.int64(at)


@inlined
def write_signs(mask, signs, word_bytes, raw):  # type: ignore[no-untyped-def]
    """After `expand`, give the zeros of `raw` their signs."""
    n = np.uint64(raw.size // word_bytes)
    at = NONE
    for i in range(n):
        is_zero = ONE - ((np.uint64(mask[i // np.uint64(4)]) >> (i & np.uint64(3))) & ONE)
        raw[(i + ONE) * np.uint64(word_bytes) - ONE] |= np.uint8(
            (np.uint64(signs[at]) & is_zero) << np.uint64(7)
        )
        at += is_zero


@inlined
def n_nonzero(mask, n):  # type: ignore[no-untyped-def]
    """Words that the mask plane of `n` words names, or -1 if it has bits beyond them.

    `mask` (uint8, symbols of 4 bits) has room for a multiple of 16, and is cleared up to there.
    """
    n_symbols = mask_symbols(n)
    for i in range(n_symbols, (n_symbols + MASK_ROW - 1) // MASK_ROW * MASK_ROW):
        mask[i] = 0
    used = n % MASK_BITS
    if used > 0 and mask[n_symbols - 1] >> used != 0:
        return -1
    count = np.int64(0)
    for i in range(n_symbols):
        count += (ONES >> np.int64(MASK_BITS * mask[i])) & (2 * MASK_BITS - 1)
    return count


@inlined
def expand(mask, packed, word_bytes, raw):  # type: ignore[no-untyped-def]
    """Inverse of `pack`, after `n_nonzero`: fills `raw` (uint8, contiguous).

    `packed` must be readable for one word more than the mask names.
    """
    row_bytes = ROW * word_bytes
    n_rows = raw.size // row_bytes
    target, source = np.uint64(raw.ctypes.data), np.uint64(packed.ctypes.data)
    symbols = np.uint64(mask.ctypes.data)
    count = _expand_rows(target, np.uint64(n_rows), symbols, source, word_bytes)
    rest = raw.size - n_rows * row_bytes
    if rest > 0:
        last = _row()
        symbols += np.uint64(n_rows * MASK_ROW)
        source += count * np.uint64(word_bytes)
        _expand_rows(np.uint64(last.ctypes.data), ONE, symbols, source, word_bytes)
        for i in range(rest):
            raw[n_rows * row_bytes + i] = last[i]
