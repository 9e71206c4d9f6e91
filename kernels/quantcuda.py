# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels of quantized tensors are told, and how they are launched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from . import quantspec as spec
from .quantprelude import ELEMENTS

if TYPE_CHECKING:
    from .quantspec import QuantSpec

# The fields of blockwise.cu's QuantJob.
JOB: Final = np.dtype(
    [
        *((name, "<u8") for name in ("values", "codes", "scales", "offsets", "counts", "flags")),
        *((name, "<u8") for name in ("n_rows", "row", "first_chunk", "first_index")),
        ("bound", "<f8"),
        *((name, "<u4") for name in ("bound_kind", "bounded", "dtype", "block_log")),
        *((name, "<u4") for name in ("scale_type", "mode", "power", "mantissa")),
        *((name, "<u4") for name in ("stochastic", "key", "other_key")),
        *((name, "<f4") for name in ("largest", "absolute", "relative")),
        ("n_exceptions", "<u8"),
        ("tensor_scale", "<f4"),
        ("wrong", "<u4"),
    ],
)
FOUND: Final = JOB.fields["n_exceptions"][1] if JOB.fields else 0
"""Where what the device writes into a job begins."""

UNIT: Final = 16  # elements of a thread
WARP: Final = 32
CHUNK: Final = UNIT * WARP  # elements of a warp; of blocks that are longer, a block
THREADS: Final = 256  # of the blocks of threads of all these kernels
WARPS: Final = THREADS // WARP
GROUP: Final = 4 * THREADS  # numbers that a block of threads adds up
TILE: Final = 32
MAX_MEASURING: Final = 1024  # blocks of threads that measure a tensor

_NAMES: Final = {getattr(spec, name): name.lower() for name in ELEMENTS}


def kernel(direction: str, row: QuantSpec) -> str:
    """The kernel of a format; `direction` is "quantize" or "dequantize"."""
    return f"{direction}_{_NAMES[row.element]}"


def n_chunks(n_blocks: int, block: int) -> int:
    """Warps that so many blocks need."""
    return -(-n_blocks // max(1, CHUNK // block))


def flag_bytes(n_blocks: int, block: int) -> int:
    """Bytes of their flags."""
    return 2 * WARP * n_chunks(n_blocks, block) * max(1, block // CHUNK)
