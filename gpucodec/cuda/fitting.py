# SPDX-License-Identifier: Apache-2.0
"""Models of matrices on the device: found, and written as the sections of their frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import predicted
from ..config import TensorConfig
from ..dtypes import BY_NAME
from ..kernels import spec
from . import encoding
from .batch import ALIGNED
from .models import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .device import Device
    from .encoding import Source


def fit(
    device: Device, sources: Sequence[Source], columns: Sequence[int], rank: int, stream: int
) -> list[Source]:
    """Look for models of matrices of these columns; returns those sources that have got one.

    Waits for the device.
    """
    from .. import plan
    from ..kernels.predictor import join
    from ..kernels.predictor_fit import fit as fit_on_host

    found = []
    for source, n_columns in zip(sources, columns, strict=True):
        words = np.empty(source.n_bytes, np.uint8)
        device.download(words, source.words, stream)
        matrix = words.view(plan.unsigned(source.dtype)).reshape(-1, n_columns)
        made = fit_on_host(matrix, source.dtype.name, rank)
        if made is None:
            continue
        offsets = join(made)
        memory = device.allocate(offsets.size, stream)
        device.upload(memory.address, offsets, stream)
        n_rows = len(matrix)
        source.model = Model(
            *(n_rows, n_columns, made.tile_rows, made.base, made.rank, made.shift),
            memory.address,
            kept=[memory],
        )
        source.flags |= spec.PREDICTED
        found.append(source)
    _write_sections(device, found, stream)
    return found


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
