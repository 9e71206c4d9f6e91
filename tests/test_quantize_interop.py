# SPDX-License-Identifier: Apache-2.0
"""Codes and scales are, byte for byte, those that torchao, bitsandbytes and gguf make."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from gpucodec.errors import UnsupportedError
from gpucodec.quant import QuantizeConfig, quantize

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # what these packages say about themselves

DTYPES = ("float32", "bfloat16")
SCALES = (1.0, 1e-6, 1e5)
MX = {
    "mxfp8_e4m3": "float8_e4m3fn",
    "mxfp8_e5m2": "float8_e5m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp4": "float4_e2m1fn_x2",
}


@pytest.fixture(scope="module")
def torchao():
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao", reason="torchao is not installed")
        from torchao.prototype.mx_formats import config, mx_tensor, nvfp4_tensor
    logging.disable(logging.NOTSET)
    return mx_tensor.MXTensor, nvfp4_tensor, config.ScaleCalculationMode


@pytest.fixture(scope="module")
def bitsandbytes():
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        from bitsandbytes import functional
    logging.disable(logging.NOTSET)
    return functional


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="gguf is not installed")


def sample(dtype, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(256, 512)) * np.exp(rng.normal(size=(256, 1))) * scale
    return torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype))


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MX)
def test_mx_formats_are_torchaos(torchao, name, dtype, scale):
    tensor_class, _, modes = torchao
    element = getattr(torch, MX[name], MX[name])
    x = sample(dtype, scale)
    for mode in ("floor", "even", "rceil", "ceil"):
        for block in (16, 32, 128):
            quantized = quantize(x, QuantizeConfig(name, block, scaling_mode=mode))
            ours = quantized.to_torchao()
            theirs = tensor_class.to_mx(x, element, block, modes[mode.upper()])
            assert (raw(ours.qdata) == raw(theirs.qdata)).all(), (mode, block)
            assert (raw(ours.scale) == raw(theirs.scale)).all(), (mode, block)
            decoded = quantized.dequantize()
            unsigned = f"u{decoded.dtype.itemsize}"
            expected = raw(ours.dequantize(x.dtype)).view(unsigned)
            assert (decoded.view(unsigned).reshape(-1) == expected.reshape(-1)).all(), (mode, block)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvfp4_is_torchaos(torchao, dtype, scale):
    _, module, _ = torchao
    x = sample(dtype, scale)
    quantized = quantize(x, QuantizeConfig("nvfp4"))
    ours = quantized.to_torchao()
    factor = module.per_tensor_amax_to_scale(x.abs().max())
    theirs = module.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=factor)
    assert (raw(ours.qdata) == raw(theirs.qdata)).all()
    assert (raw(ours.scale) == raw(theirs.scale)).all()
    assert ours.per_tensor_scale == theirs.per_tensor_scale
    decoded = quantized.dequantize(dtype=np.float32)
    assert (ours.dequantize(torch.float32).numpy() == decoded).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_are_what_torchao_dequantizes(torchao, name):
    quantized = quantize(sample("float32"), QuantizeConfig(name))
    assert (quantized.to_torchao().dequantize().numpy() == quantized.dequantize()).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dynamic8_is_that_of_bitsandbytes(bitsandbytes, dtype, scale):
    """By its reference implementation; the CPU's own finds the nearest code only nearly always."""
    x = sample(dtype, scale)
    quantized = quantize(x, QuantizeConfig("dynamic8"))
    codes, state = quantized.to_bitsandbytes()
    reference = torch.ops.bitsandbytes.quantize_blockwise.default._op_dk(
        torch._C.DispatchKey.CompositeExplicitAutograd, x, state.code, 256
    )
    assert (codes == reference[0]).all()
    assert (state.absmax == reference[1]).all()
    quick, quick_state = bitsandbytes.quantize_blockwise(x, blocksize=256)
    assert (codes != quick).float().mean() < 0.005
    assert (state.absmax == quick_state.absmax).all()
    decoded = bitsandbytes.dequantize_blockwise(codes, state)
    assert (raw(decoded).reshape(-1) == quantized.dequantize().view(np.uint8).reshape(-1)).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nf4_is_that_of_bitsandbytes(bitsandbytes, dtype, scale):
    x = sample(dtype, scale)
    for block in (64, 256):
        quantized = quantize(x, QuantizeConfig("nf4", block))
        codes, state = quantized.to_bitsandbytes()
        expected, theirs = bitsandbytes.quantize_4bit(x, blocksize=block, quant_type="nf4")
        assert codes.shape == expected.shape
        assert (codes == expected).all()
        assert state == theirs
        decoded = bitsandbytes.dequantize_4bit(codes, state)
        assert (raw(decoded).reshape(-1) == quantized.dequantize().view(np.uint8).reshape(-1)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("name", "kind"), [("int8", "Q8_0"), ("int4", "Q4_0"), ("int4_asym", "Q4_1")]
)
def test_integer_blocks_are_those_of_gguf(gguf, name, kind, scale):
    x = sample("float32", scale).numpy()
    x[5, :32], x[6, 3], x[7, 40] = 0, 2 * x.max(), -2 * x.max()
    x[8, 10], x[8, 20] = -3 * scale, 3 * scale  # the first of equals decides the sign
    blocks = quantize(x, QuantizeConfig(name, 32)).to_gguf(exceptions="drop")
    expected = gguf.quants.quantize(x, getattr(gguf.GGMLQuantizationType, kind))
    assert (blocks == expected).all()


