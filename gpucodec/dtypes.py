# SPDX-License-Identifier: Apache-2.0
"""The data types of the format and their NumPy, ml_dtypes and torch names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from .errors import UnsupportedError
from .kernels.spec import DTYPES, DTypeSpec


@dataclass(frozen=True)
class DType:
    """A data type: its row in the format's table, and what NumPy calls it."""

    spec: DTypeSpec

    @property
    def name(self) -> str:
        """The name that NumPy, ml_dtypes, torch and zarr share."""
        return self.spec.name

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.spec.word_bytes * self.spec.words

    @cached_property
    def bits(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Plane widths, uint8[n_planes], as the kernels take them."""
        return np.array(self.spec.planes, np.uint8)

    @cached_property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy data type; ml_dtypes provides bfloat16 and float8."""
        try:
            return np.dtype(self.name)
        except TypeError:
            pass
        try:
            import ml_dtypes  # only those who use such types pay for it

            found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, self.name))
        except (ImportError, AttributeError) as error:
            message = f"NumPy needs ml_dtypes (>= 0.5) for {self.name}: {error}"
            raise UnsupportedError(message) from error
        return found


BY_CODE = {row.code: DType(row) for row in DTYPES}
BY_NAME = {dtype.name: dtype for dtype in BY_CODE.values()}


@lru_cache  # NumPy makes a name anew each time
def from_numpy(dtype: np.dtype[np.generic]) -> DType:
    """The format's type for a NumPy data type of any byte order.

    Raises
    ------
    TypeError
        Object arrays: they hold pointers, not values.
    UnsupportedError
        The format has no such type; the message says what to view the array as.

    """
    found = BY_NAME.get(dtype.name)
    if found is not None:
        return found
    if dtype.hasobject:
        message = f"cannot encode {dtype}: object arrays hold pointers, not values"
        raise TypeError(message)
    view = "int64" if dtype.kind in "mM" else "uint8"
    message = f"the format has no type {dtype}; encode array.view('{view}') instead"
    raise UnsupportedError(message)
