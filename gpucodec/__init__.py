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
from .quant import (
    ErrorBound,
    QuantizeConfig,
    Quantized,
    QuantizedInfo,
    StateFormatError,
    check_state_format,
    decode_quantized,
    dequantize,
    encode_quantized,
    quantize,
)
from .threads import set_threads

__version__ = "0.1.0"

__all__ = [
    "BadBlock",
    "CorruptionError",
    "ErrorBound",
    "FrameInfo",
    "GpucodecError",
    "LZConfig",
    "LimitError",
    "ModelInfo",
    "PlaneInfo",
    "QuantizeConfig",
    "Quantized",
    "QuantizedInfo",
    "Salvaged",
    "StateFormatError",
    "TensorConfig",
    "TruncatedError",
    "UnsupportedError",
    "check_state_format",
    "decode",
    "decode_batch",
    "decode_quantized",
    "dequantize",
    "encode",
    "encode_batch",
    "encode_quantized",
    "inspect",
    "max_encoded_size",
    "quantize",
    "set_threads",
    "verify",
]
