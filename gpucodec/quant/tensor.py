# SPDX-License-Identifier: Apache-2.0
"""Quantize and dequantize: codes, scales, and the values that must be kept as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import buffers
from ..dtypes import BY_NAME, DType
from ..errors import UnsupportedError
from ..kernels import quantspec as spec
from . import cpu as engine, wide
from .axis import axis_last, decided, fill, is_moved, shape_of

if TYPE_CHECKING:
    from .config import QuantizeConfig
    from .cpu import Array

NATIVE = ("float32", "bfloat16", "float16")  # in the order of the kernels' numbers


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized tensor as a structure of arrays.

    If blocks run along another axis than the last, that axis has been moved to the end, here and
    in `positions`. Rows of 4-bit codes start at a byte; the low nibble is the even element's
    (nf4: the high one).
    """

    config: QuantizeConfig
    dtype: str
    """Data type of the original tensor."""
    shape: tuple[int, ...]
    """Shape of the original tensor."""
    codes: np.ndarray[Any, np.dtype[np.uint8]]
    """uint8[..., bytes of a row]."""
    scales: Array
    """[..., blocks of a row], of the scale type."""
    offsets: Array | None
    """The second parameter of blocks, like `scales`: the minimum (int4_asym, log8)."""
    tensor_scale: float
    """Factor of all scales of type "e4m3", a float32; 1 otherwise."""
    positions: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Ascending element numbers of the exceptions."""
    values: Array
    """Their values, exactly, in the original type."""

    def __post_init__(self) -> None:
        if self.config.axis == "auto":
            message = "the axis of quantized blocks is a number, not auto"
            raise ValueError(message)
        layout = engine.layout_of(shape_of(self.shape, self.config.axis), self.config)
        scale = (spec.SCALE_DTYPES[self.config.scale_code], layout.scales_shape)
        expected = {"codes": ("uint8", layout.codes_shape), "scales": scale}
        expected["values"] = (self.dtype, self.positions.shape)
        if self.config.spec.has_offsets:
            expected["offsets"] = scale
        for name, needed in expected.items():
            array = getattr(self, name)
            found = None if array is None else (array.dtype.name, array.shape)
            if found != needed:
                message = f"{name} are {found}, for this tensor they must be {needed}"
                raise ValueError(message)
        n = layout.size
        if self.positions.size and not 0 <= self.positions.min() <= self.positions.max() < n:
            message = f"positions of exceptions are not from 0 to {n - 1}"
            raise ValueError(message)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (self.codes, self.scales, self.offsets, self.positions, self.values)
        return sum(part.nbytes for part in parts if part is not None)

    def dequantize(self, out: Any = None, dtype: Any = None, *, threads: int | None = None) -> Any:
        """See `gpucodec.dequantize`."""
        return dequantize(self, out, dtype, threads=threads)

    def to_torchao(self, *, exceptions: str = "raise") -> Any:
        """See `gpucodec.quant.interop.to_torchao`."""
        from . import interop

        return interop.to_torchao(self, exceptions=exceptions)

    def to_bitsandbytes(self, *, exceptions: str = "raise") -> Any:
        """See `gpucodec.quant.interop.to_bitsandbytes`."""
        from . import interop

        return interop.to_bitsandbytes(self, exceptions=exceptions)

    def to_gguf(self, *, exceptions: str = "raise") -> Any:
        """See `gpucodec.quant.interop.to_gguf`."""
        from . import interop

        return interop.to_gguf(self, exceptions=exceptions)


def quantize(
    array: Any, config: QuantizeConfig, *, threads: int | None = None, first_index: int = 0
) -> Quantized:
    """Quantize an array.

    Values that are not finite, subnormal or negative zero, that the format cannot reach, or that
    would break the bound of `config`, are kept exactly as exceptions, and do not touch the scale
    of their neighbours.

    Parameters
    ----------
    array
        float32, bfloat16, float16, float64 or float8; any shape; NumPy, torch (CPU), DLPack or
        any buffer. float64 and float8 are quantized as float32, checked in their own type.
    config
        How to quantize it.
    threads
        The most threads to use; all that `set_threads` allows by default.
    first_index
        Number of the first element, if the array is a part of a larger one: with stochastic
        rounding, parts that hold whole rows and whole blocks give what the whole would give.

    Raises
    ------
    TypeError
        Not an array, tensor or buffer; or an object array.
    UnsupportedError
        Not an array of floats, or on a device.
    ValueError
        The axis is not one of the array.

    """
    raw, dtype, shape = buffers.elements(array)
    require_float(dtype)
    items = raw.view(f"u{dtype.itemsize}").reshape(shape)
    config = decided(config, items, dtype)
    items = axis_last(items, config.axis)
    layout = engine.layout_of(items.shape, config)
    source = items.reshape(-1)
    if dtype.name in NATIVE:
        number = NATIVE.index(dtype.name)
        planes, flags = engine.quantize(source, number, config, layout, first_index, threads)
    else:
        planes, flags = wide.quantize(
            source.view(dtype.numpy), config, layout, first_index, threads
        )
    positions = np.empty(0, np.int64) if flags is None else np.flatnonzero(flags)
    return Quantized(
        config,
        dtype.name,
        shape,
        *planes,
        positions,
        source[positions].view(dtype.numpy),
    )


def dequantize(
    quantized: Quantized, out: Any = None, dtype: Any = None, *, threads: int | None = None
) -> Any:
    """Inverse of `quantize`.

    Parameters
    ----------
    quantized
        From `quantize` or `decode_quantized`.
    out
        Where to put the values: a writable array, tensor or buffer of exactly the right number
        of bytes.
    dtype
        Another float type to return; an error bound holds for the original one.
    threads
        The most threads to use.

    Returns
    -------
    `out`, or else an array of the tensor's shape and data type.

    """
    target = BY_NAME[quantized.dtype] if dtype is None else _float_type(dtype)
    array = np.empty(quantized.shape, target.numpy) if out is None else out
    filled, finish = buffers.output(array, prod(quantized.shape) * target.itemsize)
    axis = quantized.config.axis
    assert isinstance(axis, int)
    moved = is_moved(axis, len(quantized.shape))
    layout = engine.layout_of(shape_of(quantized.shape, axis), quantized.config)
    flat = np.empty(layout.size, target.numpy) if moved else filled.view(target.numpy)
    planes = engine.Planes(
        quantized.codes, quantized.scales, quantized.offsets, quantized.tensor_scale
    )
    if target.name in NATIVE:
        engine.dequantize(
            planes, quantized.config, layout, NATIVE.index(target.name), flat, threads
        )
    else:
        wide.dequantize(planes, quantized.config, layout, flat, threads)
    if quantized.positions.size:
        with np.errstate(all="ignore"):
            flat[quantized.positions] = quantized.values.astype(target.numpy, copy=False)
    if moved:
        result = filled.view(target.numpy).reshape(quantized.shape)
        fill(result, np.moveaxis(flat.reshape(layout.shape), -1, axis))
    finish()
    return array


def piece(quantized: Quantized, first: int, last: int) -> tuple[Quantized, int]:
    """The rows that hold elements `first` to `last` - 1, as a tensor, and its first element's
    number; of rows of whole blocks only the blocks. Elements are counted with the axis moved.
    """
    assert isinstance(quantized.config.axis, int)
    layout = engine.layout_of(shape_of(quantized.shape, quantized.config.axis), quantized.config)
    row = layout.row if layout.row % layout.block else layout.block
    low, high = first // row, -(-last // row)
    start, stop = np.searchsorted(quantized.positions, [low * row, high * row])

    def rows(plane: Array) -> Array:
        return plane.reshape(layout.size // row, -1)[low:high]

    part = replace(
        quantized,
        config=replace(quantized.config, axis=-1),
        shape=(high - low, row),
        codes=rows(quantized.codes),
        scales=rows(quantized.scales),
        offsets=None if quantized.offsets is None else rows(quantized.offsets),
        positions=quantized.positions[start:stop] - low * row,
        values=quantized.values[start:stop],
    )
    return part, low * row


def is_float(dtype: DType) -> bool:
    """Whether arrays of this type can be quantized."""
    return dtype.name in NATIVE or wide.takes(dtype.name)


def require_float(dtype: DType) -> None:
    """Refuse a type whose arrays cannot be quantized."""
    if not is_float(dtype):
        message = f"cannot quantize {dtype.name}: not a float type"
        raise UnsupportedError(message)


def _float_type(dtype: Any) -> DType:
    """The format's type for a NumPy, ml_dtypes or torch data type or its name."""
    name = (
        str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else np.dtype(dtype).name
    )
    found = BY_NAME.get(name)
    if found is None or not is_float(found):
        message = f"cannot dequantize to {dtype}: not a float type of the format"
        raise UnsupportedError(message)
    return found
