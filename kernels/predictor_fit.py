# SPDX-License-Identifier: Apache-2.0
"""How an encoder finds the offsets of `predictor.py`, and whether they pay.

The encoder's choices
---------------------
Everything is in integers, and sums have no order, so that every encoder finds the same. `round(p/q)`
is `floor((2 p + q) / (2 q))`, `clip(x, c)` limits `x` to `-c ... c`. `l` of a word is its magnitude
shifted down to `OFFSET_LOG` bits of the mantissa: its log2 in 1/64 octaves. Words with `l = 0` are
**missing**: no sum, count or maximum below sees them. `log2` has LOG2_BITS bits of fraction.

1. **Worth a try.** Of the first `PROBE_COLUMNS` columns of at most `PROBE_ROWS` rows, steps 2 and 3
   are done with one tile. If `2 PROBE_GAIN > log2(E_0 / E)`, there is no model: `E_0` is the sum of
   `clip(l - base, COLUMN_CLIP)^2` and `E` that of `clip(l - base - 8 (rows + columns), COLUMN_CLIP)^2`.
2. **Rows.** `r = round(sum l / count)` for each row; `base` is the rounded mean of the `r` of rows that
   have words; `rows = clip(round((r - base) / 8), 127)`, 0 for rows without words.
3. **Columns.** `u = clip(l - base - 8 rows, COLUMN_CLIP)`; `columns = clip(round(sum u / 8 count), 127)`
   for each column of each tile, 0 where there is no word.
4. **Tiles.** All rows are one tile, or one of `TILES` with fewer rows is. The energy of a choice is
   `E = max(1, sum u^2 - sum over tiles and columns of floor((sum u)^2 / count))`, its cost
   `words log2(E) / 2 + COLUMN_COST n_columns n_tiles`, with the words that are not missing. The
   cheapest is taken, of equals the largest tile.
5. **Factors**, of at most `SAMPLE_ROWS` rows. `u = clip(l - base - 8 (rows + columns), ROW_CLIP)`. For
   each factor, `b` starts as the row of `u` with the largest energy (the first of equals). Then
   `ITERATIONS` times: `p[i] = sum_j u b`, `a = round(127 p / max |p|)`, `q[j] = sum_i a u`,
   `b = round(127 q / max |q|)`, the last time with `FACTOR_LEVELS` for 127. Then
   `a = clip(round(2^FACTOR_LOG sum_j u b / sum_j b^2), 127)` and `u = clip(u - (a b >> FACTOR_LOG), ROW_CLIP)`. If `E_0` and
   `E` are the energies of `u` before and after, the factor and all that would follow are dropped
   unless `words log2(E_0 / E) / 2 > FACTOR_COST (n_rows + n_columns)`, or if a maximum is 0.
6. **Rows again.** `u` as in step 5, and `d = round(sum u / count)`: `rows = clip(rows + round(d / 8), 127)`.
   `u` again, and `row_factors` are the `a` of step 5 for one factor after the other.

"At most `n` rows" of `m` are the rows `floor(k m / n)`, `k = 0 ... n - 1`, or all if there are no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .choose import log2_fixed
from .jit import kernel
from .predictor import FACTOR_LOG, LANES, MAX_RANK, OFFSET_STEP_LOG, PAD
from .spec import LOG2_BITS
from .vector import I64, constant, load, loop, splat, store, vector

PROBE_ROWS, PROBE_COLUMNS = 64, 512
PROBE_GAIN = 1 << (LOG2_BITS - 3)  # bits a word
TILES = (256, 128, 64, 32)
GROUP = 32  # the smallest tile
COLUMN_CLIP = 1023  # 1/64 octaves; the energy of 2^16 columns then fits 32 bits a lane
ROW_CLIP = 128
COLUMN_COST = 6 << LOG2_BITS
FACTOR_COST = 5 << LOG2_BITS
SAMPLE_ROWS = 256
ITERATIONS = 3
FACTOR_LEVELS = 15

SHORT, LONG = vector(LANES, 16), vector(LANES, 32)


def _row_operation(body: Any, *, reduce: bool = False) -> Any:
    """An intrinsic over a row's vectors of 32: `(n_vectors, a, b, c, d)`, addresses or numbers.

    `body(builder, i, arguments)` handles vector `i`. With `reduce` it returns a vector of i32, and
    the intrinsic the sum of all their lanes.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def operation(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001 - Numba passes it
        n_vectors,
        a,
        b,
        c,
        d,
    ):
        def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            count, *arguments = values

            def one_vector(i: Any, state: Any) -> Any:
                result = body(builder, i, arguments)
                return [builder.add(state[0], result)] if reduce else []

            total = loop(builder, count, [constant(LONG, 0)] if reduce else [], one_vector)
            if not reduce:
                return None
            wide = builder.sext(total[0], vector(LANES, 64))
            kind = ir.FunctionType(I64, [wide.type])
            name = f"llvm.vector.reduce.add.v{LANES}i64"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [wide])

        result = types.int64 if reduce else types.void
        return result(n_vectors, a, b, c, d), generate

    return operation


