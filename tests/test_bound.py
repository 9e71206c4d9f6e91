# SPDX-License-Identifier: Apache-2.0
"""Error bounds are promises: no finite value breaks one, whatever the format."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from gpucodec.kernels import quantspec as spec
from gpucodec.quant import ErrorBound, QuantizeConfig, dequantize, quantize

FORMATS = tuple(spec.BY_NAME)
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, np.float64, ml_dtypes.float8_e5m2)
BOUNDS = (
    *(ErrorBound(abs=value) for value in (0.0, 1e-45, 1e-3, 0.1, 1e30)),
    *(ErrorBound(rel=value) for value in (0.0, 1e-7, 1e-3, 0.05, 0.9)),
    *(ErrorBound(range=value) for value in (0.0, 1e-6, 1e-3, 0.02)),
)


@np.errstate(all="ignore")
def assert_kept(x, decoded, bound):
    """Whether no value is off by more than the bound says, and all that is not finite is as it was."""
    wide, back = x.astype(np.float64), decoded.astype(np.float64)
    finite = np.isfinite(wide)
    unsigned = f"u{x.dtype.itemsize}"
    assert (decoded[~finite].view(unsigned) == x[~finite].view(unsigned)).all()
    assert np.isfinite(back[finite]).all()
    wide, back = wide[finite], back[finite]
    if not wide.size:
        return
    difference = np.abs(back - wide)
    if bound.abs is not None:
        allowed = np.full_like(wide, bound.abs)
    elif bound.rel is not None:
        allowed = bound.rel * np.abs(wide)
    else:
        allowed = np.full_like(wide, bound.range * (wide.max() - wide.min()))
    # Within a rounding of float64 of the bound, more digits decide.
    close = ~(difference <= allowed * (1 - 2.0**-50))
    if not close.any():
        return
    spread = np.longdouble(wide.max()) - np.longdouble(wide.min())
    wide, back = wide[close].astype(np.longdouble), back[close].astype(np.longdouble)
    if bound.abs is not None:
        exact = np.longdouble(bound.abs)
    elif bound.rel is not None:
        exact = np.longdouble(bound.rel) * np.abs(wide)
    else:
        exact = np.longdouble(bound.range) * spread
    assert (np.abs(back - wide) <= exact).all()


def roundtrip(x, name, bound, **more):
    return dequantize(quantize(x, QuantizeConfig(name, 32, bound=bound, **more)))


@np.errstate(all="ignore")
def magnitudes(dtype, seed):
    """Ordinary rows, rows of one magnitude each over the whole range, and random patterns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 150))
    x[8:] *= 10.0 ** rng.uniform(-44, 38, (12, 1))
    itemsize = np.dtype(dtype).itemsize
    patterns = rng.integers(0, 256, (3, 150 * itemsize), np.uint8).view(dtype)
    return np.concatenate([x.astype(dtype), patterns])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("name", FORMATS)
def test_no_value_breaks_its_bound(name, dtype):
    x = magnitudes(dtype, 1)
    for bound in BOUNDS:
        assert_kept(x, roundtrip(x, name, bound), bound)


@pytest.mark.parametrize("name", ["int8", "int4_asym", "nf4", "mxfp8_e4m3", "nvfp4", "log8"])
def test_stochastic_rounding_keeps_bounds(name):
    x = magnitudes(np.float32, 2)
    for bound in BOUNDS:
        assert_kept(x, roundtrip(x, name, bound, rounding="stochastic", seed=4), bound)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_16_bit_value_keeps_its_bound(name, dtype):
    order = np.arange(1 << 16, dtype=np.uint32) * 40503 % (1 << 16)
    x = order.astype(np.uint16).view(dtype).reshape(-1, 128)
    for bound in (ErrorBound(rel=0.02), ErrorBound(abs=0.1), ErrorBound(range=1e-3)):
        assert_kept(x, roundtrip(x, name, bound), bound)


def float32_patterns(start, count):
    index = np.arange(start, start + count, dtype=np.uint64) * np.uint64(2654435761)
    return index.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_of_float32_values_keeps_its_bound(name):
    x = float32_patterns(12345, 1 << 17)
    for bound in (ErrorBound(rel=0.02), ErrorBound(abs=1e-3)):
        assert_kept(x, roundtrip(x, name, bound), bound)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", FORMATS)
def test_every_float32_value_keeps_its_bound(name, part):
    bound = ErrorBound(rel=0.02)
    for start in range(part << 29, part + 1 << 29, 1 << 21):
        x = float32_patterns(start, 1 << 21)
        assert_kept(x, roundtrip(x, name, bound), bound)


@given(
    x=hnp.arrays(np.float32, st.integers(1, 70), elements=st.floats(width=32)),
    name=st.sampled_from(FORMATS),
    kind=st.sampled_from(["abs", "rel", "range"]),
    value=st.floats(0, 1e3, allow_subnormal=False),
)
def test_no_array_breaks_a_bound(x, name, kind, value):
    bound = ErrorBound(**{kind: value})
    assert_kept(x, roundtrip(x, name, bound), bound)


@pytest.mark.parametrize("name", FORMATS)
def test_a_bound_of_zero_is_lossless(name):
    x = magnitudes(np.float32, 3)
    for kind in ("abs", "rel", "range"):
        decoded = roundtrip(x, name, ErrorBound(**{kind: 0.0}))
        assert (decoded.view(np.uint32) == x.view(np.uint32)).all()


def test_only_values_that_need_it_are_exceptions():
    """A bound that the format meets anyway costs nothing."""
    x = np.random.default_rng(5).normal(size=(64, 256)).astype(np.float32)
    step = np.abs(x).max() / 127
    assert not quantize(x, QuantizeConfig("int8", bound=ErrorBound(abs=step))).positions.size
    tight = quantize(x, QuantizeConfig("int8", bound=ErrorBound(abs=step / 8)))
    assert 0 < tight.positions.size < x.size
    assert not quantize(np.abs(x), QuantizeConfig("log8", bound=ErrorBound(rel=0.1))).positions.size


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({}, ValueError),
        ({"abs": 1.0, "rel": 1.0}, ValueError),
        ({"abs": -1.0}, ValueError),
        ({"rel": float("nan")}, ValueError),
        ({"range": float("inf")}, ValueError),
        ({"abs": "1"}, TypeError),
        ({"abs": True}, TypeError),
    ],
)
def test_bounds_that_make_no_sense(wrong, error):
    with pytest.raises(error):
        ErrorBound(**wrong)
