# SPDX-License-Identifier: Apache-2.0
"""Words to symbol planes and back: the transforms and bit fields of the format.

All transforms are one expression, so that each word size is compiled once::

    y = (rotl(x, turn) ^ (-(x >> w-1) & flip)) + bias        turn is 0 or 1

``PLAIN`` is turn 0; ``ROTATE`` turn 1; ``ZIGZAG`` turn 1 with ``flip`` all bits but the lowest;
``ROTATE_BIAS`` turn 1 with a bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .arrays import stack_array
from .jit import inlined, kernel
from .spec import BAD_PADDING, FLOAT64_BIAS, MAX_PLANES, OK, PLAIN, ROTATE_BIAS, ROW, ZIGZAG
from .vector import I64, constant, load, loop, splat, store, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECTOR_BYTES = 64

_table = stack_array(types.uint64, MAX_PLANES, 3)
_row = stack_array(types.uint8, 8 * ROW)


def row_kernel(word_bytes: int, n_planes: int, *, merge: bool) -> Any:
    """An intrinsic over full rows of 64 words: `(words, n_rows, transform, table)`.

    `words` is an address; `table` the address of u64 pairs (plane address, shift); planes are
    masked by `table`'s third column when splitting.
    """
    lanes = VECTOR_BYTES // word_bytes
    wide, narrow = vector(lanes, 8 * word_bytes), vector(lanes, 8)
    top = constant(wide, 8 * word_bytes - 1)
    one, zero = constant(wide, 1), constant(wide, 0)

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(
        typing_context: Any,  # noqa: ARG001 - Numba passes it
        words: Any,
        n_rows: Any,
        transform: Any,
        table: Any,
    ) -> Any:
        signature = types.void(words, n_rows, transform, table)

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            address, count, kind, columns = arguments
            scalar = _table_rows(builder, columns, n_planes)
            plain = builder.icmp_unsigned("==", kind, constant(kind.type, PLAIN))
            zigzag = builder.icmp_unsigned("==", kind, constant(kind.type, ZIGZAG))
            biased = builder.icmp_unsigned("==", kind, constant(kind.type, ROTATE_BIAS))

            def choose(condition: Any, yes: int, no: int) -> Any:
                value = builder.select(condition, constant(I64, yes), constant(I64, no))
                return splat(builder, value, wide)

            turn = choose(plain, 0, 1)
            back = choose(plain, 0, 8 * word_bytes - 1)
            flip = choose(zigzag, (1 << 64) - 1 - (not merge), 0)
            bias = choose(biased, FLOAT64_BIAS, 0) if word_bytes == 8 else zero
            shifts = [splat(builder, shift, wide) for _, shift, _ in scalar]
            masks = [splat(builder, mask, wide) for _, _, mask in scalar]
            if merge:
                flip = builder.lshr(flip, one)

            def split_vector(i: Any, _state: Any) -> list[Any]:
                x = load(builder, builder.add(address, builder.shl(i, constant(I64, 6))), wide)
                y = builder.or_(builder.shl(x, turn), builder.lshr(x, back))
                y = builder.add(builder.xor(y, builder.and_(builder.ashr(x, top), flip)), bias)
                offset = builder.mul(i, constant(I64, lanes))
                for (plane, _, _), shift, mask in zip(scalar, shifts, masks, strict=True):
                    symbol = builder.and_(builder.lshr(y, shift), mask)
                    store(builder, builder.trunc(symbol, narrow), builder.add(plane, offset))
                return []

            def merge_vector(i: Any, _state: Any) -> list[Any]:
                y = zero
                offset = builder.mul(i, constant(I64, lanes))
                for (plane, _, _), shift in zip(scalar, shifts, strict=True):
                    symbol = load(builder, builder.add(plane, offset), narrow)
                    symbol = symbol if word_bytes == 1 else builder.zext(symbol, wide)
                    y = builder.or_(y, builder.shl(symbol, shift))
                y = builder.sub(y, bias)
                x = builder.or_(builder.lshr(y, turn), builder.shl(y, back))
                sign = builder.sub(zero, builder.and_(y, one))
                x = builder.xor(x, builder.and_(sign, flip))
                store(builder, x, builder.add(address, builder.shl(i, constant(I64, 6))))
                return []

            vectors = builder.mul(count, constant(I64, word_bytes))
            loop(builder, vectors, [], merge_vector if merge else split_vector)

        return signature, generate

    return rows


def _table_rows(builder: Any, columns: Any, n_planes: int) -> list[tuple[Any, Any, Any]]:
    """The rows (plane address, shift, mask) of the table at address `columns`."""

    def at(i: int) -> Any:
        return load(builder, builder.add(columns, constant(I64, 8 * i)), I64)

    return [(at(3 * p), at(3 * p + 1), at(3 * p + 2)) for p in range(n_planes)]


_split_1x1, _merge_1x1 = row_kernel(1, 1, merge=False), row_kernel(1, 1, merge=True)
_split_2x2, _merge_2x2 = row_kernel(2, 2, merge=False), row_kernel(2, 2, merge=True)
_split_4x4, _merge_4x4 = row_kernel(4, 4, merge=False), row_kernel(4, 4, merge=True)
_split_8x8, _merge_8x8 = row_kernel(8, 8, merge=False), row_kernel(8, 8, merge=True)
_split_8x9, _merge_8x9 = row_kernel(8, 9, merge=False), row_kernel(8, 9, merge=True)


@kernel
def split_rows(address, n_rows, word_bytes, transform, n_planes, table):  # type: ignore[no-untyped-def]
    """Cut rows of 64 words into planes; `table` is the address of (address, shift, mask) of each."""
    kind = np.uint64(transform)
    if word_bytes == 1:
        _split_1x1(address, n_rows, kind, table)
    elif word_bytes == 2:
        _split_2x2(address, n_rows, kind, table)
    elif word_bytes == 4:
        _split_4x4(address, n_rows, kind, table)
    elif n_planes == 8:
        _split_8x8(address, n_rows, kind, table)
    else:
        _split_8x9(address, n_rows, kind, table)


@kernel
def merge_rows(address, n_rows, word_bytes, transform, n_planes, table):  # type: ignore[no-untyped-def]
    """Inverse of `split_rows`; the masks are not looked at."""
    kind = np.uint64(transform)
    if word_bytes == 1:
        _merge_1x1(address, n_rows, kind, table)
    elif word_bytes == 2:
        _merge_2x2(address, n_rows, kind, table)
    elif word_bytes == 4:
        _merge_4x4(address, n_rows, kind, table)
    elif n_planes == 8:
        _merge_8x8(address, n_rows, kind, table)
    else:
        _merge_8x9(address, n_rows, kind, table)


def splitter(rows: Any) -> Any:
    """`split` over a choice of row kernels."""

    @inlined
    def split(raw, word_bytes, transform, bits, planes):  # type: ignore[no-untyped-def]
        """Cut the words of `raw` (uint8, contiguous) into `planes` (uint8[n_planes, n + 64]).

        `bits` (uint8[n_planes]) are the widths from the top of the transformed word down.
        """
        n_planes = bits.size
        row_bytes = ROW * word_bytes
        n_rows = raw.size // row_bytes
        table = _table()
        below = np.uint64(8 * word_bytes)
        for p in range(n_planes):
            width = np.uint64(bits[p])
            below -= width
            table[p, 0] = planes[p].ctypes.data
            table[p, 1] = below
            table[p, 2] = (np.uint64(1) << width) - np.uint64(1)
        where = np.uint64(table.ctypes.data)
        source = np.uint64(raw.ctypes.data)
        rows(source, np.uint64(n_rows), word_bytes, transform, n_planes, where)
        rest = raw.size - n_rows * row_bytes
        if rest > 0:
            last = _row()
            for i in range(row_bytes):
                last[i] = raw[n_rows * row_bytes + i] if i < rest else 0
            for p in range(n_planes):
                table[p, 0] += np.uint64(n_rows * ROW)
            address = np.uint64(last.ctypes.data)
            rows(address, np.uint64(1), word_bytes, transform, n_planes, where)

    return split


def merger(rows: Any) -> Any:
    """`merge` over a choice of row kernels."""

    @inlined
    def merge(table, word_bytes, transform, bits, raw):  # type: ignore[no-untyped-def]
        """Put the planes at the addresses `table[:, 0]` (uint64[n_planes, 3]) together into `raw`.

        A plane must be readable up to a multiple of 64 symbols.
        """
        n_planes = bits.size
        row_bytes = ROW * word_bytes
        n_rows = raw.size // row_bytes
        below = np.uint64(8 * word_bytes)
        for p in range(n_planes):
            below -= np.uint64(bits[p])
            table[p, 1] = below
        where = np.uint64(table.ctypes.data)
        target = np.uint64(raw.ctypes.data)
        rows(target, np.uint64(n_rows), word_bytes, transform, n_planes, where)
        rest = raw.size - n_rows * row_bytes
        if rest > 0:
            last = _row()
            for p in range(n_planes):
                table[p, 0] += np.uint64(n_rows * ROW)
            address = np.uint64(last.ctypes.data)
            rows(address, np.uint64(1), word_bytes, transform, n_planes, where)
            for i in range(rest):
                raw[n_rows * row_bytes + i] = last[i]

    return merge


split, merge = splitter(split_rows), merger(merge_rows)


def _bit_rows(*, unpack: bool) -> Any:
    """An intrinsic over rows of 64 symbols: `(symbols, n_rows, bits, payload)`, addresses."""
    row, mask = vector(ROW, 8), vector(ROW, 1)
    zero = constant(row, 0)

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(
        typing_context: Any,  # noqa: ARG001 - Numba passes it
        symbols: Any,
        n_rows: Any,
        bits: Any,
        payload: Any,
    ) -> Any:
        signature = types.void(symbols, n_rows, bits, payload)

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            source, count, width, target = arguments

            def one_row(i: Any, _state: Any) -> list[Any]:
                symbols_at = builder.add(source, builder.mul(i, constant(I64, ROW)))
                words = builder.add(target, builder.mul(builder.mul(i, width), constant(I64, 8)))
                x = zero if unpack else load(builder, symbols_at, row)

                def one_bit(j: Any, state: Any) -> list[Any]:
                    bit = splat(builder, builder.shl(constant(I64, 1), j), row)
                    word_at = builder.add(words, builder.mul(j, constant(I64, 8)))
                    if unpack:
                        chosen = builder.bitcast(load(builder, word_at, I64), mask)
                        return [builder.or_(state[0], builder.select(chosen, bit, zero))]
                    chosen = builder.icmp_unsigned("!=", builder.and_(x, bit), zero)
                    store(builder, builder.bitcast(chosen, I64), word_at)
                    return state  # type: ignore[no-any-return]

                [y] = loop(builder, width, [x], one_bit)
                if unpack:
                    store(builder, y, symbols_at)
                return []

            loop(builder, count, [], one_row)

        return signature, generate

    return rows


_pack_rows, _unpack_rows = _bit_rows(unpack=False), _bit_rows(unpack=True)


@kernel
def raw_plane_bytes(n: int, bits: int) -> int:
    """Bytes of `n` symbols of `bits` bits stored raw."""
    return n if bits == 8 else (n + ROW - 1) // ROW * bits * 8


@kernel
def pack_bits(symbols: NDArray[np.uint8], n: int, bits: int, out: NDArray[np.uint8]) -> int:
    """Write `n` symbols of `bits` < 8 bits as bit rows into `out`; bytes written.

    `symbols` must have room up to a multiple of 64; what stands there beyond `n` is cleared.
    """
    n_rows = (n + ROW - 1) // ROW
    n_bytes = raw_plane_bytes(n, bits)
    for i in range(n, n_rows * ROW):
        symbols[i] = 0
    assert out.size >= n_bytes
    source, target = np.uint64(symbols.ctypes.data), np.uint64(out.ctypes.data)
    _pack_rows(source, np.uint64(n_rows), np.uint64(bits), target)
    return n_bytes


@kernel
def unpack_bits(payload: NDArray[np.uint8], n: int, bits: int, out: NDArray[np.uint8]) -> int:
    """Inverse of `pack_bits`; `out` has room up to a multiple of 64. OK or BAD_PADDING."""
    n_rows = (n + ROW - 1) // ROW
    assert payload.size >= raw_plane_bytes(n, bits)
    source = np.uint64(payload.ctypes.data)
    _unpack_rows(np.uint64(out.ctypes.data), np.uint64(n_rows), np.uint64(bits), source)
    for i in range(n, n_rows * ROW):
        if out[i] != 0:
            return BAD_PADDING
    return OK
