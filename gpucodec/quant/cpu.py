# SPDX-License-Identifier: Apache-2.0
"""The quantizer's CPU engine: Numba kernels over runs of blocks, from a pool of threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import threads as pool
from ..dtypes import BY_NAME
from ..kernels import quantspec as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .config import ErrorBound, QuantizeConfig

    Array = np.ndarray[Any, np.dtype[Any]]

RUN_BYTES = 1 << 20  # of input: some 0.2 ms of work
FLOAT32_MAX = float(np.finfo(np.float32).max)


class _Scratch(threading.local):
    """Working memory of one thread; untouched pages cost nothing."""

    def __init__(self) -> None:
        self.blocks = np.empty((4, spec.SCRATCH_BYTES), np.uint8)
        self.address = self.blocks.ctypes.data


_scratch = _Scratch()


class Planes(NamedTuple):
    """What the kernels write and read; see `gpucodec.Quantized`."""

    codes: Array
    scales: Array
    offsets: Array | None
    tensor_scale: float


@dataclass(frozen=True)
class Layout:
    """An array as rows along its last axis, each cut into blocks."""

    shape: tuple[int, ...]
    block: int
    bits: int

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def row(self) -> int:
        """Elements of a row."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes that the codes of a row take."""
        return -(-self.row * self.bits // 8)

    @property
    def n_blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.row // self.block)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the codes, uint8."""
        return (*self.shape[:-1], self.row_bytes)

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """Shape of the scales, and of the offsets."""
        return (*self.shape[:-1], self.n_blocks)

    def runs(self, size: int) -> Iterator[tuple[int, int, int]]:
        """(first element, rows, elements of a row) of pieces worth a job, elements of `size` bytes.

        Rows of whole blocks are one long row. Long rows are cut at blocks, else some go together.
        """
        if not self.size:
            return
        n_rows = self.size // self.row
        rows, row = (1, self.size) if self.row % self.block == 0 else (n_rows, self.row)
        most = max(self.block, RUN_BYTES // size // self.block * self.block)
        if row > most:
            for r in range(rows):
                for start in range(0, row, most):
                    yield r * row + start, 1, min(most, row - start)
            return
        step = max(1, most // row)
        for r in range(0, rows, step):
            yield r * row, min(step, rows - r), row

    def places(self, first: int) -> tuple[int, int]:
        """Byte of the codes and number of the block that element `first` starts."""
        if self.row % self.block == 0:
            return first * self.bits // 8, first // self.block
        r, column = divmod(first, self.row)
        return (
            r * self.row_bytes + column * self.bits // 8,
            r * self.n_blocks + column // self.block,
        )


def layout_of(shape: tuple[int, ...], config: QuantizeConfig) -> Layout:
    """How an array of this shape, the blocks' axis last, is cut; a scalar is one row."""
    return Layout(shape or (1,), config.block, config.spec.bits)


def quantize(
    source: Array,
    number: int,
    config: QuantizeConfig,
    layout: Layout,
    first_index: int,
    threads: int | None,
) -> tuple[Planes, Array | None]:
    """Quantize the flat bit patterns of an array; flags of the exceptions, None without any."""
    from ..kernels.quantize import quantizer, tables

    row = config.spec
    kind = BY_NAME[spec.SCALE_DTYPES[config.scale_code]].numpy
    codes = np.empty(layout.codes_shape, np.uint8)
    scales = np.empty(layout.scales_shape, kind)
    offsets = np.empty_like(scales) if row.has_offsets else None
    flags = np.zeros(source.size, np.bool_)  # pages that no exception touches cost nothing
    rounding = spec.ROUNDINGS.index(config.rounding)
    kernel = quantizer(row.element, number, rounding)
    encoding, decoding = tables(row.element, rounding)
    tensor_scale = _tensor_scale(source, number, config, threads)
    absolute, relative = limits(config.bound, lambda: extent(source, number, threads))
    both_keys = keys(config.seed)
    size, n_bytes = source.itemsize, kind.itemsize
    starts = [part.ctypes.data if part is not None else 0 for part in (source, codes, scales)]
    offsets_start = 0 if offsets is None else offsets.ctypes.data
    flags_start = flags.ctypes.data
    counts = []

    def job(first: int, n_rows: int, n: int) -> Any:
        byte, block = layout.places(first)

        def work() -> None:
            counts.append(
                kernel(
                    starts[0] + first * size,
                    n_rows,
                    n,
                    layout.block,
                    starts[1] + byte,
                    starts[2] + block * n_bytes,
                    offsets_start + block * n_bytes,
                    flags_start + first,
                    config.scale_code,
                    config.mode_code,
                    row.largest,
                    row.power,
                    row.mantissa,
                    tensor_scale,
                    config.bound is not None,
                    absolute,
                    relative,
                    (first_index + first) % (1 << 64),
                    *both_keys,
                    encoding,
                    decoding,
                    _scratch.address,
                )
            )

        return work

    pool.run((job(*run) for run in layout.runs(size)), threads)
    planes = Planes(codes, scales, offsets, float(tensor_scale))
    return planes, flags if sum(counts) else None


def dequantize(
    planes: Planes,
    config: QuantizeConfig,
    layout: Layout,
    number: int,
    out: Array,
    threads: int | None,
) -> None:
    """Fill `out`, flat and of the type `number`, with what the codes mean."""
    from ..kernels.dequantize import dequantizer
    from ..kernels.quantize import tables

    row = config.spec
    assert out.size == layout.size, (out.size, layout.size)
    assert planes.codes.size == prod(layout.codes_shape)
    assert planes.scales.size == prod(layout.scales_shape)
    codes, scales = (np.ascontiguousarray(part) for part in (planes.codes, planes.scales))
    offsets = np.ascontiguousarray(planes.offsets) if planes.offsets is not None else scales
    assert offsets.size == scales.size
    kernel = dequantizer(row.element, number)
    table = tables(row.element, 0)[1]
    n_bytes = scales.itemsize
    starts = [part.ctypes.data for part in (codes, scales, offsets, out)]

    def job(first: int, n_rows: int, n: int) -> Any:
        byte, block = layout.places(first)
        return lambda: kernel(
            starts[0] + byte,
            n_rows,
            n,
            layout.block,
            starts[1] + block * n_bytes,
            starts[2] + block * n_bytes,
            starts[3] + first * out.itemsize,
            config.scale_code,
            planes.tensor_scale,
            table,
            _scratch.address,
        )

    pool.run((job(*run) for run in layout.runs(4)), threads)


def extent(source: Array, number: int, threads: int | None) -> tuple[float, float, float]:
    """Smallest, largest and largest magnitude of the finite values; 0, 0 and 0 without any."""
    from ..kernels.quantize import measurer

    kernel = measurer(number)
    step = RUN_BYTES // source.itemsize
    start, found = source.ctypes.data, []

    def job(first: int) -> Any:
        n = min(step, source.size - first)
        return lambda: found.append(kernel(start + first * source.itemsize, n, _scratch.address))

    pool.run((job(first) for first in range(0, source.size, step)), threads)
    sound = [one for one in found if one[0] <= one[1]]
    if not sound:
        return 0.0, 0.0, 0.0
    least, most, peak = zip(*sound, strict=True)
    return min(least), max(most), max(peak)


def _tensor_scale(
    source: Array, number: int, config: QuantizeConfig, threads: int | None
) -> np.float32:
    """Factor of all scales of type "e4m3", so that the largest block scale is the largest E4M3."""
    if config.scale_code != spec.E4M3_SCALE:
        return np.float32(1)
    peak = np.float32(extent(source, number, threads)[2])
    return peak / np.float32(spec.E4M3_LARGEST * config.spec.largest)


def limits(
    bound: ErrorBound | None, measure: Callable[[], tuple[float, float, float]]
) -> tuple[np.float32, np.float32]:
    """Absolute and relative part of what the kernel checks, in float32, never above the promise.

    `measure` finds the `extent` of the array, if it is needed.
    """
    if bound is None:
        return np.float32(np.inf), np.float32(0)
    if bound.kind == spec.REL:  # the product with a magnitude is rounded, perhaps up
        return np.float32(0), _rounded_down(bound.value * (1 - 2.0**-22))
    if bound.kind == spec.ABS:
        return _rounded_down(bound.value), np.float32(0)
    least, most, _ = measure()
    return _rounded_down(bound.value * (most - least) * (1 - 2.0**-50)), np.float32(0)


def _rounded_down(x: float) -> np.float32:
    nearest = np.float32(min(x, FLOAT32_MAX))
    return nearest if float(nearest) <= x else np.nextafter(nearest, np.float32(0))


def keys(seed: int) -> tuple[int, int]:
    """Two 32-bit keys: SplitMix64 of the seed, cut in halves."""
    z = (seed + 0x9E3779B97F4A7C15) % (1 << 64)
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    z = (z ^ z >> 27) * 0x94D049BB133111EB % (1 << 64)
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32
