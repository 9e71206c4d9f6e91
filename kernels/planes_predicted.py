# SPDX-License-Identifier: Apache-2.0
"""Planes of predicted frames, and those of all others: `split` and `merge` for either."""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .planes import merge_rows, merger, row_kernel, split_rows, splitter

_split_2x3, _merge_2x3 = row_kernel(2, 3, merge=False), row_kernel(2, 3, merge=True)
_split_2x4, _merge_2x4 = row_kernel(2, 4, merge=False), row_kernel(2, 4, merge=True)
_split_4x6, _merge_4x6 = row_kernel(4, 6, merge=False), row_kernel(4, 6, merge=True)


@kernel
def _split_rows(address, n_rows, word_bytes, transform, n_planes, table):  # type: ignore[no-untyped-def]
    kind = np.uint64(transform)
    if word_bytes == 2 and n_planes == 3:
        _split_2x3(address, n_rows, kind, table)
    elif word_bytes == 2 and n_planes == 4:
        _split_2x4(address, n_rows, kind, table)
    elif word_bytes == 4 and n_planes == 6:
        _split_4x6(address, n_rows, kind, table)
    else:
        split_rows(address, n_rows, word_bytes, transform, n_planes, table)


@kernel
def _merge_rows(address, n_rows, word_bytes, transform, n_planes, table):  # type: ignore[no-untyped-def]
    kind = np.uint64(transform)
    if word_bytes == 2 and n_planes == 3:
        _merge_2x3(address, n_rows, kind, table)
    elif word_bytes == 2 and n_planes == 4:
        _merge_2x4(address, n_rows, kind, table)
    elif word_bytes == 4 and n_planes == 6:
        _merge_4x6(address, n_rows, kind, table)
    else:
        merge_rows(address, n_rows, word_bytes, transform, n_planes, table)


split, merge = splitter(_split_rows), merger(_merge_rows)
