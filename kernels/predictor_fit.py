# SPDX-License-Identifier: Apache-2.0
"""How an encoder finds the offsets of `predictor.py`, and whether they pay.

The encoder's choices
---------------------
Everything is in integers, and sums have no order, so that every encoder finds the same.
`round(p / q)` is `floor((2 p + q) / (2 q))`, `clip(x, c)` limits `x` to `-c ... c`, by default to
`CLIP`; `log2` has LOG2_BITS bits of fraction. `l` of a word is its log (`predictor_rows.py`); words
whose log is 0 are **missing**: no sum, count or maximum below sees them. "At most `n` rows" of `m`
are the rows `floor(k m / n)` for `k = 0 ... n - 1`, or all if there are no more.

1. **Rows.** `r = round(sum l / count)` for each row; `base` is the rounded mean of the `r` of rows that
   have words; `rows = clip(round((r - base) / 8), 127)`, 0 for rows without words.
2. **Columns.** `u = clip(l - base - 8 rows)`; `columns = clip(round(sum u / 8 count), 127)`
   for each column of each tile, 0 where there is no word. What that takes off the **energy**, the
   sum of `u^2`, is estimated as the sum over tiles and columns of `floor((sum u)^2 / count)`.
3. **Worth a try?** First of all, of the `n` by `m` logs `l` in the first `PROBE_COLUMNS` columns of
   every `ceil(n_rows / PROBE_ROWS)`-th row, missing ones replaced by `floor(sum l / count)`: with `T` the sum of all, `R` of
   a row and `C` of a column, `E_0 = n m sum l^2 - T^2` is their energy about the mean, and
   `E = E_0 + 2 T^2 - n sum R^2 - m sum C^2` what the means of rows and columns leave of it. There is no
   model unless `E_0^4 > 2 E^4`: an eighth of a bit a word.
4. **Tiles.** For the whole matrix, all rows are one tile, or one of `TILES` with fewer rows is. A choice
   costs `words log2(E) / 2 + COLUMN_COST n_columns n_tiles`, with the words that are not missing. The
   cheapest is taken, of equals the largest tile.
5. **Factors**, from at most `SAMPLE_ROWS` rows. `u = clip(l - base - 8 (rows + columns))`. For
   each factor, `b` starts as the row of `u` with the largest energy (the first of equals). Then
   `ITERATIONS` times: `p[i] = sum_j u b`, `a = round(127 p / max |p|)`, `q[j] = sum_i a u`,
   `b = round(127 q / max |q|)`, the last time with `FACTOR_LEVELS` for 127. Then
   `a = clip(round(2^FACTOR_LOG sum_j u b / sum_j b^2), 127)`, and `u` becomes
   `clip(u - (a b >> FACTOR_LOG))`. With the energies before and after, the factor and all
   that would follow are dropped unless `words log2(E_0 / E) / 2 > FACTOR_COST (n_rows + n_columns)`,
   or if a maximum is 0.
6. **Rows again.** `u` as in step 5, and `d = round(sum u / count)`: `rows = clip(rows + round(d / 8), 127)`.
   `u` again, and `row_factors` are the `a` of step 5 for one factor after the other.
7. **Worth it?** In every `ceil(n_rows / CHECK_ROWS)`-th row from the first, let `H_0` be the order-0 entropy
   of `l >> 6`, the exponent, and `H` that of `u >> 4`, quarter octaves, of the `u` that is left. The
   model is used if `words (H_0 + 2 - H - MIN_GAIN)` is more than the costs of its columns and factors and
   `COLUMN_COST` for each row, and if it has no more offsets than the matrix has words.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from .choose import log2_fixed
from .jit import SOURCES, entry_point, kernel, readonly_bytes
from .predictor import LANES, PAD, Model
from .predictor_rows import (
    add,
    add_present,
    count,
    dot,
    logs_2,
    logs_4,
    norm,
    residual,
    subtract,
    total,
)
from .predictor_spec import (
    CHECK_ROWS,
    CLIP,
    COLUMN_COST,
    FACTOR_COST,
    FACTOR_LEVELS,
    GROUP,
    ITERATIONS,
    LEVELS,
    MIN_GAIN,
    PROBE_COLUMNS,
    PROBE_ROWS,
    QUARTER_LOG,
    SAMPLE_ROWS,
    TILES,
)
from .spec import (
    FACTOR_LOG,
    LOG2_BITS,
    MAX_COLUMNS,
    MAX_RANK,
    MIN_COLUMNS,
    OFFSET_LOG,
    OFFSET_STEP_LOG,
    PREDICTED_TYPES,
    n_offsets,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 1 << OFFSET_STEP_LOG
NONE = np.uint64(0)  # argument of a row operation that has none


@kernel
def _round(p: int, q: int) -> int:
    return (2 * p + q) // (2 * q)


@kernel
def _limit(x: int) -> int:
    return max(np.int64(-127), min(np.int64(127), np.int64(x)))


@kernel
def _log2(x: int) -> int:
    """log2 of `max(1, x)` with LOG2_BITS bits of fraction."""
    doublings = np.int64(0)
    while x >= 1 << 32:
        x >>= 1
        doublings += 1
    return (doublings << LOG2_BITS) + log2_fixed(max(np.int64(x), np.int64(1)))


@kernel
def _row_logs(matrix, i, n, logs):  # type: ignore[no-untyped-def]
    """The logs of the first `n` words of row `i` to the address `logs`."""
    source, last, n_rows, n_columns, word_bytes, shift = matrix
    at = source + np.uint64(i * n_columns * word_bytes)
    if i == n_rows - 1:
        at = last  # a copy that may be read beyond its end
    n_vectors = np.uint64((n + LANES - 1) // LANES)
    if word_bytes == 2:
        logs_2(n_vectors, at, logs, np.uint64(shift), np.uint64(n))
    else:
        logs_4(n_vectors, at, logs, np.uint64(shift), np.uint64(n))


@kernel
def _take_off(n_vectors, logs, b, u):  # type: ignore[no-untyped-def]
    """The row's coefficient of the factor `b`, taken off `u`."""
    size = norm(n_vectors, logs, b, NONE, NONE)
    a = np.int64(0)
    if size > 0:
        a = _limit(_round(dot(n_vectors, u, b, NONE, NONE) << FACTOR_LOG, size))
        subtract(n_vectors, logs, b, u, np.uint64(a))
    return a


