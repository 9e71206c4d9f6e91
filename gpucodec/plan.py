# SPDX-License-Identifier: Apache-2.0
"""What an encoder tries for an array as a whole: is it worth looking for zeros, or for a model?

Both answers come from a few thousand words, in NumPy, so that plain arrays do not wait for the
kernels that they do not need. The rules are in docs/architecture.md.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernels import spec

if TYPE_CHECKING:
    from .buffers import Bytes
    from .dtypes import DType

_UNSIGNED = {n: np.dtype(f"u{n}") for n in (1, 2, 4, 8)}
FAST_RANK = 0  # of models in profile fast: rows and columns only, which are decoded fastest


def may_be_sparse(words: Bytes, dtype: DType) -> bool:
    """Whether the words (uint8, contiguous) have zeros enough to look for them in each block."""
    row = dtype.spec
    n_rows = words.size // (row.word_bytes * spec.ROW)
    if len(row.planes) < 2 or n_rows * spec.ROW < spec.SPARSE_MIN_WORDS:
        return False
    rows = words[: n_rows * spec.ROW * row.word_bytes].view(_UNSIGNED[row.word_bytes])
    sample = rows.reshape(n_rows, spec.ROW)[:: -(-n_rows // spec.SPARSE_PROBE_ROWS)]
    if row.transform in {spec.ROTATE, spec.ROTATE_BIAS}:
        sample = sample << sample.dtype.type(1)  # without the sign
    zeros = int(np.count_nonzero(sample == 0))
    return zeros << spec.SPARSE_PROBE_LOG >= sample.size


def matrix(words: Bytes, dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """The words as the matrix for which a model is sought, uint[n_rows, n_columns]; or None.

    Columns are the trailing dimensions, taken from the last on until there are
    `MODEL_MIN_COLUMNS`; never the first dimension.
    """
    n_words = prod(shape)
    if dtype.name not in spec.PREDICTED_TYPES or n_words < spec.MODEL_MIN_WORDS:
        return None
    n_columns = 1
    for size in shape[:0:-1]:
        n_columns *= size
        if n_columns >= spec.MODEL_MIN_COLUMNS:
            break
    if not spec.MIN_COLUMNS <= n_columns <= spec.MAX_COLUMNS:
        return None
    return words.view(_UNSIGNED[dtype.spec.word_bytes]).reshape(-1, n_columns)


def may_repeat(words: Bytes, dtype: DType) -> bool:
    """Whether the words (uint8, contiguous) repeat enough for LZ to be tried.

    Looks for short runs of words that occur twice in one of a few windows. Floats are left to
    the kernels' own look: they may have one value nearly everywhere, or nothing to find.
    """
    row = dtype.spec
    if row.transform in {spec.ROTATE, spec.ROTATE_BIAS}:
        return True
    whole = words.view(f"u{row.word_bytes}")
    length = spec.LZ_PROBE_WORDS
    if whole.size < length:
        return False
    run = spec.LZ_PROBE_RUN if row.word_bytes > 1 else spec.LZ_PROBE_RUN_OF_BYTES
    n_windows = min(spec.LZ_PROBES, 1 + (words.size >> spec.LZ_PROBE_DISTANCE_LOG))
    found = 0
    for k in range(n_windows):
        start = (whole.size - length) * (k + 1) // (n_windows + 1)
        window = whole[start : start + length].astype(np.uint64)
        keys = window[: length - run + 1].copy()
        for i in range(1, run):
            keys = keys * np.uint64(spec.LZ_PROBE_MULTIPLIER) + window[i : i + keys.size]
        found += keys.size - np.unique(keys).size
    return found << spec.LZ_PROBE_LOG >= n_windows * length


def find_model(words: Bytes, dtype: DType, shape: tuple[int, ...], profile: int) -> Any:
    """The `kernels.predictor.Model` that promises a gain, or None."""
    found = matrix(words, dtype, shape)
    if found is None:
        return None
    from .kernels.predictor_fit import fit  # brings Numba

    rank = FAST_RANK if profile == spec.PROFILE_FAST else spec.MAX_RANK
    return fit(found, dtype.name, rank)
