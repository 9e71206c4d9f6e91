# SPDX-License-Identifier: Apache-2.0
"""`compress --quantize`: lossy by name only, within the bound it states, and never optimizer state
that would not survive it.
"""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from cli_cases import contents_of, fails, only, run, same

from gpucodec import QuantizeConfig, dequantize, encode_quantized, quantize
from gpucodec.tensorfiles import safetensors


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "layer.weight": rng.normal(0, 0.02, (96, 200)).astype(np.float32),
        "layer.bias": rng.normal(size=200).astype(np.float32),
        "steps": np.arange(40).reshape(8, 5),
        "optimizer.0.exp_avg": rng.normal(size=(64, 64)).astype(np.float32),
        "optimizer.0.exp_avg_sq": np.exp(rng.normal(-20, 6, (64, 64))).astype(np.float32),
    }


@pytest.fixture
def checkpoint(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    safetensors.write(path, contents_of(tensors))
    return path


def test_matrices_are_quantized_and_the_rest_is_not(tmp_path, checkpoint, tensors):
    store, back = tmp_path / "m.zarr", tmp_path / "back.safetensors"
    result = run("compress", checkpoint, store, "--quantize", "int8", "--bound", "abs=0.001")
    assert "LOSSY: 2 tensors as int8, blocks of 64, every finite value within abs 0.001" in (
        " ".join(result.output.split())
    )
    assert "lossless: 1 tensors, int8 with scales f32 is not for exp_avg_sq" in (
        " ".join(result.output.split())
    )
    root = zarr.open_group(store, mode="r")
    assert root["layer.weight"].serializer.to_dict() == {
        "name": "gpucodec.quantize",
        "configuration": {"format": "int8", "bound": {"abs": 0.001}},
    }
    run("verify", store)
    shown = " ".join(run("inspect", store).output.split())
    assert "int8" in shown
    run("decompress", store, back)
    found = {tensor.name: tensor.read() for tensor in safetensors.read(back).tensors}
    config = QuantizeConfig.from_json({"format": "int8", "bound": {"abs": 0.001}})
    for name, array in tensors.items():
        if name in {"layer.weight", "optimizer.0.exp_avg"}:
            assert same(found[name], dequantize(quantize(array, config)))
            assert np.abs(found[name].astype(float) - array).max() <= 0.001
        else:
            assert same(found[name], array), name


def test_second_moments_are_quantized_in_a_format_that_they_survive(tmp_path, checkpoint, tensors):
    store = tmp_path / "m.zarr"
    run("compress", checkpoint, store, "--quantize", "mxfp8_e4m3")
    codec = zarr.open_group(store, mode="r")["optimizer.0.exp_avg_sq"].serializer
    assert codec.to_dict()["name"] == "gpucodec.quantize"


def test_nothing_is_lossy_unasked(tmp_path, checkpoint):
    store = tmp_path / "m.zarr"
    result = run("compress", checkpoint, store)
    assert "LOSSY" not in result.output
    names = {
        a.serializer.to_dict()["name"] for a in zarr.open_group(store, mode="r").array_values()
    }
    assert names == {"gpucodec.tensor"}


def test_options_that_make_no_sense_are_refused(tmp_path, checkpoint):
    store = tmp_path / "m.zarr"
    assert "--bound is for" in fails("compress", checkpoint, store, "--bound", "rel=0.1")
    quantized = ("compress", checkpoint, store, "--quantize", "int8")
    assert "compares bits" in fails(*quantized, "--check")
    for bound in ("0.1", "rel=x", "size=3", "rel=-1"):
        assert "--bound is like" in fails(*quantized, "--bound", bound)
    zarr.create_array(tmp_path / "other.zarr", data=np.ones((4, 4), np.float32))
    foreign = ("compress", tmp_path / "other.zarr", store, "--quantize", "int8")
    assert "takes a file" in fails(*foreign)
    assert only(tmp_path) == ["model.safetensors", "other.zarr"]


def test_damage_is_found(tmp_path, checkpoint):
    store = tmp_path / "m.zarr"
    run("compress", checkpoint, store, "--quantize", "nf4")
    chunk = next(path for path in (store / "layer.weight").rglob("*") if path.parent.name == "0")
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 1
    chunk.write_bytes(raw)
    assert "damaged" in fails("verify", store, code=1)
    fails("decompress", store, tmp_path / "back.safetensors", code=1)


def test_a_file_that_is_one_container(tmp_path, tensors):
    path = tmp_path / "weight.gpcq"
    array = tensors["layer.weight"].copy()
    array[3, 4] = np.nan
    path.write_bytes(encode_quantized(array, QuantizeConfig("mxfp4")))
    shown = " ".join(run("inspect", path).output.split())
    assert "mxfp4" in shown
    assert "float32" in shown
    assert "sound" in run("verify", path).output
    path.write_bytes(path.read_bytes()[:-16])
    fails("verify", path, code=1)
