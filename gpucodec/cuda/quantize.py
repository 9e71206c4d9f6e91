# SPDX-License-Identifier: Apache-2.0
"""Launches that quantize a tensor on a device, and that dequantize many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import BY_NAME
from ..kernels import quantcuda as kernels, quantspec as spec
from ..quant import cpu
from ..quant.axis import is_moved, shape_of
from ..quant.cpu import Layout, layout_of
from ..quant.frame import WIDE_POSITIONS
from ..quant.tensor import NATIVE
from .batch import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from ..quant import QuantizeConfig
    from .device import Device, Memory

_FOUND = np.dtype([("n_exceptions", "<u8"), ("tensor_scale", "<f4"), ("wrong", "<u4")])


@dataclass
class Plane:
    """One of the arrays of a quantized tensor, or a frame: as all libraries know arrays."""

    memory: Memory
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    device: Any = field(default_factory=lambda: SimpleNamespace(id=0))
    """Its `id` is the number of the device."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface."""
        return {
            "data": (self.memory.address, False),
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
            "version": 3,
        }


@dataclass
class Tensor:
    """A quantized tensor on a device, as `gpucodec.Quantized`, with steps instead of positions."""

    config: QuantizeConfig
    dtype: DType
    shape: tuple[int, ...]
    planes: dict[str, Plane]
    """By the names of the container's parts."""
    tensor_scale: float = 1.0
    kept: list[Any] = field(default_factory=list)
    """What the queued work still reads."""

    @property
    def layout(self) -> Layout:
        """How it is cut into rows and blocks."""
        assert isinstance(self.config.axis, int)
        return layout_of(shape_of(self.shape, self.config.axis), self.config)

    @property
    def is_moved(self) -> bool:
        """Whether blocks run along another axis than the last."""
        assert isinstance(self.config.axis, int)
        return is_moved(self.config.axis, len(self.shape))

    @property
    def n_exceptions(self) -> int:
        """Values that are kept as they are."""
        return prod(self.planes["values"].shape) if "values" in self.planes else 0

    def job(self, values: int, first_chunk: int = 0) -> np.ndarray[Any, Any]:
        """What the kernels are told: a `kernels.JOB`. `values` is a device address."""
        layout, config = self.layout, self.config
        job = np.zeros((), kernels.JOB)
        job["values"], job["first_chunk"] = values, first_chunk
        for name, plane in self.planes.items():
            if name in {"codes", "scales", "offsets"}:
                job[name] = plane.memory.address
        whole = layout.row % layout.block == 0  # rows of whole blocks are one long row
        job["row"] = layout.size if whole else layout.row
        job["n_rows"] = 1 if whole else layout.size // max(1, layout.row)
        job["dtype"] = NATIVE.index(self.dtype.name)
        job["block_log"] = config.block.bit_length() - 1
        job["scale_type"], job["mode"] = config.scale_code, config.mode_code
        row = config.spec
        job["power"], job["mantissa"], job["largest"] = row.power, row.mantissa, row.largest
        job["tensor_scale"] = self.tensor_scale
        return job

    @property
    def n_blocks(self) -> int:
        """Quantized blocks."""
        return prod(self.layout.scales_shape)

    @property
    def n_chunks(self) -> int:
        """Warps that work on it."""
        return kernels.n_chunks(self.n_blocks, self.config.block)


