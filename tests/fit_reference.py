# SPDX-License-Identifier: Apache-2.0
"""The steps of `predictor_fit.py` in NumPy, one matrix operation each."""

from __future__ import annotations

import numpy as np

from gpucodec.kernels import predictor_fit as choices, spec
from gpucodec.kernels.choose import log2_fixed as log2_kernel
from gpucodec.kernels.predictor_rows import CLIP
from gpucodec.kernels.spec import LOG2_BITS

log2_fixed = log2_kernel.py_func


def rounded(p, q):
    return (2 * np.asarray(p, np.int64) + q) // (2 * np.asarray(q, np.int64))


def limited(x):
    return np.clip(x, -127, 127)


def log2(x: int) -> int:
    x, doublings = max(1, int(x)), 0
    while x >= 1 << 32:
        x, doublings = x >> 1, doublings + 1
    return (doublings << LOG2_BITS) + log2_fixed(x)


class Matrix:
    def __init__(self, words: np.ndarray, mantissa_bits: int) -> None:
        magnitude = words & ((1 << (8 * words.itemsize - 1)) - 1)
        self.logs = (magnitude >> (mantissa_bits - spec.OFFSET_LOG)).astype(np.int64)
        self.present = self.logs != 0

    def part(self, chosen: np.ndarray, n: int) -> Matrix:
        other = object.__new__(Matrix)
        other.logs, other.present = self.logs[chosen, :n], self.present[chosen, :n]
        return other

    def residual(self, offset) -> np.ndarray:
        return np.clip(self.logs - offset, -CLIP, CLIP) * self.present


def spread(n_rows: int, count: int) -> np.ndarray:
    count = min(n_rows, count)
    return np.arange(count) * n_rows // count


def fit_rows(matrix: Matrix) -> tuple[int, np.ndarray]:
    counts = matrix.present.sum(1)
    means = rounded(matrix.logs.sum(1), np.maximum(counts, 1))
    found = counts > 0
    base = int(rounded(means[found].sum(), max(1, int(found.sum()))))
    return base, np.where(found, limited(rounded(means - base, 8)), 0)


def fit_columns(matrix: Matrix, base: int, rows: np.ndarray, tile_rows: int):
    """Columns of each tile; the energy that is left."""
    u = matrix.residual(base + 8 * rows[:, None])
    starts = np.arange(0, len(rows), tile_rows)
    sums = np.add.reduceat(u, starts, 0)
    counts = np.add.reduceat(matrix.present.astype(np.int64), starts, 0)
    columns = np.where(counts > 0, limited(rounded(sums, 8 * np.maximum(counts, 1))), 0)
    return columns, (u**2).sum() - (sums**2 // np.maximum(counts, 1)).sum()


def scaled(values: np.ndarray, levels: int) -> np.ndarray | None:
    most = int(np.abs(values).max())
    return rounded(levels * values, most) if most else None


def take_off(u: np.ndarray, present: np.ndarray, b: np.ndarray):
    norms = present @ b**2
    a = np.where(norms > 0, limited(rounded((u @ b) << 1, np.maximum(norms, 1))), 0)
    return a, np.clip(u - ((a[:, None] * b) >> 1) * present, -CLIP, CLIP)


def find_factor(u: np.ndarray, present: np.ndarray):
    b = u[(u**2).sum(1).argmax()]
    for turn in range(choices.ITERATIONS):
        a = scaled(u @ b, 127)
        if a is None:
            return None
        last = turn == choices.ITERATIONS - 1
        b = scaled(a @ u, choices.FACTOR_LEVELS if last else 127)
        if b is None:
            return None
    return b, take_off(u, present, b)[1]


def entropy(symbols: np.ndarray) -> int:
    counts = np.unique(symbols, return_counts=True)[1]
    n = symbols.size
    return n * log2(n) - sum(int(c) * log2(c) for c in counts)


def fit(words: np.ndarray, name: str, max_rank: int):
    """(rows, columns, row_factors, column_factors, tile_rows, rank, base), or None."""
    mantissa_bits, middle, _ = spec.PREDICTED_TYPES[name]
    matrix = Matrix(words, mantissa_bits)
    n_rows, n_columns = words.shape

    every = -(-n_rows // choices.PROBE_ROWS)
    probe = matrix.part(np.arange(0, n_rows, every), choices.PROBE_COLUMNS)
    logs, present = probe.logs, probe.present
    logs = np.where(present, logs, logs.sum() // max(1, present.sum())).astype(float)
    before = ((logs - logs.mean()) ** 2).sum()
    left = logs - logs.mean(1, keepdims=True) - logs.mean(0) + logs.mean()
    if before <= 2**0.25 * (left**2).sum():
        return None

    base, rows = fit_rows(matrix)
    n_words = int(matrix.present.sum())
    best = None
    for tile_rows in (n_rows, *(t for t in choices.TILES if -(-n_rows // 32) > t // 32)):
        columns, left = fit_columns(matrix, base, rows, tile_rows)
        cost = n_words * log2(left) // 2 + choices.COLUMN_COST * columns.size
        if best is None or cost < best[0]:
            best = cost, tile_rows, columns
    _, tile_rows, columns = best
    offsets = 8 * columns[np.arange(n_rows) // tile_rows]

    chosen = spread(n_rows, choices.SAMPLE_ROWS)
    sample = matrix.part(chosen, n_columns)
    u = sample.residual(base + 8 * rows[chosen, None] + offsets[chosen])
    factors = []
    while len(factors) < max_rank:
        found = find_factor(u, sample.present)
        if found is None:
            break
        gain = n_words * (log2((u**2).sum()) - log2((found[1] ** 2).sum())) // 2
        if gain <= choices.FACTOR_COST * (n_rows + n_columns):
            break
        factors.append(found[0])
        u = found[1]

    counts = np.maximum(1, matrix.present.sum(1))
    u = matrix.residual(base + 8 * rows[:, None] + offsets)
    rows = limited(rows + rounded(rounded(u.sum(1), counts), 8))
    u = matrix.residual(base + 8 * rows[:, None] + offsets)
    row_factors = []
    for b in factors:
        a, u = take_off(u, matrix.present, b)
        row_factors.append(a)

    checked = slice(None, None, -(-n_rows // choices.CHECK_ROWS))
    exponents = (matrix.logs[checked] >> 6)[matrix.present[checked]]
    quarters = ((u[checked] + CLIP) >> 4)[matrix.present[checked]]
    saved = (entropy(exponents) - entropy(quarters)) // max(1, exponents.size) + (2 << LOG2_BITS)
    cost = choices.COLUMN_COST * (n_rows + columns.size)
    cost += choices.FACTOR_COST * len(factors) * (n_rows + n_columns)
    n_offsets = n_rows + columns.size + len(factors) * (n_rows + n_columns)
    if n_words * (saved - choices.MIN_GAIN) <= cost or n_offsets > words.size:
        return None
    pairs = np.array(row_factors).reshape(len(factors), n_rows).T, np.array(factors)
    return rows, columns, *pairs, tile_rows, len(factors), base - middle
