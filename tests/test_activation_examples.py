# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/activations.md run, on little."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # torch's and, about forks, Python's own
    "ignore::zarr.errors.UnstableSpecificationWarning",
)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_past_memory(tmp_path):
    options = [
        "--width",
        "32",
        "--layers",
        "2",
        "--steps",
        "2",
        "--batch",
        "8",
        "--length",
        "64",
        "--budget-mb",
        "0.3",
    ]
    stats = load("train_past_memory").main([str(tmp_path), *options])
    assert stats.peak_inflight_bytes <= 600_000
    assert stats.raw_bytes > 5 * stats.peak_inflight_bytes
    assert not list(tmp_path.iterdir())


def test_harvesting(tmp_path):
    example = load("harvest_activations")
    store = str(tmp_path / "acts.zarr")
    assert example.harvest(store, 1024) == 4  # as if it had been stopped there
    n_run, losses = example.main([store, "--tokens", "2048", "--epochs", "3", "--workers", "1"])
    assert n_run == 4
    assert losses[-1] < losses[0]


def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))  # bench/ is not installed
    from bench import activations as bench

    for name, value in {"WIDTH": 32, "LAYERS": 2, "LENGTH": 64, "BUDGET": 1 << 16}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "process_memory", lambda *_: 1e6)
    monkeypatch.setenv("GPUCODEC_BENCH_CACHE", str(tmp_path / "no corpus"))
    bench.training(str(tmp_path), 1, bf16=False)
    bench.kinds(1)
    bench.harvest(str(tmp_path), 1 << 25)
    bench.reading(str(tmp_path))
    out = capsys.readouterr().out
    assert "stream_activations" in out
    assert "of activations in" in out
    assert "rows/s" in out


def test_the_document_names_what_there_is():
    """Every parameter and every count that it names exists."""
    import inspect

    from gpucodec import activations

    text = (ROOT / "docs" / "activations.md").read_text()
    for name in activations.__all__:
        assert name in text, name
    for parameter in inspect.signature(activations.stream_activations).parameters:
        assert f"`{parameter}`" in text, parameter
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
