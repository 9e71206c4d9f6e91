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
    from collections.abc import Sequence

    from .buffers import Bytes
    from .config import TensorConfig
    from .dtypes import DType

_UNSIGNED = {n: np.dtype(f"u{n}") for n in (1, 2, 4, 8)}
FAST_RANK = 0  # of models in profile fast: rows and columns only, which are decoded fastest


def zero_rows(n_words: int, dtype: DType) -> tuple[int, int] | None:
    """Which rows of 64 words are looked at for zeros: (how many there are, every how many-th)."""
    n_rows = n_words // spec.ROW
    if len(dtype.spec.planes) < 2 or n_rows * spec.ROW < spec.SPARSE_MIN_WORDS:
        return None
    return n_rows, -(-n_rows // spec.SPARSE_PROBE_ROWS)


def has_zeros(sample: np.ndarray[Any, Any], dtype: DType) -> bool:
    """Whether the words of these rows, uint[n, 64], are zero often enough."""
    zeros = int(np.count_nonzero(_are_zero(sample, dtype)))
    return zeros << spec.SPARSE_PROBE_LOG >= sample.size > 0


def sparse_block_log(
    sample: np.ndarray[Any, Any], dtype: DType, n_words: int, config: TensorConfig
) -> int:
    """log2 of the words of a block, of an array with zeros of which these rows are known.

    Where few words are left of a block, header, table and states of its coders count: blocks are twice
    as large. Not where LZ is tried beside the mask, as that compares blocks.
    """
    block_log = config.block_log(dtype.spec.word_bytes)
    if config.block_size is not None or config.lz or not is_float(dtype):
        return block_log
    if n_words <= 1 << block_log or len(sample) < spec.SPARSE_PARTS:
        return block_log
    kept = ~_are_zero(sample, dtype)
    few = all(
        int(np.count_nonzero(part)) << spec.SPARSE_LARGE_LOG <= part.size
        for part in np.array_split(kept, spec.SPARSE_PARTS)
    )
    return block_log + few


def second_try(
    entries: np.ndarray[Any, Any], flags: int, block_log: int, *, packed: bool
) -> dict[str, int] | None:
    """Flags and block size with which an array whose blocks have these entries is encoded again.

    It is if no block of a sparse frame is `packed`, or a plane was too long for coders.
    """
    sizes = entries[entries < spec.CONSTANT << spec.ENTRY_CODER_SHIFT]  # of raw planes
    too_long = block_log > spec.MAX_BLOCK_LOG and (sizes > 1 << spec.MAX_BLOCK_LOG).any()
    if flags & spec.SPARSE and not packed:
        flags &= ~spec.SPARSE
    elif not too_long:
        return None
    return {"flags": flags, "block_log": min(block_log, spec.MAX_BLOCK_LOG)}


def _are_zero(words: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Which words are zero, of floats whatever their sign."""
    if is_float(dtype):
        words = words << words.dtype.type(1)
    found: np.ndarray[Any, Any] = words == 0
    return found


def is_float(dtype: DType) -> bool:
    """Whether the words have a sign at the top."""
    return dtype.spec.transform in {spec.ROTATE, spec.ROTATE_BIAS}


def unsigned(dtype: DType) -> np.dtype[Any]:
    """The NumPy type of the words."""
    return _UNSIGNED[dtype.spec.word_bytes]


def zero_sample(words: Bytes, dtype: DType) -> np.ndarray[Any, Any]:
    """The rows of the words (uint8, contiguous) that say whether to look for zeros in each block."""
    found = zero_rows(words.size // dtype.spec.word_bytes, dtype)
    if found is None:
        return np.empty((0, spec.ROW), unsigned(dtype))
    n_rows, step = found
    row_bytes = spec.ROW * dtype.spec.word_bytes
    rows = words[: n_rows * row_bytes].view(unsigned(dtype)).reshape(n_rows, spec.ROW)
    return rows[::step]


def matrix_columns(n_words: int, dtype: DType, shape: tuple[int, ...]) -> int | None:
    """Columns of the matrix for which a model is sought; None if there is none.

    Columns are the trailing dimensions, taken from the last on until there are
    `MODEL_MIN_COLUMNS`; never the first dimension.
    """
    if dtype.name not in spec.PREDICTED_TYPES or n_words < spec.MODEL_MIN_WORDS:
        return None
    n_columns = 1
    for size in shape[:0:-1]:
        n_columns *= size
        if n_columns >= spec.MODEL_MIN_COLUMNS:
            break
    return n_columns if spec.MIN_COLUMNS <= n_columns <= spec.MAX_COLUMNS else None


def measured_blocks(n_blocks: int) -> list[int]:
    """The blocks that are coded with and without a model."""
    n_measured = min(n_blocks, spec.MODEL_MEASURED_BLOCKS)
    return [k * n_blocks // n_measured for k in range(n_measured)]


def saves_enough(gain: int, n_blocks: int, model_bytes: int) -> bool:
    """Whether what a model of so many bytes saves in the measured blocks pays for all blocks."""
    return gain * n_blocks > model_bytes * min(n_blocks, spec.MODEL_MEASURED_BLOCKS)


def model_rank(profile: int) -> int:
    """The highest rank of a model in a profile."""
    return FAST_RANK if profile == spec.PROFILE_FAST else spec.MAX_RANK


def may_repeat(words: Bytes, dtype: DType) -> bool:
    """Whether the words (uint8, contiguous) repeat enough for LZ to be tried.

    Looks for short runs of words that occur twice in one of a few windows. Floats are left to
    the kernels' own look: they may have one value nearly everywhere, or nothing to find.
    """
    if is_float(dtype):
        return True
    whole, length = words.view(unsigned(dtype)), spec.LZ_PROBE_WORDS
    return repeats([whole[i : i + length] for i in repeat_windows(whole.size, dtype)], dtype)


def repeat_windows(n_words: int, dtype: DType) -> list[int]:
    """Where the windows of `LZ_PROBE_WORDS` words start in which runs are looked for."""
    left = n_words - spec.LZ_PROBE_WORDS
    if left < 0:
        return []
    n_bytes = n_words * dtype.spec.word_bytes
    n_windows = min(spec.LZ_PROBES, 1 + (n_bytes >> spec.LZ_PROBE_DISTANCE_LOG))
    return [left * (k + 1) // (n_windows + 1) for k in range(n_windows)]


def repeats(windows: Sequence[np.ndarray[Any, Any]], dtype: DType) -> bool:
    """Whether runs of words occur twice often enough in one of these windows (uint)."""
    run = spec.LZ_PROBE_RUN if dtype.spec.word_bytes > 1 else spec.LZ_PROBE_RUN_OF_BYTES
    found = 0
    for words in windows:
        window = words.astype(np.uint64)
        keys = window[: window.size - run + 1].copy()
        for i in range(1, run):
            keys = keys * np.uint64(spec.LZ_PROBE_MULTIPLIER) + window[i : i + keys.size]
        found += keys.size - np.unique(keys).size
    return bool(windows) and found << spec.LZ_PROBE_LOG >= len(windows) * spec.LZ_PROBE_WORDS


def find_model(words: Bytes, dtype: DType, shape: tuple[int, ...], profile: int) -> Any:
    """The `kernels.predictor.Model` that promises a gain, or None."""
    n_columns = matrix_columns(prod(shape), dtype, shape)
    if n_columns is None:
        return None
    from .kernels.predictor_fit import fit  # brings Numba

    matrix = words.view(unsigned(dtype)).reshape(-1, n_columns)
    return fit(matrix, dtype.name, model_rank(profile))
