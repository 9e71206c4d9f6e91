# SPDX-License-Identifier: Apache-2.0
"""The axis along which blocks run: moved to the end for the kernels, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..dtypes import DType
    from .config import QuantizeConfig
    from .cpu import Array

_STRIP = 16  # elements of the moved axis that are copied together: a cache line of float32


def is_moved(axis: int, n_dims: int) -> bool:
    """Whether blocks along `axis` run along another axis than the last."""
    return n_dims > 1 and axis % n_dims != n_dims - 1


def shape_of(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with `axis` moved to the end."""
    if not is_moved(axis, len(shape)):
        return shape
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :], shape[axis])


def require_axis(axis: int, n_dims: int) -> None:
    """Refuse an axis that an array does not have; a scalar has one."""
    if not -max(n_dims, 1) <= axis < max(n_dims, 1):
        message = f"axis {axis} is out of range for an array of {n_dims} dimensions"
        raise ValueError(message)


def axis_last(array: Array, axis: Any) -> Array:
    """The array with `axis` moved to the end, in C order."""
    n_dims = array.ndim
    require_axis(axis, n_dims)
    if not is_moved(axis, n_dims):
        return array
    moved = np.empty(shape_of(array.shape, axis), array.dtype)
    fill(moved, np.moveaxis(array, axis, -1))
    return moved


def fill(target: Array, source: Array) -> None:
    """Copy from another memory order, in strips as wide as a cache line."""
    for start in range(0, target.shape[-1], _STRIP):
        strip = slice(start, start + _STRIP)
        target[..., strip] = source[..., strip]


def decided(config: QuantizeConfig, items: Array, dtype: DType) -> QuantizeConfig:
    """`config` with "auto" decided and negative numbers kept for the last axis only."""
    if config.axis == "auto":
        return replace(config, axis=_closer_axis(items.view(dtype.numpy), config.block))
    n_dims = items.ndim
    if -n_dims <= config.axis < n_dims and not is_moved(config.axis, n_dims):
        return replace(config, axis=-1)
    return replace(config, axis=config.axis % n_dims) if -n_dims <= config.axis < 0 else config


def _closer_axis(array: Array, block: int) -> int:
    """The axis, first or last, along which the blocks of log8 span less; the last of equals."""
    if array.ndim < 2 or not array.size:
        return -1
    from ..kernels.spans import spans

    with np.errstate(all="ignore"):
        narrow = np.ascontiguousarray(array, np.float32).view(np.uint32)
    along_rows = along_columns = 0.0
    room = np.empty((2, narrow.shape[-1]), np.uint32)
    for matrix in narrow.reshape(narrow.shape[0], -1, narrow.shape[-1]).swapaxes(0, 1):
        one = spans(np.ascontiguousarray(matrix), block, *room)
        along_rows, along_columns = along_rows + one[0], along_columns + one[1]
    return 0 if along_columns < along_rows else -1
