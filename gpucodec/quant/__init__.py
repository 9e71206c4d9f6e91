# SPDX-License-Identifier: Apache-2.0
"""Blockwise quantization: lossy coding with a scale for each block, and promises where asked."""

from __future__ import annotations

from .codec import QuantizedInfo, decode_quantized, encode_quantized
from .config import ErrorBound, QuantizeConfig
from .state import StateFormatError, check_state_format
from .tensor import Quantized, dequantize, quantize

__all__ = [
    "ErrorBound",
    "QuantizeConfig",
    "Quantized",
    "QuantizedInfo",
    "StateFormatError",
    "check_state_format",
    "decode_quantized",
    "dequantize",
    "encode_quantized",
    "quantize",
]
