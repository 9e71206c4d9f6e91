# SPDX-License-Identifier: Apache-2.0
"""Quantization: the bytes are those of the document, and no value is lost that must be kept."""

from __future__ import annotations

import pickle

import ml_dtypes
import numpy as np
import pytest
import quant_reference as reference
import spec_decoder

from gpucodec.errors import LimitError, UnsupportedError
from gpucodec.kernels import quantspec as spec
from gpucodec.quant import (
    ErrorBound,
    QuantizeConfig,
    decode_quantized,
    dequantize,
    encode_quantized,
    quantize,
)
from gpucodec.quant.codec import inspect, verify

FORMATS = tuple(spec.BY_NAME)
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)
SPECIAL = np.array(
    [
        *(0, 1 << 31, 1, 0x80000001, 0x007FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345),
        *(0x7F800001, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000),
    ],
    np.uint32,
).view(np.float32)


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def combinations(name):
    row = spec.BY_NAME[name]
    for kind in row.scale_types:
        for mode in spec.SCALING_MODES if kind == spec.E8M0 else (None,):
            yield spec.SCALE_TYPES[kind], mode


def difficult(dtype, seed=0):
    """Rows over the whole range of magnitudes, with special values, ties, and random patterns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 77)).astype(np.float32)
    with np.errstate(all="ignore"):
        x *= np.float32(10) ** rng.integers(-38, 38, (6, 1)).astype(np.float32)
        x[0] = rng.normal(size=77)
        x[1, ::3] = np.resize(SPECIAL, 26)
        x[2] = rng.integers(-3, 4, 77)
        x[3, 5:9] = SPECIAL[5:9]
        x[4] = 1e-37 * rng.normal(size=77)
        x[5, 16:32] = np.nan
        patterns = rng.integers(0, 1 << 32, (2, 77), np.uint32).view(np.float32)
        return np.concatenate([x, patterns, x[:1] + 0]).astype(dtype)


def element_codes(quantized, row):
    """One code an element."""
    codes = quantized.codes
    if quantized.config.spec.bits == 8:
        return codes
    halves = (codes & 15, codes >> 4)
    pairs = np.stack(halves[::-1] if quantized.config.format == "nf4" else halves, axis=-1)
    return pairs.reshape(len(codes), -1)[:, :row]


@pytest.mark.parametrize("seed", [None, 12345678901234567], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_those_of_the_document(name, dtype, seed):
    x = difficult(dtype)
    rounding = "nearest" if seed is None else "stochastic"
    for kind, mode in combinations(name):
        config = QuantizeConfig(name, 16, kind, mode, rounding=rounding, seed=seed or 0)
        quantized = quantize(x, config)
        codes, scales, offsets, factor, flags = reference.quantize(x, name, kind, mode, 16, seed)
        case = f"{kind} {mode}"
        assert (element_codes(quantized, x.shape[1]) == codes).all(), case
        stored = quantized.scales.view(np.uint8) if kind in {"e8m0", "e4m3"} else quantized.scales
        assert (stored.astype(float) == scales.astype(float)).all(), case
        if quantized.offsets is not None:
            assert (quantized.offsets.astype(float) == offsets.astype(float)).all(), case
        assert quantized.tensor_scale == float(factor), case
        assert (quantized.positions == np.flatnonzero(flags)).all(), case
        assert (bits(quantized.values) == bits(x[flags])).all(), case


@pytest.mark.parametrize("shape", [(5, 77), (3, 2, 128), (1,), (), (4, 0), (0, 4), (33, 1)])
@pytest.mark.parametrize("dtype", [*DTYPES, np.float64, ml_dtypes.float8_e4m3fn])
def test_containers_decode_by_the_document(dtype, shape):
    rng = np.random.default_rng(len(shape))
    for name in FORMATS:
        x = np.asarray(rng.normal(size=shape)).astype(dtype)
        x = np.abs(x) if name == "log8" else x
        if x.size > 4:
            x.reshape(-1)[[0, 4]] = np.nan, -0.0
        axis = 0 if len(shape) == 2 and name in {"int8", "nf4"} else -1
        frame = encode_quantized(x, QuantizeConfig(name, 16, axis=axis))
        ours = decode_quantized(frame)
        theirs = spec_decoder.decode(frame.tobytes())
        assert (ours.dtype.name, ours.shape) == (theirs.name, theirs.shape) == (x.dtype.name, shape)
        assert ours.tobytes() == theirs.raw.tobytes(), name
        verify(frame)
        assert inspect(frame).n_exceptions == decode_quantized(frame, dequantize=False).values.size


def all_patterns(dtype, block=32):
    """Every value of a 16-bit type, so that most blocks mix magnitudes, signs and specials."""
    order = np.arange(1 << 16, dtype=np.uint32) * 40503 % (1 << 16)
    return order.astype(np.uint16).view(dtype).reshape(-1, block * 2)


@np.errstate(all="ignore")
def must_be_exact(x):
    wide = x.astype(np.float64)
    small = np.abs(wide) < float(ml_dtypes.finfo(x.dtype).smallest_normal)
    return ~np.isfinite(wide) | small


@pytest.mark.parametrize("rounding", spec.ROUNDINGS)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_16_bit_value_is_kept_or_rounded_within_its_block(name, dtype, rounding):
    x = all_patterns(dtype)
    exact = must_be_exact(x)
    for kind, mode in combinations(name):
        config = QuantizeConfig(name, 32, kind, mode, rounding=rounding)
        decoded = dequantize(quantize(x, config))
        assert (bits(decoded)[exact] == bits(x)[exact]).all(), (kind, mode)
        assert np.isfinite(decoded[~exact].astype(np.float64)).all(), (kind, mode)


FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.mark.parametrize("rounding", spec.ROUNDINGS)
@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("name", FORMATS)
def test_every_8_bit_value_is_kept_or_rounded_within_its_block(name, dtype, rounding):
    x = np.arange(256, dtype=np.uint8).reshape(2, -1).view(getattr(ml_dtypes, dtype))
    exact = must_be_exact(x)
    for kind, mode in combinations(name):
        config = QuantizeConfig(name, 32, kind, mode, rounding=rounding)
        decoded = dequantize(quantize(x, config))
        assert (bits(decoded)[exact] == bits(x)[exact]).all(), (kind, mode)
        assert np.isfinite(decoded[~exact].astype(np.float64)).all(), (kind, mode)


def scattered_float32(start, count):
    """Patterns `start` ... of all of float32, in an order that mixes magnitudes."""
    index = np.arange(start, start + count, dtype=np.uint64) * np.uint64(2654435761)
    return index.astype(np.uint32).view(np.float32)


def check_float32(x, config):
    decoded = dequantize(quantize(x, config))
    exact = must_be_exact(x)
    assert (bits(decoded)[exact] == bits(x)[exact]).all()
    assert np.isfinite(decoded[~exact]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_of_float32_values_is_kept_or_rounded(name):
    for kind, mode in combinations(name):
        check_float32(scattered_float32(0, 1 << 18), QuantizeConfig(name, 64, kind, mode))


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", FORMATS)
def test_every_float32_value_is_kept_or_rounded(name, part):
    for start in range(part << 29, part + 1 << 29, 1 << 21):
        check_float32(scattered_float32(start, 1 << 21), QuantizeConfig(name))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-40, -1e-45])
@pytest.mark.parametrize("name", FORMATS)
def test_specials_do_not_touch_their_neighbours(name, value):
    rng = np.random.default_rng(7)
    x = np.abs(rng.normal(size=(8, 256))).astype(np.float32) + np.float32(0.1)
    for rounding in spec.ROUNDINGS:
        config = QuantizeConfig(name, rounding=rounding)
        clean = quantize(x, config)
        hurt = x.copy()
        places = np.flatnonzero((np.arange(x.size) % 5 == 2) & (x.reshape(-1) < 1))
        hurt.reshape(-1)[places] = value
        # The smallest value of a block may be among those that are gone: make it another's too.
        low = x.min(axis=1, keepdims=True)
        both = [np.concatenate([np.repeat(low, 256, 1), a, x], axis=1) for a in (x, hurt)]
        if name in {"int4_asym", "log8"}:
            clean, damaged = (quantize(a[:, 512 - 256 :], config) for a in both)
            keep = np.ones(512, bool)
            keep[:256] = False
            assert (dequantize(damaged)[:, keep] == dequantize(clean)[:, keep]).all()
            continue
        damaged = quantize(hurt, config)
        assert (bits(damaged.scales) == bits(clean.scales)).all()
        rest = np.setdiff1d(np.arange(x.size), places)
        before, after = dequantize(clean).reshape(-1), dequantize(damaged).reshape(-1)
        assert (before[rest] == after[rest]).all()
        assert (bits(after)[places] == bits(hurt).reshape(-1)[places]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_keep_their_sign(name):
    x = np.zeros((4, 64), np.float32)
    x[1] = -0.0
    x[2, ::2], x[2, 1::2] = 0.0, -0.0
    x[3] = np.where(np.arange(64) % 3 == 0, 0.0, np.linspace(-2, 2, 64))
    decoded = dequantize(quantize(x, QuantizeConfig(name)))
    assert (bits(decoded)[x == 0] == bits(x)[x == 0]).all()


@pytest.mark.parametrize("rounding", spec.ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_threads_and_pieces_do_not_change_a_byte(name, rounding):
    rng = np.random.default_rng(3)
    x = np.abs(rng.normal(size=(96, 8000))).astype(np.float32)
    config = QuantizeConfig(name, 32, rounding=rounding, seed=99)
    one = quantize(x, config, threads=1)
    many = quantize(x, config, threads=5)
    assert (one.codes == many.codes).all()
    assert (bits(one.scales) == bits(many.scales)).all()
    assert (dequantize(one, threads=5) == dequantize(many, threads=1)).all()
    if name != "nvfp4":  # its tensor scale is that of the whole
        first, second = quantize(x[:40], config), quantize(x[40:], config, first_index=40 * 8000)
        assert (np.concatenate([first.codes, second.codes]) == one.codes).all()


@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_is_unbiased_and_keeps_what_is_exact(name):
    x = np.full((4000, 32), 0.3712, np.float32)
    x[:, 0], x[:, 1] = 1.0, 0.0078125
    config = QuantizeConfig(name, 32, rounding="stochastic", seed=5)
    decoded = dequantize(quantize(x, config)).astype(np.float64)
    nearest = dequantize(quantize(x, QuantizeConfig(name, 32)))
    drawn = decoded[:, 2:]
    assert abs(drawn.mean() - x[0, 2]) < 4 * drawn.std() / drawn.size**0.5 + 1e-5
    exact = quantize(nearest, config)
    if name not in {"int4_asym", "log8", "nvfp4"}:  # their scale follows the decoded extremes
        assert (dequantize(exact) == nearest).all()


def test_seeds_give_different_streams():
    x = np.full((64, 64), 0.37, np.float32)
    x[:, 0] = 1
    codes = [
        quantize(x, QuantizeConfig("int4", rounding="stochastic", seed=seed)).codes
        for seed in (0, 1, 1 << 32, 1 << 63)
    ]
    for i, a in enumerate(codes):
        assert all(0.02 < (a != b).mean() < 0.98 for b in codes[:i])


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_blocks_along_another_axis(axis):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3, 50)).astype(np.float32)
    x[3, 1, 7] = np.nan
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    config = QuantizeConfig("int8", 16)
    expected = np.moveaxis(dequantize(quantize(moved, config)), -1, axis)
    frame = encode_quantized(x, QuantizeConfig("int8", 16, axis=axis))
    assert (bits(decode_quantized(frame)) == bits(expected)).all()


def test_log8_finds_the_axis_along_which_values_are_close():
    rng = np.random.default_rng(2)
    columns = 10.0 ** rng.uniform(-20, -8, 300)
    v = (columns * rng.uniform(0.5, 2, (200, 300))).astype(np.float32)
    chosen = quantize(v, QuantizeConfig("log8", axis="auto")).config.axis
    assert chosen == 0
    assert quantize(v.T, QuantizeConfig("log8", axis="auto")).config.axis == -1
    assert quantize(v[0], QuantizeConfig("log8", axis="auto")).config.axis == -1


def test_outputs_of_all_kinds():
    torch = pytest.importorskip("torch")
    x = torch.randn(30, 70, dtype=torch.bfloat16)
    config = QuantizeConfig("mxfp8_e4m3")
    quantized = quantize(x, config)
    frame = encode_quantized(x, config)
    plain_array = quantized.dequantize()
    out = torch.empty_like(x)
    assert decode_quantized(frame, out) is out
    assert (out.view(torch.int16).numpy() == plain_array.view(np.int16)).all()
    strided = np.zeros((30, 140), ml_dtypes.bfloat16)[:, ::2]
    quantized.dequantize(strided)
    assert (strided == plain_array).all()
    wide = quantized.dequantize(dtype=np.float32)
    assert wide.dtype == np.float32
    assert (wide.astype(ml_dtypes.bfloat16) == plain_array).all()
    assert quantized.dequantize(dtype="float64").dtype == np.float64
    assert quantized.dequantize(dtype=torch.float16).dtype == np.float16
    with pytest.raises(ValueError, match="out has"):
        decode_quantized(frame, np.empty(3, np.uint8))
    with pytest.raises(ValueError, match="dequantize=False"):
        decode_quantized(frame, out, dequantize=False)
    with pytest.raises(LimitError):
        decode_quantized(frame, limit=100)
    decode_quantized(frame, np.empty(x.shape, ml_dtypes.bfloat16), limit=100)
    with pytest.raises(UnsupportedError, match="not a float"):
        quantize(np.arange(10), config)
    with pytest.raises(UnsupportedError, match="not a float"):
        dequantize(quantized, dtype=np.int8)
    with pytest.raises(ValueError, match="axis 2"):
        quantize(x, QuantizeConfig("int8", axis=2))


def test_float64_beyond_float32_is_exact():
    x = np.linspace(-3, 3, 200)
    x[::9] = np.resize([1e300, -1e300, 1e-300, -1e-40, 5e-324, np.nan, np.inf, -0.0], 23)
    decoded = dequantize(quantize(x, QuantizeConfig("int8", 32)))
    assert (decoded.view(np.uint64)[::9] == x.view(np.uint64)[::9]).all()
    rest = np.arange(200) % 9 != 0
    assert np.abs(decoded[rest] - x[rest]).max() < 3 / 127


def test_a_structure_of_arrays_that_does_not_fit_is_refused():
    from dataclasses import replace

    quantized = quantize(np.ones((4, 64), np.float32), QuantizeConfig("int8"))
    for change in (
        {"codes": quantized.codes[:, :-1]},
        {"scales": quantized.scales.astype(np.float64)},
        {"shape": (1 << 40, 64)},
        {"positions": np.array([256]), "values": np.ones(1, np.float32)},
        {"values": np.ones(1, np.float32)},
    ):
        with pytest.raises(ValueError, match=r"must be|positions"):
            replace(quantized, **change)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "int7"}, "format is one of"),
        ({"format": "int8", "block_size": 24}, "power of two"),
        ({"format": "int8", "block_size": 8192}, "power of two"),
        ({"format": "log8", "scale_type": "bf16"}, "scale_type is one of f32"),
        ({"format": "int8", "scaling_mode": "floor"}, "for scale_type e8m0"),
        ({"format": "mxfp4", "scaling_mode": "up"}, "scaling_mode is one of"),
        ({"format": "int8", "rounding": "up"}, "rounding is one of"),
        ({"format": "int8", "seed": -1}, "seed"),
        ({"format": "int8", "seed": 1 << 64}, "seed"),
        ({"format": "int8", "axis": "auto"}, "axis auto"),
    ],
)
def test_configurations_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        QuantizeConfig(**wrong)


def test_configurations_are_values():
    for name in FORMATS:
        for kind, mode in combinations(name):
            config = QuantizeConfig(
                name, 64, kind, mode, rounding="stochastic", seed=7, bound=ErrorBound(rel=0.5)
            )
            assert QuantizeConfig.from_json(config.to_json()) == config
            assert pickle.loads(pickle.dumps(config)) == config
            assert hash(config) == hash(QuantizeConfig.from_json(config.to_json()))
        assert QuantizeConfig(name).to_json() == {"format": name}
        assert QuantizeConfig(name) == QuantizeConfig(name, spec.BY_NAME[name].block_size)
    with pytest.raises(TypeError):
        QuantizeConfig.from_json({"format": "int8", "bits": 3})


def test_the_extent_does_not_depend_on_what_is_last():
    """A last unit without a finite value hides no others."""
    from gpucodec.quant import cpu

    for n in (1, 2, 16):
        array = np.concatenate([[3, -5], np.ones(30), np.full(n, np.nan)]).astype(np.float32)
        for pattern in (array, array[::-1].copy()):
            assert cpu.extent(pattern.view(np.uint32), 0, None) == (-5.0, 3.0, 5.0)
    assert cpu.extent(np.full(40, np.nan, np.float32).view(np.uint32), 0, None) == (0.0, 0.0, 0.0)


def test_infinity_has_its_sign_where_a_block_has_no_factor():
    array = np.array([np.inf, -np.inf] * 8 + [0.0] * 16, np.float32)
    codes = quantize(array, QuantizeConfig("nvfp4")).codes[:8]
    assert set((codes >> 3 & 1).tolist()) == {0}
    assert set((codes >> 7).tolist()) == {1}
