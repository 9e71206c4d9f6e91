# SPDX-License-Identifier: Apache-2.0
"""How small order-0 coding can make an array: the yardstick beside the peers.

Both bounds are bits per element and grant the coder its tables, headers and checksums for free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucodec import buffers, plan
from gpucodec.kernels import spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 1 << 16  # words that share a table: the largest block of the format


def entropy(counts: NDArray[np.int64]) -> float:
    """Order-0 entropy of a histogram, in bits for all of its symbols together."""
    live = counts[counts > 0].astype(np.float64)
    total = float(live.sum())
    return float(total * np.log2(total) - (live * np.log2(live)).sum())


def fields(array: NDArray[Any]) -> list[tuple[int, NDArray[np.uint8]]]:
    """Width and symbols of each field of the format, highest bits first."""
    dtype = next(d for d in spec.DTYPES if d.name == array.dtype.name)
    bits = 8 * dtype.word_bytes
    words = np.ascontiguousarray(array).ravel().view(f"u{dtype.word_bytes}")
    one, top = words.dtype.type(1), words.dtype.type(bits - 1)
    if dtype.transform in (spec.ROTATE, spec.ROTATE_BIAS):
        words = (words << one) | (words >> top)
    elif dtype.transform == spec.ZIGZAG:
        words = (words << one) ^ (-(words >> top) & words.dtype.type((1 << bits) - 1))
    if dtype.transform == spec.ROTATE_BIAS:
        words = words + words.dtype.type(spec.FLOAT64_BIAS)
    split = []
    for width in dtype.planes:
        bits -= width
        mask = words.dtype.type((1 << width) - 1)
        split.append((width, ((words >> words.dtype.type(bits)) & mask).astype(np.uint8)))
    return split


def bits(array: NDArray[Any], block: int = BLOCK) -> float:
    """The entropies of every field in every block, together."""
    return sum(
        entropy(np.bincount(symbols[start : start + block], minlength=256))
        for _, symbols in fields(array)
        for start in range(0, len(symbols), block)
    )


def predicted_bits(array: NDArray[Any]) -> float | None:
    """`bits` of what the row/column predictor leaves, and of its offsets; None without a gain."""
    words, dtype, shape = buffers.elements(array)
    model = plan.find_model(words, dtype, shape, spec.PROFILE_RATIO)
    if model is None:
        return None
    from gpucodec.kernels.predictor import PAD, join

    rows = model.rows[:-PAD].astype(np.int64)
    columns = model.columns[:-PAD].astype(np.int64).reshape(-1, model.n_columns)
    factors = model.row_factors[:-PAD].astype(np.int64).reshape(rows.size, model.rank)
    products = factors @ model.column_factors[:, :-PAD].astype(np.int64)
    products = (products + (1 << 15)) % (1 << 16) - (1 << 15)
    tiles = columns[np.arange(rows.size) // model.tile_rows]
    offsets = (model.base + 8 * (rows[:, None] + tiles) + (products >> 1)) << model.shift
    word = words.view(f"u{dtype.itemsize}").reshape(rows.size, -1).astype(np.int64)
    whole = 1 << (8 * dtype.itemsize - 1)
    magnitudes = word % whole
    moved = (magnitudes - offsets) % whole
    moved = np.where(moved == 0, -offsets % whole, moved)
    left = np.where(magnitudes == 0, 0, moved) + word - magnitudes
    return bits(left.astype(f"u{dtype.itemsize}").view(array.dtype)) + bits(join(model))


def best_bits(array: NDArray[Any]) -> float:
    """The smaller of `bits` and `predicted_bits`."""
    return min(bits(array), predicted_bits(array) or np.inf)


def ratios(array: NDArray[Any]) -> tuple[float, float]:
    """Order-0 bounds of the ratio of ``array``: (of all fields per block, of the top field).

    The first is the sum of the entropies of every field in every block of ``BLOCK`` words: what
    no order-0 coder of this format can pass. The second is the figure that papers quote: one
    table for the top field (a float's exponent) of the whole array, everything else raw.
    """
    blockwise = bits(array)
    width, top = fields(array)[0]
    rest = 8 * array.nbytes - width * len(top)
    topwise = entropy(np.bincount(top, minlength=256)) + rest
    raw = 8.0 * array.nbytes
    return raw / max(blockwise, 1.0), raw / max(topwise, 1.0)
