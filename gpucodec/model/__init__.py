# SPDX-License-Identifier: Apache-2.0
"""Models made small: pruned, quantized, their graph shrunk, coded; and an account of each stage.

>>> from gpucodec.model import Prune, Quantize, compress_model, load_model  # needs torch
>>> Prune(amount=0.5).scope
'global'

What a store holds is described in ``docs/model.md``.
"""

from __future__ import annotations

from .cost import Cost, Prices, cost
from .exports import export_onnx, export_tflite
from .graph import Graph
from .pipeline import compress_model
from .prune import Prune
from .quantize import Quantize
from .report import CompressionReport
from .store import load_model, load_program

__all__ = [
    "CompressionReport",
    "Cost",
    "Graph",
    "Prices",
    "Prune",
    "Quantize",
    "compress_model",
    "cost",
    "export_onnx",
    "export_tflite",
    "load_model",
    "load_program",
]
