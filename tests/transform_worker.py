# SPDX-License-Identifier: Apache-2.0
"""Prints a digest of what palette, sparse transform and predictor write: equal at each SIMD level."""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

from gpucodec.kernels import palette, predictor, sparse
from gpucodec.kernels.predictor_fit import fit
from gpucodec.kernels.spec import PALETTE_MAX_BITS


class Kernels:
    """Kernels as Python can call them."""

    palette_plan, palette_encode, palette_decode = (
        njit(kernel.py_func) for kernel in (palette.plan, palette.encode, palette.decode)
    )
    pack, expand, promising, n_nonzero, read_signs, write_signs, magnitude_bits, mask_symbols = (
        njit(kernel.py_func)
        for kernel in (
            *(sparse.pack, sparse.expand, sparse.promising, sparse.n_nonzero),
            *(sparse.read_signs, sparse.write_signs, sparse.magnitude_bits, sparse.mask_symbols),
        )
    )
    shift_words = njit(predictor.shift_words.py_func)


def matrix(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """float32, positive: a product of rows and columns, heads of 32 rows, and patterns."""
    rng = np.random.default_rng(seed)
    logs = rng.normal(0, 2, (n_rows, 1)) + rng.normal(0, 1, (1, n_columns))
    logs += np.repeat(rng.normal(0, 1, (-(-n_rows // 32), n_columns)), 32, axis=0)[:n_rows]
    logs += rng.normal(size=(n_rows, 3)) @ rng.normal(size=(3, n_columns)) * 0.7
    return np.exp2(logs - 20 + rng.normal(0, 0.4, logs.shape)).astype(np.float32)


def palette_outputs():
    rng = np.random.default_rng(1)
    for n in (1, 64, 1000, 65_536):
        symbols = np.zeros(n + 64, np.uint8)
        symbols[:n] = np.minimum(rng.geometric(0.4, n) + 250, 300) & 255
        for bits in range(PALETTE_MAX_BITS + 1):
            out, flags = np.zeros(4 * n + 64, np.uint8), np.zeros(n // 64 + 1, np.uint64)
            yield out[: Kernels.palette_encode(symbols, n, 8, bits, 251, out, flags)]


def sparse_outputs():
    rng = np.random.default_rng(2)
    for word_bytes in (1, 2, 4, 8):
        raw = rng.integers(0, 256, 5000 * word_bytes, np.uint8)
        raw *= np.repeat(rng.random(5000) < 0.3, word_bytes)
        mask, packed = np.zeros(5064, np.uint8), np.zeros(5064 * word_bytes, np.uint8)
        every = np.uint64((1 << 64) - 1)
        count, _ = Kernels.pack(raw, word_bytes, every, mask, packed)
        yield mask[: Kernels.mask_symbols(5000)]
        yield packed[: count * word_bytes]
        out = np.zeros_like(raw)
        Kernels.expand(mask, packed, word_bytes, out)
        yield out


def predictor_outputs():
    for name, kind in (("float32", np.uint32), ("float16", np.uint16)):
        values = matrix(100, 130)
        if name == "float16":
            values = (values * 2**18).astype(np.float16)
        model = fit(values.view(kind), name)
        raw = values.reshape(-1).view(np.uint8)
        out = np.zeros_like(raw)
        Kernels.shift_words(raw, values.itemsize, 0, model, -1, out)
        yield predictor.join(model)
        yield np.array(model[4:])
        yield out


def main() -> None:
    digest = hashlib.sha256()
    for outputs in (palette_outputs(), sparse_outputs(), predictor_outputs()):
        for output in outputs:
            digest.update(output.tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