@kernel
def _fit_rows(matrix, n_chosen, n, group, rows, columns, sums, counts, work, means):  # type: ignore[no-untyped-def]
    """Step 1 and the sums of step 2, of at most `n_chosen` rows: (base, E_0, energy, words).

    Fills `rows` (int8), and adds to `sums` and `counts` (int32, zeros; a padded row for each `group`
    rows). `columns` is the address of zeros, `work` that of two rows, `means` (int64) has
    room for each.
    """
    n_rows = matrix[2]
    n_vectors = np.uint64((n + LANES - 1) // LANES)
    width = n_vectors * np.uint64(4 * LANES)
    logs, u = work, work + (width >> np.uint64(1))
    base = n_found = np.int64(0)
    for k in range(n_chosen):
        _row_logs(matrix, k * n_rows // n_chosen, n, logs)
        n_words = count(n_vectors, logs, NONE, NONE, NONE)
        means[k] = -1
        if n_words > 0:
            means[k] = _round(total(n_vectors, logs, NONE, NONE, NONE), n_words)
            base += means[k]
            n_found += 1
    base = _round(base, max(n_found, np.int64(1)))
    before = energy = words = np.int64(0)
    for k in range(n_chosen):
        rows[k] = _limit(_round(means[k] - base, STEP)) if means[k] >= 0 else 0
        _row_logs(matrix, k * n_rows // n_chosen, n, logs)
        residual(n_vectors, logs, columns, np.uint64(base), u)
        before += dot(n_vectors, u, u, NONE, NONE)
        residual(n_vectors, logs, columns, np.uint64(base + STEP * np.int64(rows[k])), u)
        energy += dot(n_vectors, u, u, NONE, NONE)
        words += count(n_vectors, logs, NONE, NONE, NONE)
        at = np.uint64(k // group) * width
        add(n_vectors, u, np.uint64(sums.ctypes.data) + at, np.uint64(1), NONE)
        add_present(n_vectors, logs, np.uint64(counts.ctypes.data) + at, NONE, NONE)
    return base, before, energy, words


@kernel
def _fit_columns(sums, counts, n_groups, n, per_tile, columns):  # type: ignore[no-untyped-def]
    """Step 2 for tiles of `per_tile` groups: fills `columns` (int8); what it takes off the energy."""
    width = sums.size // n_groups
    taken = np.int64(0)
    at = 0
    for first in range(0, n_groups, per_tile):
        for j in range(n):
            s = n_words = np.int64(0)
            for g in range(first, min(first + per_tile, n_groups)):
                s += np.int64(sums[g * width + j])
                n_words += np.int64(counts[g * width + j])
            columns[at] = 0
            if n_words > 0:
                columns[at] = _limit(_round(s, STEP * n_words))
                taken += s * s // n_words
            at += 1
    return taken


@kernel
def _fit_tiles(sums, counts, n_groups, n, energy, words, columns):  # type: ignore[no-untyped-def]
    """Step 4, and step 2 for the tiles chosen; how many groups a tile has."""
    best, lowest = n_groups, np.int64(1) << 62
    for turn in range(len(TILES) + 2):
        per_tile = n_groups
        if 1 <= turn <= len(TILES):
            per_tile = TILES[turn - 1] // GROUP
            if per_tile >= n_groups:
                continue
        elif turn > 0:
            per_tile = best
        left = energy - _fit_columns(sums, counts, n_groups, n, per_tile, columns)
        cost = words * _log2(left) // 2
        cost += COLUMN_COST * n * ((n_groups + per_tile - 1) // per_tile)
        if cost < lowest:
            best, lowest = per_tile, cost
    return best


@kernel
def _scale(values, n, levels, out):  # type: ignore[no-untyped-def]
    """`out = round(levels values / max |values|)`; the maximum."""
    most = np.int64(0)
    for j in range(n):
        most = max(most, abs(np.int64(values[j])))
    for j in range(n):
        out[j] = _round(levels * np.int64(values[j]), max(most, np.int64(1)))
    return most


@kernel
def _find_factor(n_vectors, n, n_sampled, logs, u, b, a, p, q):  # type: ignore[no-untyped-def]
    """The next factor `b` (int16) of the sample `u` and `u` without it: energies before and after.

    `logs` and `u` are addresses of `n_sampled` rows. Work space: a int16, p int64, q int32.
    """
    width = n_vectors * np.uint64(2 * LANES)
    b_at, q_at = np.uint64(b.ctypes.data), np.uint64(q.ctypes.data)
    before, most, strongest = np.int64(0), np.int64(-1), np.uint64(0)
    for k in range(n_sampled):
        row = u + np.uint64(k) * width
        energy = dot(n_vectors, row, row, NONE, NONE)
        before += energy
        if energy > most:
            most, strongest = energy, row
    for j in range(n):
        q[j] = 0
    add(n_vectors, strongest, q_at, np.uint64(1), NONE)
    for j in range(n):
        b[j] = q[j]
    for turn in range(ITERATIONS):
        for k in range(n_sampled):
            p[k] = dot(n_vectors, u + np.uint64(k) * width, b_at, NONE, NONE)
        if _scale(p, n_sampled, LEVELS, a) == 0:
            return before, before
        for j in range(n):
            q[j] = 0
        for k in range(n_sampled):
            add(n_vectors, u + np.uint64(k) * width, q_at, np.uint64(np.int64(a[k])), NONE)
        if _scale(q, n, FACTOR_LEVELS if turn == ITERATIONS - 1 else LEVELS, b) == 0:
            return before, before
    after = np.int64(0)
    for k in range(n_sampled):
        row = u + np.uint64(k) * width
        _take_off(n_vectors, logs + np.uint64(k) * width, b_at, row)
        after += dot(n_vectors, row, row, NONE, NONE)
    return before, after


@kernel
def _fit_factors(matrix, words, base, rows, columns, tile_rows, factors, work, a, p, q):  # type: ignore[no-untyped-def]
    """Step 5: the rank. Fills `factors` (int16, zeros; a padded row each)."""
    n_rows, n_columns = matrix[2], matrix[3]
    n_vectors = np.uint64((n_columns + LANES - 1) // LANES)
    width = n_vectors * np.uint64(2 * LANES)
    n_sampled = min(n_rows, SAMPLE_ROWS)
    logs, u = work, work + np.uint64(n_sampled) * width
    for k in range(n_sampled):
        i = k * n_rows // n_sampled
        at = np.uint64(k) * width
        _row_logs(matrix, i, n_columns, logs + at)
        c = columns + np.uint64(i // tile_rows * n_columns)
        residual(n_vectors, logs + at, c, np.uint64(base + STEP * np.int64(rows[i])), u + at)
    for rank in range(factors.shape[0]):
        before, after = _find_factor(
            n_vectors, n_columns, n_sampled, logs, u, factors[rank], a, p, q
        )
        gain = words * (_log2(before) - _log2(after)) // 2
        if gain <= FACTOR_COST * (n_rows + n_columns):
            return rank
    return factors.shape[0]


@kernel
def _entropy(counts, n_counted):  # type: ignore[no-untyped-def]
    """Order-0 bits of all symbols counted in `counts` (int64)."""
    bits = n_counted * _log2(n_counted)
    for s in range(counts.size):
        bits -= counts[s] * _log2(counts[s])
    return bits


@kernel
def _fit_again(matrix, base, rows, columns, tile_rows, rank, factors, row_factors, pair, counts):  # type: ignore[no-untyped-def]
    """Steps 6 and 7: the bits that the model saves a word, before its own cost.

    `pair` (int16, two rows) and `counts` (int64[2, 256], zeros) are work space.
    """
    n_rows, n_columns = matrix[2], matrix[3]
    n_vectors = np.uint64((n_columns + LANES - 1) // LANES)
    width = n_vectors * np.uint64(2 * LANES)
    logs, b = np.uint64(pair.ctypes.data), np.uint64(factors.ctypes.data)
    u, second = logs + width, np.int64(n_vectors) * LANES
    stride = (n_rows + CHECK_ROWS - 1) // CHECK_ROWS
    checked = np.int64(0)
    for i in range(n_rows):
        _row_logs(matrix, i, n_columns, logs)
        n_words = count(n_vectors, logs, NONE, NONE, NONE)
        c = columns + np.uint64(i // tile_rows * n_columns)
        residual(n_vectors, logs, c, np.uint64(base + STEP * np.int64(rows[i])), u)
        d = _round(total(n_vectors, u, NONE, NONE, NONE), max(n_words, np.int64(1)))
        rows[i] = _limit(np.int64(rows[i]) + _round(d, STEP))
        residual(n_vectors, logs, c, np.uint64(base + STEP * np.int64(rows[i])), u)
        for k in range(rank):
            row_factors[i * rank + k] = _take_off(n_vectors, logs, b + np.uint64(k) * width, u)
        if i % stride == 0:
            for j in range(n_columns):
                if pair[j] != 0:
                    counts[0, np.int64(pair[j]) >> OFFSET_LOG] += 1
                    counts[1, (np.int64(pair[second + j]) + CLIP) >> QUARTER_LOG] += 1
            checked += n_words
    saved = _entropy(counts[0], checked) - _entropy(counts[1], checked)
    return saved // max(checked, np.int64(1)) + (2 << LOG2_BITS)


@kernel
def _matrix(raw, last, word_bytes, shift, n_columns):  # type: ignore[no-untyped-def]
    """What `_row_logs` reads from; `last` (uint8) is the last row with some bytes more."""
    source, end = np.uint64(raw.ctypes.data), np.uint64(last.ctypes.data)
    return source, end, raw.size // word_bytes // n_columns, n_columns, word_bytes, shift


I8, I16, I32, I64 = types.int8[::1], types.int16[::1], types.int32[::1], types.int64[::1]
MATRIX = (readonly_bytes, readonly_bytes, types.int64, types.int64, types.int64)


@cache
def _fit_entry_point(sources: str = SOURCES) -> Any:
    @entry_point(
        types.UniTuple(types.int64, 3)(
            *MATRIX,
            I8,
            I8,
            I8,
            types.int8[:, ::1],
            I32,
            I32,
            I16,
            types.int16[:, ::1],
            I16,
            I64,
            I32,
            types.int64[:, ::1],
            I64,
        )
    )
    def fit_matrix(  # type: ignore[no-untyped-def]
        raw,
        last,
        word_bytes,
        shift,
        n_columns,
        rows,
        columns,
        row_factors,
        column_factors,
        sums,
        counts,
        work,
        factors,
        a,
        p,
        q,
        symbols,
        means,
    ):
        """Steps 1, 2 and 4 to 7: (base, tile_rows, rank); rank -1 if no model is worth it.

        The arrays must be zeros: those of a `Model` for tiles of `GROUP` rows and the highest rank,
        then work space as `fit` makes it; `factors` has as many rows as there may be factors.
        """
        assert sources
        matrix = _matrix(raw, last, word_bytes, shift, n_columns)
        n_rows = matrix[2]
        n_groups = (n_rows + GROUP - 1) // GROUP
        at, c = np.uint64(work.ctypes.data), np.uint64(columns.ctypes.data)
        base, _, energy, words = _fit_rows(
            matrix, n_rows, n_columns, GROUP, rows, c, sums, counts, at, means
        )
        per_tile = _fit_tiles(sums, counts, n_groups, n_columns, energy, words, columns)
        tile_rows = n_rows if per_tile == n_groups else per_tile * GROUP
        rank = _fit_factors(matrix, words, base, rows, c, tile_rows, factors, at, a, p, q)
        for k in range(rank):
            for j in range(n_columns):
                column_factors[k, j] = factors[k, j]
        saved = _fit_again(
            matrix, base, rows, c, tile_rows, rank, factors, row_factors, work, symbols
        )
        n_tiles = (n_rows + tile_rows - 1) // tile_rows
        cost = COLUMN_COST * (n_rows + n_tiles * n_columns)
        cost += FACTOR_COST * rank * (n_rows + n_columns)
        return base, tile_rows, rank if words * (saved - MIN_GAIN) > cost else -1

    return fit_matrix


def probe_step(n_rows: int) -> int:
    """Every how many-th row the probe of step 3 looks at, at its first `PROBE_COLUMNS` words."""
    return -(-n_rows // PROBE_ROWS)


def is_promising(sample: NDArray[Any], name: str) -> bool:
    """Step 3 for the words of the probe, in NumPy: most matrices have no model, and need not wait
    for a compiler.
    """
    magnitude = sample.dtype.type((1 << (8 * sample.itemsize - 1)) - 1)
    shift = sample.dtype.type(PREDICTED_TYPES[name].mantissa_bits - OFFSET_LOG)
    logs = ((sample & magnitude) >> shift).astype(np.float64)  # exact: all sums stay below 2^53
    n, m = logs.shape
    n_missing = logs.size - np.count_nonzero(logs)
    if n_missing:
        logs[logs == 0] = int(logs.sum()) // max(1, logs.size - n_missing)
    rows, columns = logs.sum(1), logs.sum(0)
    squared_total = int(rows.sum()) ** 2
    before = n * m * int(np.vdot(logs, logs)) - squared_total
    left = before + 2 * squared_total - n * int(rows @ rows) - m * int(columns @ columns)
    return before**4 > 2 * left**4


def fit(words: NDArray[Any], name: str, max_rank: int = MAX_RANK) -> Model | None:
    """The model of a matrix of words, None if none is worth it.

    `words`: uint16 or uint32, C-contiguous; `name`: a type of
    `PREDICTED_TYPES`; `max_rank`: factors to try.
    """
    n_rows, n_columns = words.shape
    assert words.flags.c_contiguous
    if not MIN_COLUMNS <= n_columns <= MAX_COLUMNS or not is_promising(
        words[:: probe_step(n_rows), :PROBE_COLUMNS], name
    ):
        return None
    mantissa_bits, middle, _ = PREDICTED_TYPES[name]
    width = -(-n_columns // LANES) * LANES
    last = np.zeros(width, words.dtype)
    last[:n_columns] = words[-1]
    raw, shift = words.reshape(-1).view(np.uint8), mantissa_bits - OFFSET_LOG
    matrix = raw, last.view(np.uint8), words.itemsize, shift, n_columns

    n_groups, n_sampled = -(-n_rows // GROUP), min(n_rows, SAMPLE_ROWS)
    rows, columns = np.zeros(n_rows + PAD, np.int8), np.zeros(n_groups * n_columns + PAD, np.int8)
    row_factors = np.zeros(n_rows * max_rank + PAD, np.int8)
    column_factors = np.zeros((max_rank, n_columns + PAD), np.int8)
    base, tile_rows, rank = _fit_entry_point()(
        *matrix,
        rows,
        columns,
        row_factors,
        column_factors,
        *(np.zeros(n_groups * width, np.int32) for _ in range(2)),  # sums, counts
        np.zeros(2 * n_sampled * width, np.int16),
        np.zeros((max_rank, width), np.int16),
        np.zeros(n_sampled, np.int16),
        np.zeros(n_sampled, np.int64),
        np.zeros(width, np.int32),
        np.zeros((2, 256), np.int64),
        np.zeros(n_rows, np.int64),
    )
    if rank < 0 or n_offsets(n_rows, n_columns, tile_rows, rank) > words.size:
        return None
    columns = columns[: -(-n_rows // tile_rows) * n_columns + PAD]
    columns[columns.size - PAD :] = 0
    return Model(
        rows,
        columns,
        row_factors[: rank * n_rows + PAD],
        column_factors[:rank],
        n_columns,
        tile_rows,
        rank,
        base - middle,
        shift,
    )