def _transpose(
    device: Device, source: int, shape: tuple[int, ...], axis: int, size: int, stream: int
) -> Memory:
    """A copy of an array of this shape, elements of `size` bytes, with `axis` at the end."""
    n_outer, n_rows, n_columns = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    memory = device.allocate(n_outer * n_rows * n_columns * size, stream)
    tiles = n_outer * -(-n_rows // kernels.TILE) * -(-n_columns // kernels.TILE)
    if tiles:
        arguments = (source, memory.address, n_rows, n_columns, size)
        device.launch("transpose", tiles, kernels.THREADS, arguments, stream)
    return memory


def _axis_to_end(device: Device, tensor: Tensor, source: int, stream: int) -> int:
    if not tensor.is_moved:
        return source
    assert isinstance(tensor.config.axis, int)
    axis = tensor.config.axis % len(tensor.shape)
    memory = _transpose(device, source, tensor.shape, axis, tensor.dtype.itemsize, stream)
    tensor.kept.append(memory)
    return memory.address


def _axis_back(device: Device, tensor: Tensor, source: int, out: int, stream: int) -> None:
    """The opposite: what comes behind the axis moves to the end, behind it."""
    assert isinstance(tensor.config.axis, int)
    axis, shape = tensor.config.axis % len(tensor.shape), tensor.shape
    inner = (prod(shape[:axis]), prod(shape[axis + 1 :]), shape[axis])
    memory = _transpose(device, source, inner, 1, tensor.dtype.itemsize, stream)
    tensor.kept.append(memory)
    device.copy(out, memory.address, prod(shape) * tensor.dtype.itemsize, stream)


def quantize(
    device: Device,
    source: int,
    dtype: DType,
    shape: tuple[int, ...],
    config: QuantizeConfig,
    stream: int,
    first_index: int = 0,
) -> Tensor:
    """Quantize the float32, bfloat16 or float16 elements at a 16-byte aligned device address.

    Waits for the device once, to learn how many values are exceptions. `config.axis` is a number.
    """
    tensor = Tensor(config, dtype, shape, {})
    layout, kept = tensor.layout, tensor.kept
    kind = BY_NAME[spec.SCALE_DTYPES[config.scale_code]].numpy
    parts = {
        "codes": (np.dtype(np.uint8), layout.codes_shape),
        "scales": (kind, layout.scales_shape),
    }
    if config.spec.has_offsets:
        parts["offsets"] = parts["scales"]
    for name, (part_type, part_shape) in parts.items():
        memory = device.allocate(prod(part_shape) * part_type.itemsize, stream)
        tensor.planes[name] = Plane(memory, part_type, part_shape)
    if not layout.size:
        if config.scale_code == spec.E4M3_SCALE:
            tensor.tensor_scale = 0.0
        return tensor
    source = _axis_to_end(device, tensor, source, stream)
    n_chunks = tensor.n_chunks
    n_groups = -(-n_chunks // kernels.GROUP)
    counts, sums = device.allocate(4 * n_chunks, stream), device.allocate(8 * n_groups, stream)
    flags = device.allocate(kernels.flag_bytes(tensor.n_blocks, config.block), stream)
    job = tensor.job(source)
    job["counts"], job["flags"], job["first_index"] = counts.address, flags.address, first_index
    job["stochastic"] = spec.ROUNDINGS.index(config.rounding)
    job["key"], job["other_key"] = cpu.keys(config.seed)
    measured = config.scale_code == spec.E4M3_SCALE
    job["absolute"], job["relative"] = cpu.limits(config.bound, lambda: (0.0, 0.0, 0.0))
    if config.bound is not None:
        job["bounded"], job["bound_kind"] = 1, config.bound.kind
        job["bound"] = config.bound.value
        measured |= config.bound.kind == spec.RANGE
    told = device.allocate(job.nbytes, stream)
    device.upload(told.address, job.reshape(1).view(np.uint8), stream)
    kept += [counts, sums, flags, told]

    def launch(kernel: str, n: int, *arguments: int, n_threads: int = kernels.THREADS) -> None:
        device.launch(kernel, n, n_threads, arguments, stream)

    if measured:
        n_blocks = min(kernels.MAX_MEASURING, -(-layout.size // (kernels.UNIT * kernels.THREADS)))
        found = device.allocate(8 * n_blocks, stream)
        kept.append(found)
        launch("measure_values", n_blocks, told.address, found.address)
        launch(*("settle_extent", 1, told.address, found.address, n_blocks), n_threads=kernels.WARP)
    n_blocks = -(-n_chunks // kernels.WARPS)
    launch(kernels.kernel("quantize", config.spec), n_blocks, told.address, 1, n_chunks)
    launch("sum_counts", n_groups, counts.address, n_chunks, sums.address)
    launch("scan_sums", 1, told.address, sums.address, n_groups)
    learned = _found(device, told.address, stream)
    tensor.tensor_scale = float(learned["tensor_scale"])
    n = int(learned["n_exceptions"])
    if n:
        wide = layout.size > WIDE_POSITIONS
        step_type = np.dtype(np.uint64 if wide else np.uint32)
        for name, part_type in (("positions", step_type), ("values", dtype.numpy)):
            memory = device.allocate(n * part_type.itemsize, stream)
            tensor.planes[name] = Plane(memory, part_type, (n,))
        steps, values = (tensor.planes[name].memory.address for name in ("positions", "values"))
        positions = device.allocate(8 * n, stream)
        kept.append(positions)
        lists = (told.address, sums.address, n_chunks, positions.address, values)
        launch("gather_exceptions", n_groups, *lists)
        launch("store_steps", -(-n // kernels.THREADS), positions.address, n, int(wide), steps)
    return tensor


def _found(device: Device, job: int, stream: int) -> Any:
    """What the kernels wrote into a job; waits for the device."""
    found = np.zeros(1, _FOUND)
    device.download(found.view(np.uint8), job + kernels.FOUND, stream)
    return found[0]


@dataclass
class Dequantizing:
    """Work that was queued on a stream."""

    device: Device
    stream: int
    jobs: list[tuple[int, int]]
    """Address of the job, and number of the tensor, of those with exceptions."""
    kept: list[Any]

    def wrong(self) -> list[int]:
        """Wait for the stream; numbers of the tensors with positions that leave them."""
        return [i for job, i in self.jobs if _found(self.device, job, self.stream)["wrong"]]


def dequantize(
    device: Device, tensors: Sequence[Tensor], outs: Sequence[int], stream: int
) -> Dequantizing:
    """Queue the dequantization of tensors to device addresses, those of a format in one launch.

    Outputs are of the tensors' own types.
    """
    queued = Dequantizing(device, stream, [], [tensors])
    places = []
    for tensor, out in zip(tensors, outs, strict=True):
        place = out
        if tensor.is_moved or out % kernels.UNIT:
            memory = device.allocate(tensor.layout.size * tensor.dtype.itemsize, stream)
            queued.kept.append(memory)
            place = memory.address
        places.append(place)
    upload = Upload()
    groups = []
    order = sorted(range(len(tensors)), key=lambda i: tensors[i].config.spec.element)
    for _, members in groupby(order, key=lambda i: tensors[i].config.spec.element):
        numbers = [i for i in members if tensors[i].layout.size]
        firsts = np.cumsum([0, *(tensors[i].n_chunks for i in numbers)])
        if not numbers:
            continue
        jobs = [
            tensors[i].job(places[i], int(first)) for i, first in zip(numbers, firsts, strict=False)
        ]
        groups.append((numbers, upload.add(np.array(jobs, kernels.JOB)), int(firsts[-1])))
    if not groups:
        return queued
    told = device.allocate(upload.n_bytes, stream)
    upload.send(device, told.address, stream)
    queued.kept.append(told)
    for numbers, at, n_chunks in groups:
        kernel = kernels.kernel("dequantize", tensors[numbers[0]].config.spec)
        arguments = (told.address + at, len(numbers), n_chunks)
        n_blocks = -(-n_chunks // kernels.WARPS)
        device.launch(kernel, n_blocks, kernels.THREADS, arguments, stream)
        for i, number in enumerate(numbers):
            job = told.address + at + i * kernels.JOB.itemsize
            if tensors[number].n_exceptions:
                queued.jobs.append((job, number))
                queued.kept.append(_scatter(device, tensors[number], job, stream))
    for tensor, place, out in zip(tensors, places, outs, strict=True):
        if tensor.is_moved:
            _axis_back(device, tensor, place, out, stream)
        elif place != out:
            device.copy(out, place, tensor.layout.size * tensor.dtype.itemsize, stream)
    return queued


def _scatter(device: Device, tensor: Tensor, job: int, stream: int) -> Memory:
    """Put the exceptions to their places."""
    n = tensor.n_exceptions
    n_groups = -(-n // kernels.GROUP)
    sums = device.allocate(8 * n_groups, stream)
    steps, values = (tensor.planes[name] for name in ("positions", "values"))
    wide = int(steps.dtype.itemsize == 8)  # noqa: PLR2004 - bytes of uint64
    given = (steps.memory.address, n, wide, sums.address)
    device.launch("sum_steps", n_groups, kernels.THREADS, given, stream)
    device.launch("scan_sums", 1, kernels.THREADS, (job, sums.address, n_groups), stream)
    arguments = (job, *given, values.memory.address)
    device.launch("scatter_exceptions", n_groups, kernels.THREADS, arguments, stream)
    return sums
