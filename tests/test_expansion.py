# SPDX-License-Identifier: Apache-2.0
"""Promise 11: a frame is never larger than promised, and what does not compress costs 0.05 %."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import CONTENTS, NAMES, numpy_dtype, repetitive, sample
from hypothesis import given, strategies as st

import gpucodec
from gpucodec import LZConfig, TensorConfig

SIZES = (0, 1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 255, 1000, 4095, 4096, 5000, 65_537)


def adversarial(n: int) -> list[np.ndarray]:
    """Bytes on which a careless coder would expand: tables that lie just outside the gain."""
    rng = np.random.default_rng(n)
    ramp = np.arange(n, dtype=np.uint64)
    probe = rng.integers(0, 256, n, np.uint8)
    for row in range(0, n, 16 * 64):  # compressible only where a sample looks
        probe[row : row + 64] = 0
    hidden = np.zeros(n, np.uint8)
    for row in range(0, n, 16 * 64):  # incompressible only where a sample looks
        hidden[row : row + 64] = rng.integers(0, 256, len(hidden[row : row + 64]))
    late = np.zeros(n, np.uint8)
    late[n // 2 :] = rng.integers(0, 256, n - n // 2)
    most = np.where(rng.random(n) < 0.999, rng.integers(0, 250, n), 255).astype(np.uint8)
    return [
        *(ramp.astype(np.uint8), probe, hidden, late, most),
        (ramp % 255).astype(np.uint8),
        rng.integers(0, 253, n).astype(np.uint8),  # a gain below the cost of a table
        np.minimum(rng.geometric(1 / 60, n), 255).astype(np.uint8),
    ]


@pytest.mark.parametrize("block", [64, 128, 1024, 65_536, None])
def test_nothing_grows_beyond_the_bound(block):
    config = TensorConfig(block)
    for n in SIZES:
        for raw in adversarial(n):
            for name in ("uint8", "bfloat16", "float32", "float64"):
                width = numpy_dtype(name).itemsize
                array = raw[: n // width * width].view(numpy_dtype(name))
                frame = gpucodec.encode(array, config)
                assert frame.size <= gpucodec.max_encoded_size(array.shape, array.dtype, config)
                np.testing.assert_array_equal(
                    gpucodec.decode(frame).view(np.uint8), array.view(np.uint8)
                )


@pytest.mark.parametrize("config", [LZConfig(), LZConfig("ratio", 8), TensorConfig(1024, lz=True)])
def test_nothing_grows_beyond_the_bound_by_lz(config):
    for n in SIZES:
        for raw in (*adversarial(n), repetitive("uint8", n, "text")):
            for name in ("uint8", "int16", "float32", "float64"):
                width = numpy_dtype(name).itemsize
                array = raw[: n // width * width].view(numpy_dtype(name))
                frame = gpucodec.encode(array, config)
                assert frame.size <= gpucodec.max_encoded_size(array.shape, array.dtype, config)
                assert gpucodec.decode(frame).tobytes() == array.tobytes()


@given(
    name=st.sampled_from(NAMES),
    n=st.integers(0, 3000),
    content=st.sampled_from(CONTENTS),
    block=st.sampled_from([64, 256, 4096, None]),
    seed=st.integers(0, 1000),
)
def test_any_array_stays_within_the_bound(name, n, content, block, seed):
    array, config = sample(name, n, content, seed), TensorConfig(block)
    frame = gpucodec.encode(array, config)
    assert frame.size <= gpucodec.max_encoded_size(n, array.dtype, config)


@pytest.mark.parametrize("n_dims", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_a_twentieth_of_a_percent(name, n_dims):
    dtype = numpy_dtype(name)
    for n_bytes in (64 << 10, 100_000, 1 << 20, (1 << 20) + 4096, 10_000_000, 1 << 34):
        for extra in (0, 1, 63, 64, 65, 100):
            n = -(-n_bytes // dtype.itemsize) + extra
            shape = (1,) * (n_dims - 1) + (n,) if n_dims else n
            most = gpucodec.max_encoded_size(shape, dtype)
            assert most <= n * dtype.itemsize * 1.0005 + 64, n


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_stored_within_a_twentieth_of_a_percent(name):
    itemsize = numpy_dtype(name).itemsize
    for n_bytes in (64 << 10, 1_000_000):
        noise = np.random.default_rng(1).integers(0, 256, n_bytes // itemsize * itemsize, np.uint8)
        array = noise.view(numpy_dtype(name))
        frame = gpucodec.encode(array)
        assert frame.size <= array.nbytes * 1.0005 + 64
        for plane in gpucodec.inspect(frame).planes:
            assert set(plane.coders) <= {"stored"} or name == "bool"


def test_the_bound_is_reached():
    """It is no looser than it must be: noise in full blocks fills it to the byte."""
    array = np.random.default_rng(2).integers(0, 256, 1 << 18, np.uint8)
    assert gpucodec.encode(array).size == gpucodec.max_encoded_size(array.shape, np.uint8)
