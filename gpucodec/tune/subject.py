# SPDX-License-Identifier: Apache-2.0
"""What a tensor looks like to the tuner: a few figures from a few thousand of its elements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

FEATURES: Final = 6
RUNS: Final = 8
PROBES: Final = 64  # each a line of memory that nothing has read yet
RUN: Final = 128  # elements that are looked at in each of the runs


@dataclass(frozen=True)
class Subject:
    """A tensor that is to be encoded: what it is, and its elements or a part of them."""

    name: str
    kind: str
    array: Array
    nbytes: int

    @cached_property
    def family(self) -> str:
        """Tensors that are encoded alike."""
        shape = "matrix" if self.array.ndim > 1 else "vector"
        zeros = " with zeros" if has_zeros(self.array) else ""
        return f"{self.kind} {self.array.dtype} {shape}{zeros}"


def features(array: Array) -> list[float]:
    """Type, zeros, entropies of the highest and lowest byte, repetition; about 0..10 each."""
    flat = _runs(array.reshape(-1), RUN)
    if not flat.size:
        return [0.0] * FEATURES
    size = flat.dtype.itemsize
    raw = np.ascontiguousarray(flat).view(np.uint8).reshape(-1, size)
    words = raw.view(f"u{size}")[:, 0] if size in {1, 2, 4, 8} else raw[:, 0]
    top: Array = raw[:, -1].astype(np.uint16)
    if size > 1:  # of floats, the exponent without the sign
        top = (top << 1 | raw[:, -2] >> 7) & 255
    order = np.sort(words)
    found = [
        4.0 * np.log2(size),
        4.0 * (flat.dtype.kind not in "iub"),
        8.0 * (1 - np.count_nonzero(words) / len(words)),
        _entropy(top),
        _entropy(raw[:, 0]),
        8.0 * np.count_nonzero(order[1:] != order[:-1]) / len(words),
    ]
    return [round(float(x), 3) for x in found]


def has_zeros(array: Array) -> bool:
    """Whether more than a quarter of some elements are zero: those are encoded otherwise."""
    flat = array.reshape(-1)
    probes = flat[:: max(1, flat.size // PROBES)]
    return bool(np.count_nonzero(probes) < 0.75 * min(flat.size, PROBES))


def sample(array: Array, nbytes: int) -> Array:
    """About so many bytes of an array: whole rows from the middle, as the codec sees rows."""
    if array.ndim < 2 or array.nbytes <= nbytes:  # noqa: PLR2004
        flat = array.reshape(-1)
        return np.ascontiguousarray(_runs(flat, max(1, nbytes // (RUNS * array.dtype.itemsize))))
    row_bytes = array.nbytes // len(array)
    n = min(len(array), max(1, nbytes // max(1, row_bytes)))
    start = (len(array) - n) // 2
    return np.ascontiguousarray(array[start : start + n])


def _runs(flat: Array, run: int) -> Array:
    """Evenly spaced stretches of a vector."""
    if flat.size <= RUNS * run:
        return flat
    starts = np.linspace(0, flat.size - run, RUNS).astype(np.int64)
    return np.concatenate([flat[start : start + run] for start in starts])


def _entropy(symbols: Array) -> float:
    counts = np.bincount(symbols)
    p = counts[counts > 0] / len(symbols)
    return float(-(p * np.log2(p)).sum())
