# SPDX-License-Identifier: Apache-2.0
"""The row/column predictor of float matrices: takes the scale of its row and column off a word.

Optimizer state is close to a product of row and column factors, and so are gradients: a sum
of two offsets in log2. The bits of a positive float, read as an integer, are its log2 in fixed
point, linear between powers of two. So the predictor subtracts an offset from exponent and
mantissa together, modulo their width: what is left over is small, and nothing is rounded.

The offset of row `i` and column `j` in 1/64 octaves, `>>` rounding down, is::

    base + 8 (rows[i] + columns[i / tile_rows, j]) + (sum_k row_factors[i, k] column_factors[k, j] >> 1)

Columns may have other offsets in each tile of rows, since heads of attention do. The factors are what a
product of rows and columns leaves: a few patterns that rows share to a different degree.
Magnitude 0 stays 0, so that zeros remain what the sparse transform looks for; the value that
would have become 0 takes the place that 0 left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .arrays import stack_array
from .jit import inlined, kernel
from .spec import FACTOR_LOG, OFFSET_LOG, OFFSET_STEP_LOG, PREDICTED_TYPES, n_offsets
from .vector import I64, constant, load, loop, splat, store, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

LANES = 32
PAD = LANES  # bytes that must be readable behind each array of a model

_last = stack_array(types.uint8, 4 * LANES)


class Model(NamedTuple):
    """Offsets of a matrix of `n_rows` x `n_columns` words."""

    rows: NDArray[np.int8]  # [n_rows + PAD]
    columns: NDArray[np.int8]  # [n_tiles * n_columns + PAD]
    row_factors: NDArray[np.int8]  # [n_rows * rank + PAD], a row's together
    column_factors: NDArray[np.int8]  # [rank, n_columns + PAD]; so columns fall in different sets
    n_columns: int
    tile_rows: int
    rank: int
    base: int  # offset of the middle, less that of an undisturbed word
    shift: int  # mantissa bits - OFFSET_LOG


_NONE = np.zeros(PAD, np.int8)
NO_MODEL = Model(_NONE, _NONE, _NONE, np.zeros((0, PAD), np.int8), 1, 1, 0, 0, 0)
"""In place of a model where there is none."""


def join(model: Model) -> NDArray[np.uint8]:
    """The arrays of a model one after the other, as a frame stores them."""
    flat = model.rows, model.columns, model.row_factors
    parts = [*(array[: array.size - PAD] for array in flat), model.column_factors[:, :-PAD].ravel()]
    return np.concatenate(parts).view(np.uint8)


def split(
    offsets: NDArray[np.uint8],
    name: str,
    n_rows: int,
    n_columns: int,
    tile_rows: int,
    rank: int,
    base: int,
) -> Model:
    """The model of a matrix of the type `name` from what `join` returned."""
    assert offsets.size == n_offsets(n_rows, n_columns, tile_rows, rank)
    n_tiles = -(-n_rows // tile_rows)
    sizes = n_rows, n_tiles * n_columns, rank * n_rows, rank * n_columns
    parts = np.split(offsets.view(np.int8), np.cumsum(sizes)[:-1])
    rows, columns, row_factors = (np.pad(part, (0, PAD)) for part in parts[:3])
    column_factors = np.pad(parts[3].reshape(rank, n_columns), ((0, 0), (0, PAD)))
    shift = PREDICTED_TYPES[name].mantissa_bits - OFFSET_LOG
    return Model(
        rows, columns, row_factors, column_factors, n_columns, tile_rows, rank, base, shift
    )


def _row_kernel(word_bytes: int) -> Any:
    """An intrinsic over vectors of 32 words of one row: `(words, out, n_vectors, row, columns,
    row_factors, column_factors, stride, rank, shift, direction)`.

    `row` is the row's offset with the base; `direction` 1 adds offsets, -1 subtracts them; pointers
    are addresses of the first of the words, or of what belongs to it.
    """
    short, wide, narrow = vector(LANES, 16), vector(LANES, 8 * word_bytes), vector(LANES, 8)
    largest = (1 << (8 * word_bytes - 1)) - 1

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001 - Numba passes it
        words,
        out,
        n_vectors,
        row,
        columns,
        row_factors,
        column_factors,
        stride,
        rank,
        shift,
        direction,
    ):
        signature = types.void(
            *(words, out, n_vectors, row, columns),
            *(row_factors, column_factors, stride, rank, shift, direction),
        )

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            words_at, out_at, count, row, columns_at = arguments[:5]
            a_at, b_at, stride, rank, shift, direction = arguments[5:]
            row, sign = splat(builder, row, short), splat(builder, direction, short)
            shift, zero = splat(builder, shift, wide), constant(wide, 0)
            magnitude = constant(wide, largest)

            def offsets(at: Any) -> Any:
                return builder.sext(load(builder, at, narrow), short)

            def body(i: Any, _state: Any) -> list[Any]:
                j = builder.mul(i, constant(I64, LANES))

                def add_factor(k: Any, state: Any) -> list[Any]:
                    a = builder.sext(load(builder, builder.add(a_at, k), ir.IntType(8)), I64)
                    at = builder.add(builder.add(b_at, builder.mul(k, stride)), j)
                    product = builder.mul(splat(builder, a, short), offsets(at))
                    return [builder.add(state[0], product)]

                [products] = loop(builder, rank, [constant(short, 0)], add_factor)
                column = offsets(builder.add(columns_at, j))
                offset = builder.add(row, builder.shl(column, constant(short, OFFSET_STEP_LOG)))
                products = builder.ashr(products, constant(short, FACTOR_LOG))
                offset = builder.mul(builder.add(offset, products), sign)
                offset = offset if word_bytes == 2 else builder.sext(offset, wide)
                offset = builder.shl(offset, shift)

                at = builder.mul(j, constant(I64, word_bytes))
                x = load(builder, builder.add(words_at, at), wide)
                low = builder.and_(x, magnitude)
                moved = builder.and_(builder.add(low, offset), magnitude)
                stands_in = builder.and_(offset, magnitude)
                is_zero = builder.icmp_unsigned("==", low, zero)
                becomes_zero = builder.icmp_unsigned("==", moved, zero)
                moved = builder.select(becomes_zero, stands_in, moved)
                moved = builder.select(is_zero, zero, moved)
                y = builder.or_(moved, builder.xor(x, low))
                store(builder, y, builder.add(out_at, at))
                return []

            loop(builder, count, [], body)

        return signature, generate

    return rows


_shift_2, _shift_4 = _row_kernel(2), _row_kernel(4)


@kernel
def _shift_rows(  # type: ignore[no-untyped-def]
    words, out, n_vectors, row, columns, row_factors, column_factors, model, direction, word_bytes
):
    stride, rank = np.uint64(model.column_factors.shape[1]), np.uint64(model.rank)
    shift = np.uint64(model.shift)
    count, way = np.uint64(n_vectors), np.uint64(direction)
    offset = np.uint64(row)
    if word_bytes == 2:
        _shift_2(
            words,
            out,
            count,
            offset,
            columns,
            row_factors,
            column_factors,
            stride,
            rank,
            shift,
            way,
        )
    else:
        _shift_4(
            words,
            out,
            count,
            offset,
            columns,
            row_factors,
            column_factors,
            stride,
            rank,
            shift,
            way,
        )


@inlined
def shift_words(raw, word_bytes, first, model, direction, out):  # type: ignore[no-untyped-def]
    """Subtract (`direction` -1, encoding) or add back (1) the offsets of the words `raw`.

    `raw` and `out` (uint8, contiguous, may be the same) hold words `first` ... of the matrix.
    """
    n_words = raw.size // word_bytes
    source, target = np.uint64(raw.ctypes.data), np.uint64(out.ctypes.data)
    columns = np.uint64(model.columns.ctypes.data)
    row_factors = np.uint64(model.row_factors.ctypes.data)
    column_factors = np.uint64(model.column_factors.ctypes.data)
    last = _last()
    last_at = np.uint64(last.ctypes.data)
    done = 0
    while done < n_words:
        i = (first + done) // model.n_columns
        j = (first + done) % model.n_columns
        n = min(model.n_columns - j, n_words - done)
        row = model.base + (np.int64(model.rows[i]) << OFFSET_STEP_LOG)
        c = columns + np.uint64(i // model.tile_rows * model.n_columns + j)
        a = row_factors + np.uint64(i * model.rank)
        b = column_factors + np.uint64(j)
        x, y = source + np.uint64(done * word_bytes), target + np.uint64(done * word_bytes)
        _shift_rows(x, y, n // LANES, row, c, a, b, model, direction, word_bytes)
        full = n // LANES * LANES
        if full < n:
            at = (done + full) * word_bytes
            n_bytes = (n - full) * word_bytes
            for k in range(n_bytes):
                last[k] = raw[at + k]
            c += np.uint64(full)
            b += np.uint64(full)
            _shift_rows(last_at, last_at, 1, row, c, a, b, model, direction, word_bytes)
            for k in range(n_bytes):
                out[at + k] = last[k]
        done += n
