# SPDX-License-Identifier: Apache-2.0
"""A storage codec for tensors: lossless, blockwise, the same bytes on every machine.

>>> import numpy as np, gpucodec
>>> weights = np.linspace(-1, 1, 100_000, dtype=np.float32)
>>> frame = gpucodec.encode(weights)
>>> bool((gpucodec.decode(frame) == weights).all())
True
"""

from __future__ import annotations

from .codec import (
    BadBlock,
    FrameInfo,
    ModelInfo,
    PlaneInfo,
    Salvaged,
    decode,
    decode_batch,
    encode,
    encode_batch,
    inspect,
    max_encoded_size,
    verify,
)
from .config import LZConfig, TensorConfig
from .errors import (
    CorruptionError,
    GpucodecError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from .threads import set_threads

__version__ = "0.1.0"

__all__ = [
    "BadBlock",
    "CorruptionError",
    "FrameInfo",
    "GpucodecError",
    "LZConfig",
    "LimitError",
    "ModelInfo",
    "PlaneInfo",
    "Salvaged",
    "TensorConfig",
    "TruncatedError",
    "UnsupportedError",
    "decode",
    "decode_batch",
    "encode",
    "encode_batch",
    "inspect",
    "max_encoded_size",
    "set_threads",
    "verify",
]