def _at(builder: Any, row: Any, i: Any, n_bytes: int) -> Any:
    """The address of vector `i` in a row of numbers of `n_bytes`."""
    return builder.add(row, builder.mul(i, constant(I64, LANES * n_bytes)))


def _present(builder: Any, i: Any, logs: Any) -> Any:
    return builder.icmp_signed("!=", load(builder, _at(builder, logs, i, 2), SHORT), ZERO)


ZERO = constant(SHORT, 0)


def _clip(builder: Any, x: Any, limit: Any) -> Any:
    x = builder.select(builder.icmp_signed("<", x, limit), x, limit)
    limit = builder.neg(limit)
    return builder.select(builder.icmp_signed(">", x, limit), x, limit)


def _logs_body(word_bytes: int) -> Any:
    """(words, logs out, shift, -)"""
    wide = vector(LANES, 8 * word_bytes)
    magnitude = constant(wide, (1 << (8 * word_bytes - 1)) - 1)

    def body(builder: Any, i: Any, arguments: Any) -> None:
        words, logs, shift, _ = arguments
        x = builder.and_(load(builder, _at(builder, words, i, word_bytes), wide), magnitude)
        x = builder.lshr(x, splat(builder, shift, wide))
        x = x if word_bytes == 2 else builder.trunc(x, SHORT)
        store(builder, x, _at(builder, logs, i, 2))

    return body


def _sum_body(builder: Any, i: Any, arguments: Any) -> Any:
    """(row of i16, -, -, -): its sum."""
    return builder.sext(load(builder, _at(builder, arguments[0], i, 2), SHORT), LONG)


def _count_body(builder: Any, i: Any, arguments: Any) -> Any:
    """(logs, -, -, -): how many are not missing."""
    return builder.zext(_present(builder, i, arguments[0]), LONG)


def _residual_body(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, columns i8, u out, offset << 16 | limit): `u = clip(l - offset - 8 columns, limit)`."""
    logs, columns, u, packed = arguments
    limit = splat(builder, builder.and_(packed, constant(I64, 0xFFFF)), SHORT)
    offset = splat(builder, builder.ashr(packed, constant(I64, 16)), SHORT)
    column = load(builder, _at(builder, columns, i, 1), vector(LANES, 8))
    column = builder.shl(builder.sext(column, SHORT), constant(SHORT, OFFSET_STEP_LOG))
    x = load(builder, _at(builder, logs, i, 2), SHORT)
    y = _clip(builder, builder.sub(builder.sub(x, offset), column), limit)
    y = builder.select(builder.icmp_signed("!=", x, ZERO), y, ZERO)
    store(builder, y, _at(builder, u, i, 2))


def _dot_body(builder: Any, i: Any, arguments: Any) -> Any:
    """(u, v, -, -): the sum of their products."""
    x, y = (load(builder, _at(builder, row, i, 2), SHORT) for row in arguments[:2])
    return builder.mul(builder.sext(x, LONG), builder.sext(y, LONG))


def _norm_body(builder: Any, i: Any, arguments: Any) -> Any:
    """(logs, b, -, -): the sum of `b^2` where there are words."""
    y = load(builder, _at(builder, arguments[1], i, 2), SHORT)
    y = builder.sext(builder.select(_present(builder, i, arguments[0]), y, ZERO), LONG)
    return builder.mul(y, y)


def _add_body(builder: Any, i: Any, arguments: Any) -> None:
    """(u, sums i32, factor, -): `sums += factor u`."""
    u, sums, factor, _ = arguments
    x = builder.sext(load(builder, _at(builder, u, i, 2), SHORT), LONG)
    at = _at(builder, sums, i, 4)
    x = builder.mul(x, splat(builder, factor, LONG))
    store(builder, builder.add(load(builder, at, LONG), x), at)


def _add_present_body(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, counts i32, -, -): `counts += 1` where there are words."""
    at = _at(builder, arguments[1], i, 4)
    one = builder.zext(_present(builder, i, arguments[0]), LONG)
    store(builder, builder.add(load(builder, at, LONG), one), at)


