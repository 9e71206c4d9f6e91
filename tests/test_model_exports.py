# SPDX-License-Identifier: Apache-2.0
"""The compressed model runs in other runtimes and agrees; what is missing is named."""

from __future__ import annotations

import builtins

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gpucodec import UnsupportedError  # noqa: E402
from gpucodec.model import (  # noqa: E402
    Prune,
    Quantize,
    compress_model,
    export_onnx,
    export_tflite,
    load_program,
)

EXPORTS = {
    "onnx": (export_onnx, ("onnx", "onnxscript", "onnxruntime", "onnxslim")),
    "tflite": (export_tflite, ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")),
}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 8)),
    ).eval()
    x = torch.randn(4, 1, 8, 8)
    store = tmp_path_factory.mktemp("exports") / "store"
    compress_model(model, (x,), store, prune=Prune(0.5), quantize=Quantize())
    return load_program(store), x


@pytest.mark.filterwarnings("ignore")  # of their packages
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", EXPORTS)
def test_the_file_runs_and_agrees(kind, int8, compressed, tmp_path):
    export, packages = EXPORTS[kind]
    for package in packages:
        pytest.importorskip(package)
    program, x = compressed
    found = export(program, (x,), tmp_path / f"model.{kind}", int8=int8)
    assert found.nbytes == (tmp_path / f"model.{kind}").stat().st_size
    assert found.seconds > 0
    assert found.agreement.max_abs <= (0.05 if int8 else 1e-5)
    assert found.agreement.kl <= (1e-3 if int8 else 1e-9)
    weights = sum(t.nbytes for t in program.state_dict.values() if t.ndim > 1)
    assert found.nbytes < weights * (0.6 if int8 else 1.5)


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_to_install_is_said(kind, compressed, tmp_path, monkeypatch):
    export, packages = EXPORTS[kind]
    real = builtins.__import__

    def absent(name, *rest):
        if name.partition(".")[0] in packages:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    program, x = compressed
    with pytest.raises(UnsupportedError, match=rf"pip install 'gpucodec\[{kind}\]'"):
        export(program, (x,), tmp_path / "model")
    assert not (tmp_path / "model").exists()
