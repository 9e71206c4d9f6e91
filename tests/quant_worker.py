# SPDX-License-Identifier: Apache-2.0
"""Quantizes and dequantizes; prints one hash over all bytes, and the SIMD level."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np

from gpucodec import QuantizeConfig, dequantize, encode_quantized, quantize
from gpucodec.kernels import quantspec, simd

FORMATS = [name for name in quantspec.BY_NAME if name not in {"mxfp8_e5m2", "mxfp6_e3m2"}]
CASES = [  # each is a kernel to compile, and those of one kind of element differ in numbers only
    *((name, np.float32, "nearest") for name in FORMATS),
    ("mxfp8_e4m3", np.float16, "nearest"),
    ("nf4", ml_dtypes.bfloat16, "nearest"),
    ("dynamic8", np.float32, "stochastic"),
]


def inputs():
    """Arrays over many magnitudes, with rows that end within a block and within a unit."""
    rng = np.random.default_rng(8)
    for shape in ((9, 333), (7, 1024)):
        x = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, (shape[0], 1))
        x[0, ::7] = np.nan
        x[1, ::5] = 0.0
        x[2] = np.abs(x[2])
        yield x


def main() -> None:
    digest = hashlib.sha256()
    for name, dtype, rounding in CASES:
        config = QuantizeConfig(name, rounding=rounding, seed=5)
        for x in inputs():
            with np.errstate(over="ignore"):
                array = x.astype(dtype)
            digest.update(encode_quantized(array, config))
            digest.update(dequantize(quantize(array, config)).view(np.uint8))
    print(digest.hexdigest(), simd.LEVEL)


if __name__ == "__main__":
    main()