def _subtract_body(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, b, u, a): `u = clip(u - (a b >> FACTOR_LOG), ROW_CLIP)` where there are words."""
    logs, b, u, a = arguments
    y = load(builder, _at(builder, b, i, 2), SHORT)
    y = builder.mul(y, splat(builder, a, SHORT))
    y = builder.ashr(y, constant(SHORT, FACTOR_LOG))
    y = builder.select(_present(builder, i, logs), y, ZERO)
    at = _at(builder, u, i, 2)
    y = builder.sub(load(builder, at, SHORT), y)
    store(builder, _clip(builder, y, constant(SHORT, ROW_CLIP)), at)


_logs_2, _logs_4 = _row_operation(_logs_body(2)), _row_operation(_logs_body(4))
_sum, _count = _row_operation(_sum_body, reduce=True), _row_operation(_count_body, reduce=True)
_dot, _norm = _row_operation(_dot_body, reduce=True), _row_operation(_norm_body, reduce=True)
_residual, _subtract = _row_operation(_residual_body), _row_operation(_subtract_body)
_add, _add_present = _row_operation(_add_body), _row_operation(_add_present_body)


@kernel
def _round(p: int, q: int) -> int:
    return (2 * p + q) // (2 * q)


@kernel
def _limit(x: int) -> int:
    return max(np.int64(-127), min(np.int64(127), np.int64(x)))


@kernel
def _address(array) -> int:  # type: ignore[no-untyped-def]
    return np.uint64(array.ctypes.data)


@kernel
def _row_logs(raw, word_bytes, shift, i, n_columns, n, logs):  # type: ignore[no-untyped-def]
    """The logs (int16) of the first `n` words of row `i`; 0 up to a multiple of 32."""
    source = _address(raw) + np.uint64(i * n_columns * word_bytes)
    target, full = _address(logs), np.uint64(n // LANES)
    how, zero = np.uint64(shift), np.uint64(0)
    last = np.zeros(LANES * word_bytes, np.uint8)
    rest_at = (i * n_columns + n // LANES * LANES) * word_bytes
    for k in range(n % LANES * word_bytes):
        last[k] = raw[rest_at + k]
    behind = target + full * np.uint64(2 * LANES)
    n_rest = np.uint64(n % LANES != 0)
    if word_bytes == 2:
        _logs_2(full, source, target, how, zero)
        _logs_2(n_rest, _address(last), behind, how, zero)
    else:
        _logs_4(full, source, target, how, zero)
        _logs_4(n_rest, _address(last), behind, how, zero)


@kernel
def _residuals(n_vectors, logs, columns, offset, limit, u):  # type: ignore[no-untyped-def]
    """`u = clip(l - offset - 8 columns, limit)` of a row; `columns` is an address."""
    packed = np.uint64(np.int64(offset) << 16 | limit)
    _residual(n_vectors, logs, columns, u, packed)


@kernel
def _factor_of_row(n_vectors, logs, b, u):  # type: ignore[no-untyped-def]
    """The row's coefficient of the factor `b`, taken off `u`."""
    zero = np.uint64(0)
    norm = _norm(n_vectors, logs, b, zero, zero)
    if norm == 0:
        return np.int64(0)
    a = _limit(_round(_dot(n_vectors, u, b, zero, zero) << FACTOR_LOG, norm))
    _subtract(n_vectors, logs, b, u, np.uint64(a))
    return a


