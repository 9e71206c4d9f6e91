# SPDX-License-Identifier: Apache-2.0
"""How far log8's values lie apart along each axis of a matrix: that decides which way blocks run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .jit import SOURCES, entry_point
from .lanes import INFINITY_BITS

_NORMAL = np.uint32(1 << 23)
_USABLE = np.uint32(INFINITY_BITS - (1 << 23))
_LARGEST = np.uint32(0xFFFFFFFF)


def _entry_point(sources: int) -> Any:
    @entry_point(
        types.UniTuple(types.float64, 2)(
            types.Array(types.uint32, 2, "C", readonly=True),
            types.int64,
            types.Array(types.uint32, 1, "C"),
            types.Array(types.uint32, 1, "C"),
        )
    )
    def spans(patterns, block, low, high):
        """Sum over the elements of their block's extent in units of the last place, for blocks of
        `block` elements along the rows, and along the columns, of float32 bits.

        Only normal values above 0 count. `low` and `high` are room for a row each. The sums are of integers below 2^53: exact.
        """
        assert sources
        n_rows, row = patterns.shape
        along_rows = along_columns = 0.0
        for first in range(0, n_rows, block):
            last = min(first + block, n_rows)
            for j in range(row):
                low[j], high[j] = _LARGEST, np.uint32(0)
            for i in range(first, last):
                for start in range(0, row, block):
                    stop = min(start + block, row)
                    least, most = _LARGEST, np.uint32(0)
                    for j in range(start, stop):  # subtracting sends what does not count far up
                        above = patterns[i, j] - _NORMAL
                        usable = above < _USABLE
                        x = above if usable else _LARGEST
                        y = above if usable else np.uint32(0)
                        least = x if x < least else least
                        most = y if y > most else most
                        low[j] = x if x < low[j] else low[j]
                        high[j] = y if y > high[j] else high[j]
                    if least < most:
                        along_rows += np.float64(most - least) * (stop - start)
            for j in range(row):
                if low[j] < high[j]:
                    along_columns += np.float64(high[j] - low[j]) * (last - first)
        return along_rows, along_columns

    return spans


spans = _entry_point(SOURCES)
