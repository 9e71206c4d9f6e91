# SPDX-License-Identifier: Apache-2.0
"""Data types that the format has no code for, seen as ones that it has."""

from __future__ import annotations

import numpy as np

from .dtypes import BY_NAME

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def carrier(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The format's data type under which the memory of a `dtype` array is encoded, as it lies.

    Types of the format carry themselves. Times travel as int64, text as its code points, numbers
    of the other byte order as unsigned words, and all else (byte strings, structures, long
    doubles) as bytes. The item size of `dtype` is a whole number of the carrier's.

    Raises
    ------
    TypeError
        Objects and variable-length strings: an array of them holds pointers, not values.

    """
    if dtype.hasobject or dtype.kind == "T":
        message = f"cannot encode {dtype}: its arrays hold pointers, not values"
        raise TypeError(message)
    known = BY_NAME.get(dtype.name)
    if known is not None and dtype.byteorder != ">":
        return known.numpy
    if dtype.kind == "U":
        return np.dtype(np.uint32)
    if dtype.kind in "mM" and dtype.byteorder != ">":
        return np.dtype(np.int64)
    if known is not None or dtype.kind in "mM":
        words = known.spec.words if known is not None else 1
        return np.dtype(_UNSIGNED[dtype.itemsize // words])
    return np.dtype(np.uint8)
