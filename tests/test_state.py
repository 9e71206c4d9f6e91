# SPDX-License-Identifier: Apache-2.0
"""Training goes on from quantized optimizer state, in formats that the policy lets through."""

from __future__ import annotations

import numpy as np
import pytest

from gpucodec.quant import (
    ErrorBound,
    QuantizeConfig,
    StateFormatError,
    check_state_format,
    decode_quantized,
    encode_quantized,
    quantize,
)

Q8_0 = QuantizeConfig("int8", 32, "f16")
TOLERANCE = 1e-3  # of the loss


def through(**configs):
    """A change that stores state as frames in formats that the policy allows."""

    def change(kind, state):
        check_state_format(kind, configs[kind])
        decoded = decode_quantized(encode_quantized(state, configs[kind], threads=1))
        return state.new_tensor(decoded)

    return change


def q8_0(_kind, state):
    """Blocks of 32 int8 values and a float16 scale, without gpucodec's exceptions: as in GGUF."""
    if state.shape[-1] % 32:
        return state
    blocks = quantize(state, QuantizeConfig("int8", 32))
    codes = blocks.codes.view(np.int8).reshape(*blocks.scales.shape, 32)
    scales = blocks.scales.astype(np.float16).astype(np.float32)[..., None]
    return state.new_tensor((codes * scales).reshape(state.shape))


def changes():
    return {
        "m int8, v log8": through(
            exp_avg=QuantizeConfig("int8", 32), exp_avg_sq=QuantizeConfig("log8")
        ),
        "m, v mxfp8": through(
            exp_avg=QuantizeConfig("mxfp8_e4m3"), exp_avg_sq=QuantizeConfig("mxfp8_e4m3")
        ),
        "m nf4, v log8": through(exp_avg=QuantizeConfig("nf4"), exp_avg_sq=QuantizeConfig("log8")),
        "m, v Q8_0": q8_0,
    }


def check(size, beta2):
    resume = pytest.importorskip("resume", reason="torch is not installed")
    results = resume.experiment(getattr(resume, size), beta2, changes())
    for name, (first, last) in results.items():
        print(f"beta2 {beta2}  {name:16} first 20 steps {first:+.4f}  final {last:+.4f}")
    bad = results.pop("m, v Q8_0")
    assert bad[0] > 0.05, "the layout that the policy refuses is not harmful here: test it harder"
    for name, deltas in results.items():
        assert max(deltas) < TOLERANCE, (name, deltas)


def test_training_resumes_from_quantized_state():
    check("QUICK", 0.95)


@pytest.mark.long
@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_training_resumes_from_quantized_state_at_full_size(beta2):
    check("FULL", beta2)


def test_float16_scales_are_refused_for_second_moments_with_the_reason():
    with pytest.raises(StateFormatError, match=r"f16 rounds the small ones to zero.*Use log8"):
        check_state_format("exp_avg_sq", Q8_0)


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("exp_avg_sq", QuantizeConfig("int8", 32), "far below their block's largest"),
        ("exp_avg_sq", QuantizeConfig("nf4"), "far below"),
        ("exp_avg_sq", QuantizeConfig("dynamic8"), "far below"),
        ("exp_avg_sq", QuantizeConfig("nvfp4"), "orders of magnitude"),
        ("exp_avg_sq", QuantizeConfig("mxfp8_e4m3", scale_type="e4m3"), "orders of magnitude"),
        ("max_exp_avg_sq", QuantizeConfig("int8", bound=ErrorBound(abs=1e-9)), "far below"),
        ("exp_avg_sq", QuantizeConfig("int8", bound=ErrorBound(rel=0.5)), "relative error of 0.5"),
        ("exp_avg", QuantizeConfig("log8"), "negative"),
        ("param", QuantizeConfig("log8"), "negative"),
        ("exp_avg", Q8_0, "float16 cannot hold"),
        ("step", QuantizeConfig("int8"), "exact or it is wrong"),
        ("running_mean", QuantizeConfig("int8"), "exact or it is wrong"),
    ],
)
def test_formats_that_state_does_not_survive_are_refused(kind, config, reason):
    with pytest.raises(StateFormatError, match=reason):
        check_state_format(kind, config)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("exp_avg_sq", QuantizeConfig("log8", axis="auto")),
        ("exp_avg_sq", QuantizeConfig("mxfp8_e4m3")),
        ("exp_avg_sq", QuantizeConfig("mxfp8_e5m2", scaling_mode="floor")),
        ("exp_avg_sq", QuantizeConfig("int8", bound=ErrorBound(rel=0.05))),
        ("exp_avg", QuantizeConfig("int8")),
        ("exp_avg", QuantizeConfig("nf4")),
        ("param", QuantizeConfig("int8", 32, "f16")),
        ("grad", QuantizeConfig("mxfp4")),
        ("master_weight", QuantizeConfig("mxfp8_e4m3")),
    ],
)
def test_formats_that_state_survives_pass(kind, config):
    check_state_format(kind, config)


def test_log8_keeps_updates_precise():
    """Second moments over six orders of magnitude: the step is right to 50 dB."""
    rng = np.random.default_rng(0)
    v = np.exp(rng.normal(-18, 0.8, (256, 512))).astype(np.float32) * rng.gamma(1, size=(256, 1))
    v = v.astype(np.float32)
    m = np.sqrt(v) * rng.normal(size=v.shape).astype(np.float32)
    frame = encode_quantized(v, QuantizeConfig("log8"))
    assert 8 * frame.nbytes / v.size <= 8.25
    exact, step = (m / (np.sqrt(x.astype(float)) + 1e-8) for x in (v, decode_quantized(frame)))
    assert 10 * np.log10((exact**2).sum() / ((exact - step) ** 2).sum()) > 50
