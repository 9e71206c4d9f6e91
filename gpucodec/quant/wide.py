# SPDX-License-Identifier: Apache-2.0
"""Types that are quantized as float32: float64 and float8. Rare, so plain NumPy around the engine.

They are checked in their own type: what float32 cannot hold, and what would not come back within
the bound or as a finite number, is an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import quantspec as spec
from . import cpu as engine

if TYPE_CHECKING:
    from .config import ErrorBound, QuantizeConfig
    from .cpu import Array, Layout, Planes

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def takes(name: str) -> bool:
    """Whether arrays of this type are quantized as float32."""
    return name == "float64" or name in _FLOAT8


def quantize(
    source: Array,
    config: QuantizeConfig,
    layout: Layout,
    first_index: int,
    threads: int | None,
) -> tuple[Planes, Array | None]:
    """As the engine's `quantize`, for a flat array of its own type."""
    from dataclasses import replace

    with np.errstate(all="ignore"):
        narrow = source.astype(np.float32)
        exact = source.astype(np.float64)
    plain = replace(config, bound=None)
    planes, flags = engine.quantize(narrow.view(np.uint32), 0, plain, layout, first_index, threads)
    decoded = np.empty(source.size, source.dtype)
    dequantize(planes, config, layout, decoded, threads)
    with np.errstate(all="ignore"):
        back = decoded.astype(np.float64)
        magnitude = np.abs(exact)
        bad = ~(magnitude <= engine.FLOAT32_MAX) | ~np.isfinite(back)
        bad |= (magnitude != 0) & (magnitude < max(_smallest_normal(source.dtype), 2.0**-126))
        if config.bound is not None:
            error = np.abs(exact - back)
            bad |= ~((error <= _allowed(config.bound, exact, magnitude)) | (error == 0))
    if flags is not None:
        bad |= flags
    return planes, bad if bad.any() else None


def dequantize(
    planes: Planes, config: QuantizeConfig, layout: Layout, out: Array, threads: int | None
) -> None:
    """As the engine's `dequantize`, for `out` of its own type."""
    decoded = np.empty(out.size, np.float32)
    engine.dequantize(planes, config, layout, 0, decoded, threads)
    with np.errstate(all="ignore"):
        out[:] = decoded.astype(out.dtype)


def _smallest_normal(dtype: Any) -> float:
    if dtype == np.float64:
        return float(np.finfo(np.float64).tiny)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]


def _allowed(bound: ErrorBound, exact: Array, magnitude: Array) -> Any:
    """The largest error that surely keeps the bound, though it is computed in float64."""
    margin = 1 - 2.0**-50
    if bound.kind == spec.REL:
        return bound.value * margin * magnitude
    if bound.kind == spec.ABS:
        return bound.value * margin
    finite = exact[np.isfinite(exact)]
    return bound.value * margin * (finite.max() - finite.min()) if finite.size else 0.0
