# SPDX-License-Identifier: Apache-2.0
"""The sparse transform: which words of a block are zero, and the others packed together.

A word is zero if all its bits are (-0.0 is not). The mask has a bit for each word, and is coded as
a plane of its own with four bits a symbol: that costs a quarter of the time of single bits,
and an order-0 coder then finds 2:4 sparsity by itself. The block's other planes hold
only the words that are not zero, so that a zero costs nothing but its bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from llvmlite import ir

from . import simd
from .bits import popcount
from .jit import kernel
from .spec import BAD_PADDING, OK, ROW
from .vector import I64, constant, load, loop, store, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

# For spec.py.
MASK_BITS = 4  # of a symbol of the mask plane
# An encoder's choice: a block is sparse if in its sample one word in 2^SPARSE_LOG is zero.
SPARSE_LOG = 5
SPARSE_STRIDE = 16  # the sample is every 16th row

MASK_ROW = ROW // MASK_BITS  # symbols of the mask for a row of words
VECTOR_BYTES = 64


def _mask_symbols(builder: Any, mask: Any, address: Any) -> None:
    """Store the 64 bits of `mask` as 16 symbols."""
    wide = vector(8, 16)
    x = builder.zext(builder.bitcast(mask, vector(8, 8)), wide)
    x = builder.or_(x, builder.shl(x, constant(wide, MASK_BITS)))
    store(builder, builder.and_(x, constant(wide, 0x0F0F)), address)


def _mask_bits(builder: Any, address: Any) -> Any:
    """Load 16 symbols as 64 bits."""
    wide = vector(8, 16)
    x = load(builder, address, wide)
    x = builder.or_(x, builder.lshr(x, constant(wide, 8 - MASK_BITS)))
    return builder.bitcast(builder.trunc(x, vector(8, 8)), I64)


def _row_kernel(word_bytes: int, *, expand: bool) -> Any:
    """An intrinsic over rows of 64 words: `(words, n_rows, mask, packed)`, addresses.

    Returns how many words are not zero. `packed` needs room for 64 words more than that.
    """
    lanes = VECTOR_BYTES // word_bytes
    word, kind = ir.IntType(8 * word_bytes), vector(lanes, 8 * word_bytes)
    flags, few = vector(lanes, 1), ir.IntType(lanes)
    suffix = f"v{lanes}i{8 * word_bytes}"

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(
        typing_context: Any,  # noqa: ARG001 - Numba passes it
        words: Any,
        n_rows: Any,
        mask: Any,
        packed: Any,
    ) -> Any:
        signature = types.uint64(words, n_rows, mask, packed)

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            words_at, count, mask_at, packed_at = arguments

            def call(name: str, values: list[Any]) -> Any:
                signature = ir.FunctionType(kind, [value.type for value in values])
                name = f"llvm.{name}.{suffix}"
                function = cgutils.get_or_insert_function(builder.module, signature, name)
                return builder.call(function, values)

            def one_row(i: Any, state: Any) -> list[Any]:
                [at] = state
                symbols_at = builder.add(mask_at, builder.mul(i, constant(I64, MASK_ROW)))
                row_at = builder.add(words_at, builder.mul(i, constant(I64, ROW * word_bytes)))
                bits = _mask_bits(builder, symbols_at) if expand else constant(I64, 0)
                for v in range(word_bytes):
                    where = builder.add(row_at, constant(I64, VECTOR_BYTES * v))
                    below = constant(I64, lanes * v)
                    if expand:
                        chosen = builder.trunc(builder.lshr(bits, below), few)
                        source = builder.inttoptr(at, ir.PointerType())
                        values = [source, builder.bitcast(chosen, flags), constant(kind, 0)]
                        store(builder, call("masked.expandload", values), where)
                    else:
                        x = load(builder, where, kind)
                        set_lanes = builder.icmp_unsigned("!=", x, constant(kind, 0))
                        values = [x, set_lanes, constant(kind, 0)]
                        store(builder, call("experimental.vector.compress", values), at)
                        chosen = builder.bitcast(set_lanes, few)
                        bits = builder.or_(bits, builder.shl(builder.zext(chosen, I64), below))
                    n_set = builder.zext(builder.ctpop(chosen), I64)
                    at = builder.add(at, builder.mul(n_set, constant(I64, word_bytes)))
                if not expand:
                    _store_mask(builder, bits, symbols_at)
                return [at]

            def one_symbol(i: Any, state: Any) -> list[Any]:
                [at] = state
                symbol_at = builder.add(mask_at, i)
                first = builder.mul(i, constant(I64, MASK_BITS * word_bytes))
                bits = builder.zext(load(builder, symbol_at, I8), I64) if expand else None
                bits = constant(I64, 0)
                if expand:
                    bits = builder.zext(load(builder, symbol_at, I8), I64)
                for b in range(MASK_BITS):
                    offset = builder.add(first, constant(I64, word_bytes * b))
                    where = builder.add(words_at, offset)
                    if expand:
                        is_set = builder.and_(builder.lshr(bits, constant(I64, b)), one)
                        factor = builder.trunc(is_set, word) if word_bytes < 8 else is_set
                        store(builder, builder.mul(load(builder, at, word), factor), where)
                    else:
                        x = load(builder, where, word)
                        store(builder, x, at)
                        is_set = builder.zext(
                            builder.icmp_unsigned("!=", x, constant(word, 0)), I64
                        )
                        bits = builder.or_(bits, builder.shl(is_set, constant(I64, b)))
                    at = builder.add(at, builder.mul(is_set, constant(I64, word_bytes)))
                if not expand:
                    store(builder, builder.trunc(bits, I8), symbol_at)
                return [at]

            if COMPRESS:
                [end] = loop(builder, count, [packed_at], one_row)
            else:
                n_symbols = builder.mul(count, constant(I64, MASK_ROW))
                [end] = loop(builder, n_symbols, [packed_at], one_symbol)
            return builder.udiv(builder.sub(end, packed_at), constant(I64, word_bytes))

        return signature, generate

    return rows


_pack_1, _pack_2, _pack_4, _pack_8 = (_row_kernel(b, expand=False) for b in (1, 2, 4, 8))
_expand_1, _expand_2, _expand_4, _expand_8 = (_row_kernel(b, expand=True) for b in (1, 2, 4, 8))


@kernel
def _pack_rows(words, n_rows, mask, packed, word_bytes):  # type: ignore[no-untyped-def]
    if word_bytes == 1:
        return _pack_1(words, n_rows, mask, packed)
    if word_bytes == 2:
        return _pack_2(words, n_rows, mask, packed)
    if word_bytes == 4:
        return _pack_4(words, n_rows, mask, packed)
    return _pack_8(words, n_rows, mask, packed)


@kernel
def _expand_rows(words, n_rows, mask, packed, word_bytes):  # type: ignore[no-untyped-def]
    if word_bytes == 1:
        return _expand_1(words, n_rows, mask, packed)
    if word_bytes == 2:
        return _expand_2(words, n_rows, mask, packed)
    if word_bytes == 4:
        return _expand_4(words, n_rows, mask, packed)
    return _expand_8(words, n_rows, mask, packed)


@kernel
def mask_symbols(n: int) -> int:
    """Symbols of the mask plane of `n` words."""
    return (n + MASK_BITS - 1) // MASK_BITS


@kernel
def promising(raw: NDArray[np.uint8], word_bytes: int) -> bool:
    """Whether the sample of a block (uint8, contiguous) has zeros enough to try `pack`."""
    n_words = raw.size // word_bytes
    n_counted = n_zeros = 0
    for row in range(0, n_words, SPARSE_STRIDE * ROW):
        for i in range(row, min(row + ROW, n_words)):
            bits = np.uint8(0)
            for b in range(i * word_bytes, (i + 1) * word_bytes):
                bits |= raw[b]
            n_zeros += np.int64(bits == 0)
            n_counted += 1
    return n_zeros << SPARSE_LOG >= n_counted


@kernel
def pack(raw, word_bytes, mask, packed):  # type: ignore[no-untyped-def]
    """Put the words of `raw` (uint8, contiguous) that are not zero into `packed`; their number.

    `mask` (uint8, room for a multiple of 16) gets the mask plane's symbols; `packed` (uint8)
    has room for 64 words more than `raw`.
    """
    row_bytes = ROW * word_bytes
    n_rows = raw.size // row_bytes
    source, target = np.uint64(raw.ctypes.data), np.uint64(packed.ctypes.data)
    symbols = np.uint64(mask.ctypes.data)
    count = _pack_rows(source, np.uint64(n_rows), symbols, target, word_bytes)
    rest = raw.size - n_rows * row_bytes
    if rest > 0:
        last = np.zeros(row_bytes, np.uint8)
        for i in range(rest):
            last[i] = raw[n_rows * row_bytes + i]
        source = np.uint64(last.ctypes.data)
        symbols += np.uint64(n_rows * MASK_ROW)
        target += count * np.uint64(word_bytes)
        count += _pack_rows(source, np.uint64(1), symbols, target, word_bytes)
    return np.int64(count)


@kernel
def n_nonzero(mask, n):  # type: ignore[no-untyped-def]
    """Words that the mask plane of `n` words names, or -1 if it has bits beyond them.

    `mask` (uint8, symbols below 16) has room for a multiple of 16, and is cleared up to there.
    """
    n_symbols = mask_symbols(n)
    for i in range(n_symbols, (n_symbols + MASK_ROW - 1) // MASK_ROW * MASK_ROW):
        mask[i] = 0
    used = n % MASK_BITS
    if used > 0 and mask[n_symbols - 1] >> used != 0:
        return -1
    count = 0
    for i in range(n_symbols):
        count += (BITS_OF_SYMBOL >> (MASK_BITS * np.int64(mask[i]))) & (2 * MASK_BITS - 1)
    return count


@kernel
def expand(mask, packed, word_bytes, raw):  # type: ignore[no-untyped-def]
    """Inverse of `pack`, after `n_nonzero`; fills `raw` (uint8, contiguous).

    `packed` must be readable for one word more than the mask names.
    """
    row_bytes = ROW * word_bytes
    n_rows = raw.size // row_bytes
    target, source = np.uint64(raw.ctypes.data), np.uint64(packed.ctypes.data)
    symbols = np.uint64(mask.ctypes.data)
    count = _expand_rows(target, np.uint64(n_rows), symbols, source, word_bytes)
    rest = raw.size - n_rows * row_bytes
    if rest > 0:
        last = np.empty(row_bytes, np.uint8)
        symbols += np.uint64(n_rows * MASK_ROW)
        source += count * np.uint64(word_bytes)
        _expand_rows(np.uint64(last.ctypes.data), np.uint64(1), symbols, source, word_bytes)
        for i in range(rest):
            raw[n_rows * row_bytes + i] = last[i]
