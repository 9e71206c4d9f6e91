# SPDX-License-Identifier: Apache-2.0
"""Quantizes and dequantizes, in a process of its own.

quant_worker.py hash            prints one hash over all bytes, and the SIMD level
quant_worker.py guard COUNT     inputs, codes and outputs lie against pages that must not be touched
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
from mutation_worker import POISON, Guarded

from gpucodec import QuantizeConfig, dequantize, encode_quantized, quantize
from gpucodec.kernels import simd

CASES = (  # every kind of table, scale and type once: each is a kernel to compile
    ("int8", np.float32, "nearest"),
    ("int4_asym", np.float32, "nearest"),
    ("nf4", ml_dtypes.bfloat16, "nearest"),
    ("dynamic8", np.float32, "stochastic"),
    ("mxfp8_e4m3", np.float16, "nearest"),
    ("mxfp4", np.float32, "nearest"),
    ("nvfp4", np.float32, "nearest"),
    ("log8", np.float32, "nearest"),
)


def inputs():
    """Arrays over many magnitudes, with rows that end within a block and within a unit."""
    rng = np.random.default_rng(8)
    for shape in ((9, 333), (7, 1024)):
        x = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, (shape[0], 1))
        x[0, ::7] = np.nan
        x[1, ::5] = 0.0
        x[2] = np.abs(x[2])
        yield x


def hash_all() -> None:
    digest = hashlib.sha256()
    for name, dtype, rounding in CASES:
        config = QuantizeConfig(name, rounding=rounding, seed=5)
        for x in inputs():
            with np.errstate(over="ignore"):
                array = x.astype(dtype)
            digest.update(encode_quantized(array, config))
            digest.update(dequantize(quantize(array, config)).view(np.uint8))
    print(digest.hexdigest(), simd.LEVEL)


def guard(count: int) -> None:
    source, planes, target = Guarded(), Guarded(), Guarded()
    rng = np.random.default_rng(9)
    for trial in range(count):
        name, dtype, rounding = CASES[trial % len(CASES)]
        shape = int(rng.integers(1, 5)), int(rng.integers(1, 400))
        x = rng.normal(size=shape).astype(dtype)
        x[0, -1] = np.nan
        placed, _ = source.place(x.nbytes, low=bool(trial & 1))
        placed[:] = x.reshape(-1).view(np.uint8)
        array = placed.view(dtype).reshape(shape)
        config = QuantizeConfig(name, 16 << trial % 5, rounding=rounding)
        quantized = quantize(array, config)
        at, _ = planes.place(quantized.codes.nbytes, low=bool(trial & 2))
        at[:] = quantized.codes.reshape(-1)
        moved = replace(quantized, codes=at.reshape(quantized.codes.shape))
        out, canary = target.place(x.nbytes, low=bool(trial & 4))
        canary[:] = POISON
        dequantize(moved, out)
        assert (canary == POISON).all(), (name, shape)
        assert (out == dequantize(quantized).reshape(-1).view(np.uint8)).all(), (name, shape)
    print(count)


if __name__ == "__main__":
    mode, *numbers = sys.argv[1:]
    {"hash": hash_all, "guard": guard}[mode](*map(int, numbers))