def test_mxfp4_blocks_mean_in_gguf_what_they_mean_here(gguf):
    quantized = quantize(sample("float32").numpy(), QuantizeConfig("mxfp4"))
    decoded = gguf.quants.dequantize(quantized.to_gguf(), gguf.GGMLQuantizationType.MXFP4)
    assert (decoded == quantized.dequantize()).all()


def test_nvfp4_blocks_mean_in_gguf_what_they_mean_here(gguf):
    quantized = quantize(sample("float32").numpy(), QuantizeConfig("nvfp4"))
    decoded = gguf.quants.dequantize(quantized.to_gguf(), gguf.GGMLQuantizationType.NVFP4)
    ours = quantized.dequantize()  # the tensor scale is multiplied in another order
    assert np.abs(decoded * np.float32(quantized.tensor_scale) - ours).max() < 1e-6 * ours.max()


def test_what_a_layout_cannot_hold_is_refused(torchao, bitsandbytes):
    x = np.ones((4, 64), np.float32)
    x[1, 5] = np.nan
    hurt = {name: quantize(x, QuantizeConfig(name, 32)) for name in ("int8", "mxfp4", "nf4")}
    for quantized, method in (
        (hurt["int8"], "to_gguf"),
        (hurt["mxfp4"], "to_torchao"),
        (hurt["nf4"], "to_bitsandbytes"),
    ):
        with pytest.raises(UnsupportedError, match="1 values are kept as exceptions"):
            getattr(quantized, method)()
        assert getattr(quantized, method)(exceptions="drop") is not None
    tail = np.ones((4, 70), np.float32)
    for config, method, message in (
        (QuantizeConfig("mxfp4"), "to_torchao", "divide the last axis"),
        (QuantizeConfig("log8", 16), "to_torchao", "divide"),
        (QuantizeConfig("int8", 32), "to_gguf", "whole blocks"),
        (QuantizeConfig("nf4"), "to_gguf", "no layout"),
        (QuantizeConfig("int8"), "to_gguf", "no layout"),
        (QuantizeConfig("int8"), "to_bitsandbytes", "no layout"),
        (QuantizeConfig("nf4"), "to_bitsandbytes", "flat array"),
        (QuantizeConfig("nf4", axis=0), "to_bitsandbytes", "axis 0"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            getattr(quantize(tail, config), method)()
    for config in (QuantizeConfig("log8"), QuantizeConfig("mxfp4", scale_type="f32")):
        with pytest.raises(UnsupportedError, match="torchao has no layout"):
            quantize(np.ones((4, 256), np.float32), config).to_torchao()
    with pytest.raises(UnsupportedError, match="no blocks"):
        quantize(np.ones((0, 64), np.float32), QuantizeConfig("mxfp4")).to_torchao()
