# SPDX-License-Identifier: Apache-2.0
"""Files of tensors become checkpoints and come back, by calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from checkpoint_cases import same, training_state
from safetensors.torch import load_file, save_file

from gpucodec import QuantizeConfig, TensorConfig, checkpoint
from gpucodec.checkpoint import Policy, Rule, convert, grid
from gpucodec.errors import CorruptionError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")


@pytest.fixture
def weights():
    torch.manual_seed(0)
    names = {"a.weight": (300, 64), "b.weight": (64,), "c": (3, 4, 32), "d": (96, 32)}
    return {name: 0.02 * torch.randn(shape) for name, shape in names.items()}


def test_files_there_and_back(weights, tmp_path):
    save_file(weights, tmp_path / "w.safetensors", metadata={"format": "pt"})
    told = []
    info = convert.import_file(tmp_path / "w.safetensors", tmp_path / "run", progress=told.append)
    assert sum(told) == info.decoded_bytes == sum(w.nbytes for w in weights.values())
    convert.export_file(tmp_path / "run", tmp_path / "back.safetensors")
    again = (tmp_path / "back.safetensors").read_bytes()
    assert again == (tmp_path / "w.safetensors").read_bytes()
    state = training_state()
    state["rng"].pop("numpy")
    torch.save(state, tmp_path / "state.pt")
    url = "memory://convert-state"
    convert.import_file(str(tmp_path / "state.pt"), url, "resume")
    assert same(checkpoint.load(None, url)["model"], state["model"])
    convert.export_file(url, tmp_path / "back.pt")
    assert same(torch.load(tmp_path / "back.pt", weights_only=True)["model"], state["model"])


def test_hugging_face_directories_of_several_files(weights, tmp_path):
    checkpoint.save(weights, tmp_path / "run")
    convert.export_file(tmp_path / "run", tmp_path / "hf", shard_bytes=30_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights)
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    found = {}
    for name in files:
        found |= load_file(tmp_path / "hf" / name)
    assert same(dict(sorted(found.items())), weights)
    convert.import_file(tmp_path / "hf", tmp_path / "again")
    assert same(dict(checkpoint.load(None, tmp_path / "again")), weights)


def test_what_cannot_be_converted_is_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError):
        convert.import_file(tmp_path / "none.pt", tmp_path / "run")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(UnsupportedError, match="ends in none of"):
        convert.import_file(tmp_path / "x.txt", tmp_path / "run")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CorruptionError):
        convert.import_file(tmp_path / "x.safetensors", tmp_path / "run")
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(UnsupportedError, match=r"no \.safetensors"):
        convert.import_file(tmp_path, tmp_path / "run")
    checkpoint.save(weights, tmp_path / "run")
    with pytest.raises(UnsupportedError, match="ends in none of"):
        convert.export_file(tmp_path / "run", tmp_path / "x.onnx")


FORMATS = [("int8", 32), ("int4", 32), ("int4_asym", 32), ("mxfp4", 32)]


@pytest.mark.parametrize(("name", "block"), FORMATS)
def test_quantized_tensors_as_gguf(name, block, weights, tmp_path, monkeypatch):
    """Codes and scales as they are stored: what GGUF's own code makes of them is what `load` does."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setattr(grid, "CHUNK_BYTES", 20_000)  # several chunks a tensor
    config = QuantizeConfig(name, block)
    policy = Policy((Rule(config, kinds=("param",), min_numel=100),))
    state = {**weights, "half": weights["a.weight"].bfloat16(), "ids": torch.arange(7)}
    moments = {"state": {0: {"exp_avg": weights["d"]}}, "param_groups": [{}]}
    checkpoint.save({"model": state, "optimizer": moments}, tmp_path / "run", policy)
    convert.export_file(tmp_path / "run", tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    loaded = checkpoint.load(None, tmp_path / "run")["model"]
    assert set(found) == {f"model/{name}" for name in state}
    for key, one in loaded.items():
        tensor = found[f"model/{key}"]
        is_integer = tensor.tensor_type.name == "I64"
        values = (
            tensor.data if is_integer else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        )
        expected = one.float().numpy()
        assert values.shape == expected.shape
        tolerance = (
            0 if name == "mxfp4" or one.numel() < 100 else 5e-3
        )  # scales in float16, results in bfloat16
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance / 100)
    assert (
        found["model/a.weight"].tensor_type.name
        == {"int8": "Q8_0", "int4": "Q4_0", "int4_asym": "Q4_1", "mxfp4": "MXFP4"}[name]
    )


def test_what_gguf_has_no_place_for_is_refused(weights, tmp_path):
    pytest.importorskip("gguf")
    for config, reason in (
        (QuantizeConfig("nf4"), "nf4, which GGUF has not"),
        (QuantizeConfig("int8", 64), "GGUF has no layout"),
    ):
        checkpoint.save(weights, tmp_path / "run", Policy((Rule(config, kinds=("param",)),)))
        with pytest.raises(UnsupportedError, match=reason):
            convert.export_file(tmp_path / "run", tmp_path / "model.gguf")
    odd = {"w": torch.zeros(2, 3, dtype=torch.complex64)}
    checkpoint.save(odd, tmp_path / "odd", Policy((Rule(TensorConfig()),)))
    with pytest.raises(UnsupportedError, match="complex64"):
        convert.export_file(tmp_path / "odd", tmp_path / "model.gguf")
