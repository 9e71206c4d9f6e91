# SPDX-License-Identifier: Apache-2.0
"""Models of matrices on the device: found by kernels, and written as the sections of frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import predicted
from ..config import TensorConfig
from ..dtypes import BY_NAME
from ..kernels import cuda as kernels, predictor_spec, spec
from . import batch as batches, encoding
from .batch import ALIGNED, Upload, waves
from .models import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .device import Device
    from .encoding import Source


FIT_BLOCKS = 512  # of threads that go through the rows at last, each with a row of memory


@dataclass
class _Matrix:
    """A matrix, and the memory for what is found of it."""

    source: Source
    n_columns: int
    rank: int
    """The highest that its model may have."""
    parts: dict[str, int] = field(init=False)
    """Where arrays begin in its memory, by the names of the fields of `kernels.cuda.FIT`."""
    n_bytes: int = 0

    def __post_init__(self) -> None:
        n, n_rows, n_groups = self.n_columns, self.n_rows, self.n_groups
        n_sampled = min(n_rows, predictor_spec.SAMPLE_ROWS)
        sizes = {
            "rows": n_rows,
            "columns": n_groups * n,
            "row_factors": n_rows * self.rank,
            "column_factors": n * self.rank,
            "means": 4 * n_rows,
            "energies": 16 * n_groups,
            "sums": 4 * n_groups * n,
            "counts": 4 * n_groups * n,
            "q": 4 * n,
            "logs": 2 * n_sampled * n,
            "rest": 2 * n_sampled * n,
            "factor": 2 * n,
        }
        self.parts = {}
        for name, size in sizes.items():
            self.parts[name] = self.n_bytes
            self.n_bytes += -(-size // Upload.ALIGNMENT) * Upload.ALIGNMENT

    @property
    def n_rows(self) -> int:
        return self.source.n_words // self.n_columns

    @property
    def n_groups(self) -> int:
        return -(-self.n_rows // predictor_spec.GROUP)

    @property
    def shift(self) -> int:
        """Of a word to its log."""
        mantissa_bits = spec.PREDICTED_TYPES[self.source.dtype.name].mantissa_bits
        return mantissa_bits - spec.OFFSET_LOG

    def describe(self, told: Any, memory: int) -> None:
        """Fill in what the kernels are told; `memory` is the address of `n_bytes`."""
        for name, at in self.parts.items():
            told[name] = memory + at
        told["words"], told["word_bytes"] = self.source.words, self.source.dtype.spec.word_bytes
        told["n_rows"], told["n_columns"] = self.n_rows, self.n_columns
        told["shift"], told["max_rank"] = self.shift, self.rank

    def model(self, device: Device, memory: int, found: Any, stream: int) -> Model | None:
        """The model that was found, with its offsets one after the other; None if it is none."""
        middle = spec.PREDICTED_TYPES[self.source.dtype.name].middle
        tile_rows, rank = int(found["tile_rows"]), int(found["rank"])
        sizes = self.n_rows, self.n_columns, tile_rows, int(found["base"]) - middle
        model = Model(*sizes, rank, self.shift, 0)
        if not found["is_worth"] or model.n_offsets > self.source.n_words:
            return None
        offsets = device.allocate(model.n_offsets, stream)
        model.offsets, model.kept = offsets.address, [offsets]
        at = offsets.address
        for name, size in (
            ("rows", self.n_rows),
            ("columns", -(-self.n_rows // tile_rows) * self.n_columns),
            ("row_factors", rank * self.n_rows),
            ("column_factors", rank * self.n_columns),
        ):
            device.copy(at, memory + self.parts[name], size, stream)
            at += size
        return model


def fit(
    device: Device, sources: Sequence[Source], columns: Sequence[int], rank: int, stream: int
) -> list[Source]:
    """Look for models of matrices of these columns; returns those sources that have got one.

    Waits for the device, once for as many matrices as the memory between the stages holds.
    """
    matrices = [_Matrix(source, n, rank) for source, n in zip(sources, columns, strict=True)]
    before = np.cumsum([0, *(matrix.n_bytes for matrix in matrices)])
    found = []
    for first, last in waves(before, batches.SCRATCH_BYTES):
        found += _fit_some(device, matrices[first:last], stream)
    _write_sections(device, found, stream)
    return found


def _fit_some(device: Device, matrices: Sequence[_Matrix], stream: int) -> list[Source]:
    before = np.cumsum([0, *(matrix.n_bytes for matrix in matrices)])
    told, upload = np.zeros(len(matrices), kernels.FIT), Upload()
    fits_at, found_at = upload.add(told), upload.add(np.zeros(len(matrices), kernels.FOUND))
    memory, results = (
        device.allocate(n_bytes, stream) for n_bytes in (int(before[-1]), upload.n_bytes)
    )
    n_rows = n_groups = 0
    for i, matrix in enumerate(matrices):
        matrix.describe(told[i], memory.address + int(before[i]))
        told[i]["first_row"], told[i]["first_group"] = n_rows, n_groups
        told[i]["found"] = results.address + found_at + i * kernels.FOUND.itemsize
        n_rows += matrix.n_rows
        n_groups += matrix.n_groups
    upload.send(device, results.address, stream)
    fits, n_fits = results.address + fits_at, len(matrices)
    n_blocks, stride = min(n_rows, FIT_BLOCKS), max(matrix.n_columns for matrix in matrices)
    rests = device.allocate(2 * n_blocks * stride, stream)
    warps = kernels.FIT_WARPS
    for kernel, count, n_threads, *arguments in (
        ("fit_row_means", -(-n_rows // warps), 32 * warps, n_fits, n_rows),
        ("fit_base", n_fits, kernels.FIT_THREADS),
        ("fit_groups", n_groups, kernels.SPLIT_THREADS, n_fits),
        ("fit_tiles", n_fits, kernels.FIT_THREADS),
        ("fit_factors", n_fits, kernels.FIT_THREADS),
        ("fit_rows_again", n_blocks, kernels.SPLIT_THREADS, n_fits, n_rows, rests.address, stride),
        ("fit_verdict", n_fits, kernels.FIT_THREADS),
    ):
        device.launch(kernel, count, n_threads, (fits, *arguments), stream)
    found = np.zeros(len(matrices), kernels.FOUND)
    device.download(found, results.address + found_at, stream)
    fitted = []
    for i, matrix in enumerate(matrices):
        model = matrix.model(device, memory.address + int(before[i]), found[i], stream)
        if model is not None:
            matrix.source.model = model
            matrix.source.flags |= spec.PREDICTED
            fitted.append(matrix.source)
    return fitted


def _write_sections(device: Device, sources: Sequence[Source], stream: int) -> None:
    """Encode the offsets of models as the frames that their sections hold; waits for the sizes."""
    config, dtype = TensorConfig(lz=False), BY_NAME["uint8"]
    nested: list[tuple[Model, Any]] = []
    for source in sources:
        model = source.model
        assert model is not None
        shape = (model.n_offsets,)
        at = encoding.Source(model.offsets, dtype, shape, config.block_log(1), 0)
        n_bytes = spec.MODEL_BYTES + -(-at.max_bytes // ALIGNED) * ALIGNED
        memory = device.allocate(n_bytes, stream)
        model.kept.append(memory)
        device.clear(memory.address, n_bytes, stream)  # what is not written pads the section
        model.section, at.out = memory.address, memory.address + spec.MODEL_BYTES
        head = predicted.pack(*model.fixed, np.empty(0, np.uint8))
        device.upload(model.section, np.frombuffer(head, np.uint8), stream)
        nested.append((model, at))
    sizes = encoding.encode(device, [at for _, at in nested], stream)
    for (model, _), size in zip(nested, sizes, strict=True):
        model.section_bytes = spec.MODEL_BYTES + -(-size // ALIGNED) * ALIGNED