@kernel
def _log2(x: int) -> int:
    """log2 of `max(1, x)` with LOG2_BITS bits of fraction."""
    doublings = 0
    while x >= 1 << 32:
        x >>= 1
        doublings += 1
    return (doublings << LOG2_BITS) + log2_fixed(max(x, 1))


@kernel
def _fit_rows(raw, word_bytes, shift, n_columns, chosen, n, rows):  # type: ignore[no-untyped-def]
    """Step 2 for the first `n` words of the rows `chosen` (int64); the base. Fills `rows` (int8)."""
    n_vectors, zero = np.uint64((n + LANES - 1) // LANES), np.uint64(0)
    logs = np.empty(n + LANES, np.int16)
    where = _address(logs)
    means = np.empty(chosen.size, np.int64)
    total, n_found = np.int64(0), np.int64(0)
    for k in range(chosen.size):
        _row_logs(raw, word_bytes, shift, chosen[k], n_columns, n, logs)
        count = _count(n_vectors, where, zero, zero, zero)
        means[k] = -1
        if count > 0:
            means[k] = _round(_sum(n_vectors, where, zero, zero, zero), count)
            total += means[k]
            n_found += 1
    base = _round(total, max(n_found, 1))
    for k in range(chosen.size):
        rows[k] = 0
        if means[k] >= 0:
            rows[k] = _limit(_round(means[k] - base, 1 << OFFSET_STEP_LOG))
    return base


@kernel
def _add_up(raw, word_bytes, shift, n_columns, chosen, n, base, rows, group, sums, counts):  # type: ignore[no-untyped-def]
    """Sums and counts (int32[n_groups, n + 32]) of step 3 for groups of rows.

    Returns (energy without row offsets, energy, words).
    """
    n_vectors, zero = np.uint64((n + LANES - 1) // LANES), np.uint64(0)
    logs, u = np.empty(n + LANES, np.int16), np.empty(n + LANES, np.int16)
    nothing = np.zeros(n + LANES, np.int8)
    where, target, flat = _address(logs), _address(u), _address(nothing)
    sums[:] = 0
    counts[:] = 0
    before = energy = words = np.int64(0)
    for k in range(chosen.size):
        _row_logs(raw, word_bytes, shift, chosen[k], n_columns, n, logs)
        _residuals(n_vectors, where, flat, base, COLUMN_CLIP, target)
        before += _dot(n_vectors, target, target, zero, zero)
        offset = base + (np.int64(rows[k]) << OFFSET_STEP_LOG)
        _residuals(n_vectors, where, flat, offset, COLUMN_CLIP, target)
        energy += _dot(n_vectors, target, target, zero, zero)
        words += _count(n_vectors, where, zero, zero, zero)
        _add(n_vectors, target, _address(sums[k // group]), np.uint64(1), zero)
        _add_present(n_vectors, where, _address(counts[k // group]), zero, zero)
    return before, energy, words


@kernel
def _explained(sums, counts, n, per_tile):  # type: ignore[no-untyped-def]
    """Energy that column offsets of tiles of `per_tile` groups take away."""
    total = np.int64(0)
    for first in range(0, sums.shape[0], per_tile):
        for j in range(n):
            count = s = np.int64(0)
            for g in range(first, min(first + per_tile, sums.shape[0])):
                s += np.int64(sums[g, j])
                count += np.int64(counts[g, j])
            if count > 0:
                total += s * s // count
    return total


@kernel
def _fit_columns(sums, counts, n, per_tile, columns):  # type: ignore[no-untyped-def]
    """Step 3: fill `columns` (int8)."""
    at = 0
    for first in range(0, sums.shape[0], per_tile):
        for j in range(n):
            count = s = np.int64(0)
            for g in range(first, min(first + per_tile, sums.shape[0])):
                s += np.int64(sums[g, j])
                count += np.int64(counts[g, j])
            columns[at] = _limit(_round(s, count << OFFSET_STEP_LOG)) if count > 0 else 0
            at += 1


@kernel
def _spread(n_rows, count):  # type: ignore[no-untyped-def]
    """Indices of at most `count` of `n_rows` rows."""
    count = min(count, n_rows)
    chosen = np.empty(count, np.int64)
    for k in range(count):
        chosen[k] = k * n_rows // count
    return chosen


@kernel
def promising(raw, word_bytes, shift, n_columns):  # type: ignore[no-untyped-def]
    """Step 1, for a matrix of `n_columns` in C order (`raw`, uint8)."""
    n_rows = raw.size // word_bytes // n_columns
    n = min(n_columns, PROBE_COLUMNS)
    chosen = _spread(n_rows, PROBE_ROWS)
    rows = np.empty(chosen.size, np.int8)
    base = _fit_rows(raw, word_bytes, shift, n_columns, chosen, n, rows)
    sums, counts = np.empty((1, n + LANES), np.int32), np.empty((1, n + LANES), np.int32)
    before, after, _ = _add_up(
        raw, word_bytes, shift, n_columns, chosen, n, base, rows, chosen.size, sums, counts
    )
    after -= _explained(sums, counts, n, 1)
    return _log2(before) - _log2(after) > 2 * PROBE_GAIN


@kernel
def _choose_tile(sums, counts, n, n_rows, energy, words):  # type: ignore[no-untyped-def]
    """Step 4: groups in a tile."""
    best, lowest = 0, np.int64(0)
    for candidate in range(len(TILES) + 1):
        per_tile = sums.shape[0] if candidate == 0 else TILES[candidate - 1] // GROUP
        if candidate > 0 and per_tile >= sums.shape[0]:
            continue
        left = energy - _explained(sums, counts, n, per_tile)
        n_tiles = (sums.shape[0] + per_tile - 1) // per_tile
        cost = words * _log2(left) // 2 + COLUMN_COST * n * n_tiles
        if best == 0 or cost < lowest:
            best, lowest = per_tile, cost
    return best


@kernel
def _scale(values, n, levels, out):  # type: ignore[no-untyped-def]
    """`out = round(levels values / max |values|)`; whether there is a maximum."""
    most = np.int64(0)
    for j in range(n):
        most = max(most, abs(np.int64(values[j])))
    for j in range(n):
        out[j] = _round(levels * np.int64(values[j]), most) if most > 0 else 0
    return most > 0


@kernel
def _find_factor(n_vectors, n, logs, u, b):  # type: ignore[no-untyped-def]
    """The next factor `b` (int16) of the sample `u` and the sample without it; energies."""
    zero = np.uint64(0)
    n_sampled = u.shape[0]
    p, a = np.empty(n_sampled, np.int64), np.empty(n_sampled, np.int16)
    q = np.empty(b.size, np.int32)
    before, most, strongest = np.int64(0), np.int64(-1), 0
    for k in range(n_sampled):
        energy = _dot(n_vectors, _address(u[k]), _address(u[k]), zero, zero)
        before += energy
        if energy > most:
            most, strongest = energy, k
    b[:] = u[strongest]
    target = _address(b)
    for turn in range(ITERATIONS):
        for k in range(n_sampled):
            p[k] = _dot(n_vectors, _address(u[k]), target, zero, zero)
        if not _scale(p, n_sampled, 127, a):
            return before, before
        q[:] = 0
        for k in range(n_sampled):
            factor = np.uint64(np.int64(a[k]))
            _add(n_vectors, _address(u[k]), _address(q), factor, zero)
        if not _scale(q, n, FACTOR_LEVELS if turn == ITERATIONS - 1 else 127, b):
            return before, before
    after = np.int64(0)
    for k in range(n_sampled):
        _factor_of_row(n_vectors, _address(logs[k]), target, _address(u[k]))
        after += _dot(n_vectors, _address(u[k]), _address(u[k]), zero, zero)
    return before, after


@kernel
def _fit_factors(  # type: ignore[no-untyped-def]
    raw, word_bytes, shift, n_columns, words, base, rows, columns, tile_rows, factors
):
    """Step 5: the rank; fills `factors` (int16[MAX_RANK, n_columns + 32])."""
    n_rows = rows.size - PAD
    n_vectors = np.uint64((n_columns + LANES - 1) // LANES)
    chosen = _spread(n_rows, SAMPLE_ROWS)
    logs = np.empty((chosen.size, n_columns + LANES), np.int16)
    u = np.zeros((chosen.size, n_columns + LANES), np.int16)
    for k in range(chosen.size):
        i = chosen[k]
        _row_logs(raw, word_bytes, shift, i, n_columns, n_columns, logs[k])
        offset = base + (np.int64(rows[i]) << OFFSET_STEP_LOG)
        c = _address(columns) + np.uint64(i // tile_rows * n_columns)
        _residuals(n_vectors, _address(logs[k]), c, offset, ROW_CLIP, _address(u[k]))
    factors[:] = 0
    for rank in range(MAX_RANK):
        before, after = _find_factor(n_vectors, n_columns, logs, u, factors[rank])
        gain = words * (_log2(before) - _log2(after)) // 2
        if gain <= FACTOR_COST * (n_rows + n_columns):
            return rank
    return MAX_RANK


@kernel
def _fit_row_factors(  # type: ignore[no-untyped-def]
    raw, word_bytes, shift, n_columns, base, rows, columns, tile_rows, rank, factors, row_factors
):
    """Step 6."""
    n_vectors, zero = np.uint64((n_columns + LANES - 1) // LANES), np.uint64(0)
    logs, u = np.empty(n_columns + LANES, np.int16), np.empty(n_columns + LANES, np.int16)
    where, target = _address(logs), _address(u)
    for i in range(rows.size - PAD):
        _row_logs(raw, word_bytes, shift, i, n_columns, n_columns, logs)
        c = _address(columns) + np.uint64(i // tile_rows * n_columns)
        offset = base + (np.int64(rows[i]) << OFFSET_STEP_LOG)
        _residuals(n_vectors, where, c, offset, ROW_CLIP, target)
        count = _count(n_vectors, where, zero, zero, zero)
        if count == 0:
            continue
        d = _round(_sum(n_vectors, target, zero, zero, zero), count)
        rows[i] = _limit(np.int64(rows[i]) + _round(d, 1 << OFFSET_STEP_LOG))
        offset = base + (np.int64(rows[i]) << OFFSET_STEP_LOG)
        _residuals(n_vectors, where, c, offset, ROW_CLIP, target)
        for k in range(rank):
            a = _factor_of_row(n_vectors, where, _address(factors[k]), target)
            row_factors[i * rank + k] = a


@kernel
def fit(raw, word_bytes, shift, n_columns, rows, columns, row_factors, column_factors):  # type: ignore[no-untyped-def]
    """Steps 2 to 6: (base, tile_rows, rank) of the matrix `raw` (uint8, C order).

    Fills the arrays (int8, zeros) of a `Model`, made for tiles of 32 rows and `MAX_RANK`.
    """
    n_rows = rows.size - PAD
    chosen = _spread(n_rows, n_rows)
    n_groups = (n_rows + GROUP - 1) // GROUP
    sums = np.empty((n_groups, n_columns + LANES), np.int32)
    counts = np.empty((n_groups, n_columns + LANES), np.int32)
    base = _fit_rows(raw, word_bytes, shift, n_columns, chosen, n_columns, rows)
    _, energy, words = _add_up(
        raw, word_bytes, shift, n_columns, chosen, n_columns, base, rows, GROUP, sums, counts
    )
    per_tile = _choose_tile(sums, counts, n_columns, n_rows, energy, words)
    tile_rows = n_rows if per_tile == n_groups else per_tile * GROUP
    _fit_columns(sums, counts, n_columns, per_tile, columns)
    factors = np.empty((MAX_RANK, n_columns + LANES), np.int16)
    rank = _fit_factors(
        raw, word_bytes, shift, n_columns, words, base, rows, columns, tile_rows, factors
    )
    for k in range(rank):
        for j in range(n_columns):
            column_factors[k * n_columns + j] = factors[k, j]
    _fit_row_factors(
        raw, word_bytes, shift, n_columns, base, rows, columns, tile_rows, rank, factors, row_factors
    )
    return base, tile_rows, rank
