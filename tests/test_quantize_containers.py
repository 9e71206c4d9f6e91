# SPDX-License-Identifier: Apache-2.0
"""Containers of quantized tensors: damaged, cut, made to lie, as large as they get."""

from __future__ import annotations

import numpy as np
import pytest

import gpucodec
from gpucodec.dtypes import BY_NAME
from gpucodec.errors import GpucodecError, TruncatedError, UnsupportedError
from gpucodec.kernels import quantspec as spec
from gpucodec.quant import (
    ErrorBound,
    QuantizeConfig,
    decode_quantized,
    encode_quantized,
    frame as containers,
    quantize,
)

FORMATS = tuple(spec.BY_NAME)


@pytest.fixture(scope="module")
def container():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 100)).astype(np.float32)
    x[::3, 5] = np.nan
    config = QuantizeConfig("int4_asym", 32, bound=ErrorBound(abs=10.0), seed=3)
    return encode_quantized(x, config)


def rehashed(frame):
    from gpucodec.frame import table_hash

    n_dims, n_parts = int(frame[6]), int(frame[37])
    start = min(-(-(64 + 8 * n_dims + 16 * n_parts) // 16) * 16, frame.size)
    frame[24:32] = np.array([table_hash(frame[:start])], np.uint64).view(np.uint8)
    return frame


def decodes_or_refuses(frame):
    try:
        decoded = decode_quantized(frame, limit=1 << 20)
    except GpucodecError:
        return False
    assert decoded.nbytes <= 1 << 20
    return True


def test_truncation_is_noticed(container):
    for size in (0, 3, 10, 63, 64, 100, container.size - 1):
        with pytest.raises((TruncatedError, UnsupportedError)):
            decode_quantized(container[:size])
    with pytest.raises(GpucodecError, match="bytes, but"):
        decode_quantized(np.append(container, np.uint8(0)))


def test_every_flipped_bit_is_noticed(container):
    for at in range(0, container.size * 8, 7):
        broken = container.copy()
        broken[at // 8] ^= 1 << at % 8
        with pytest.raises(GpucodecError):
            decode_quantized(broken)


def test_headers_that_lie_with_a_valid_hash(container):
    """Every byte of the header, set to many values: refused, or decoded to what it then says."""
    rng = np.random.default_rng(1)
    refused = 0
    for at in [*range(4, 24), *range(32, 64 + 16 + 5 * 16)]:
        for value in {0, 1, 2, 3, 127, 255, int(rng.integers(256))}:
            frame = container.copy()
            frame[at] = value
            refused += not decodes_or_refuses(rehashed(frame))
    assert refused > 300


def test_parts_of_other_containers_are_refused(container):
    rng = np.random.default_rng(5)
    other = encode_quantized(
        rng.normal(size=(20, 100)).astype(np.float32), QuantizeConfig("int4_asym", 32)
    )
    sizes = container[80 : 80 + 16].view(np.uint64)
    start = 80 + 16 * 5
    frame = container.copy()
    codes = slice(start, start + int(sizes[0]))
    theirs = other[80 + 16 * 3 :][: int(sizes[0])]
    frame[codes][: theirs.size] = theirs
    with pytest.raises(GpucodecError, match="hash"):
        decode_quantized(frame)


def test_positions_that_leave_the_tensor_are_refused():
    quantized = quantize(np.ones((4, 64), np.float32), QuantizeConfig("int8"))
    for steps in ([256], [255, 0], [0, 0xFFFFFFFF], [0xFFFFFFFF] * 3):
        parts = [
            gpucodec.encode(array)
            for array in (
                quantized.codes,
                quantized.scales,
                np.array(steps, np.uint32),
                np.ones(len(steps), np.float32),
            )
        ]
        frame = containers.join(quantized.config, BY_NAME["float32"], (4, 64), 1.0, parts)
        with pytest.raises(GpucodecError, match="positions"):
            decode_quantized(frame)


def test_parts_of_another_shape_or_type_are_refused():
    quantized = quantize(np.ones((4, 64), np.float32), QuantizeConfig("int8"))
    good = [quantized.codes, quantized.scales, np.zeros(1, np.uint32), np.ones(1, np.float32)]
    for i, wrong in (
        (0, np.zeros((4, 1 << 20), np.uint8)),
        (0, quantized.codes.view(np.int8)),
        (1, quantized.scales.reshape(-1)),
        (2, np.zeros((1, 1), np.uint32)),
        (2, np.zeros(1, np.uint64)),
        (2, np.zeros(257, np.uint32)),
        (3, np.ones(2, np.float32)),
        (3, np.ones(1, np.float64)),
    ):
        arrays = [*good[:i], wrong, *good[i + 1 :]]
        parts = [gpucodec.encode(array) for array in arrays]
        frame = containers.join(quantized.config, BY_NAME["float32"], (4, 64), 1.0, parts)
        with pytest.raises(GpucodecError, match=r"header makes|have shape"):
            decode_quantized(frame)
