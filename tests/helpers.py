# SPDX-License-Identifier: Apache-2.0
"""What several tests need: types, inputs, and subprocesses at another SIMD level."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

TESTS = Path(__file__).parent
NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
    *("complex64", "complex128", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


def numpy_dtype(name: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(ml_dtypes, name))


def raw_bytes(array: np.ndarray) -> bytes:
    """The elements in C order, little-endian: what two arrays of the same bits share."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def same(decoded: np.ndarray, array: np.ndarray) -> bool:
    """Whether shape, native type and every bit agree."""
    native = array.dtype.newbyteorder("=")
    return (decoded.dtype, decoded.shape) == (native, array.shape) and raw_bytes(
        decoded
    ) == raw_bytes(array)


def sha256(data: bytes | np.ndarray) -> str:
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return hashlib.sha256(data).hexdigest()


def sample(name: str, n: int, content: str, seed: int = 0) -> np.ndarray:
    """1-D array of ``n`` elements; contents as tests care about: what coders would be chosen."""
    rng = np.random.default_rng([seed, n, len(content)])
    dtype = numpy_dtype(name)
    raw = rng.integers(0, 256, n * dtype.itemsize, np.uint8)
    if content == "constant":
        raw[:] = np.resize(raw[: dtype.itemsize], raw.size)
    elif content == "skewed":
        raw = np.minimum(rng.geometric(0.3, raw.size) - 1, 255).astype(np.uint8)
    elif content == "rare":  # symbols too rare for a table
        raw = np.where(rng.random(raw.size) < 0.002, raw, raw % 3).astype(np.uint8)
    elif content == "values":
        values = rng.normal(0, 0.02, n)
        if name == "bool":
            return values > 0
        with np.errstate(over="ignore", invalid="ignore"):
            return (values if dtype.kind in "fcV" else np.round(values * 500)).astype(dtype)
    elif content == "pruned":  # zeros of either sign among values
        values = sample(name, n, "values", seed)
        raw = values.view(np.uint8).reshape(n, dtype.itemsize)
        raw[rng.random(n) < 0.6] = 0
        if dtype.kind in "fcV":
            raw[:, -1] |= ((seed & 1) * 128 * (rng.random(n) < 0.5)).astype(np.uint8)
        return values
    else:
        assert content == "noise"
    return raw.view(bool) & True if name == "bool" else raw.view(dtype)


def repetitive(name: str, n: int, content: str, seed: int = 0) -> np.ndarray:
    """1-D array of ``n`` elements with repetitions: what LZ is for."""
    rng = np.random.default_rng([seed, n, len(content)])
    dtype = numpy_dtype(name)
    if content == "text":
        words = [rng.integers(97, 123, rng.integers(2, 9)) for _ in range(40)]
        chosen = (words[min(39, int(rng.zipf(1.3)) - 1)] for _ in range(n + 1))
        values = np.concatenate([np.append(word, 32) for word in chosen])[:n]
    elif content == "runs":
        values = np.repeat(rng.integers(0, 2, n), rng.integers(1, 90, n))[:n]
    elif content == "steps":  # noise that changes slowly: one plane has repetitions
        values = (np.repeat(np.arange(n), 60)[:n] % 7 << 8) + rng.integers(0, 256, n)
    else:
        assert content in {"sparse", "ones"}
        values = np.where(rng.random(n) < 0.1, rng.normal(0, 100, n), content == "ones")
    return values.astype(dtype)


CONTENTS = ("constant", "skewed", "rare", "values", "pruned", "noise")

# Numba compiles for NUMBA_CPU_NAME, and the codec takes its SIMD level from that.
LEVELS: dict[str, dict[str, str]] = {
    "host": {},
    "plain": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}
if platform.machine() in {"x86_64", "AMD64"}:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if " avx2 " in flags:
        wanted = "sse3 ssse3 sse4.1 sse4.2 avx avx2 fma bmi bmi2 lzcnt popcnt movbe f16c"
        LEVELS["avx2"] = {
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": ",".join("+" + feature for feature in wanted.split()),
        }


def run_python(script: str, *arguments: str, level: str = "host", **environment: str) -> str:
    """Run a test script of this folder in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(TESTS / script), *arguments],
        env={**os.environ, **LEVELS[level], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
