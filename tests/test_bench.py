# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run end to end and do not flatter: losses are reported as losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import gpucodec

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # bench/ is not installed

from bench import (  # noqa: E402
    bounds,
    corpus,
    goals,
    growth,
    levels,
    measure,
    must_show,
    peers,
    record,
    state_ratios,
    states,
    zarr_io,
)

FAKES = {
    "weights": np.float32,
    "gradients": np.float32,
    "gradients_autocast": np.float32,
    "exp_avg": np.float32,
    "exp_avg_sq": np.float32,
    "pre_relu": ml_dtypes.bfloat16,
    "post_relu": ml_dtypes.bfloat16,
    "attention": ml_dtypes.bfloat16,
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A corpus of random numbers where the trained one would be, so that nothing is trained."""
    monkeypatch.setenv(corpus.CACHE_VARIABLE, str(tmp_path))
    folder = corpus.cache_folder("tiny")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, dtype in FAKES.items():
        values = rng.normal(0, 0.02, (300, 256))
        values = np.maximum(values, 0) if name == "post_relu" else values
        save_file({"a": values.astype(dtype)}, folder / f"{name}.safetensors")
    (folder / "sources.jsonl").write_text('{"text": "import this"}\n' * 1000)
    (folder / corpus.FACTS).write_text(json.dumps({"losses": [5.5, 2.5], "seconds": 0}))
    return folder


@pytest.mark.usefixtures("cache")
def test_quick_run(tmp_path):
    written, tables = tmp_path / "figures.json", tmp_path / "tables.md"
    tables.write_text("Kept.\n<!-- begin lossless -->\nstale\n<!-- end lossless -->\n")
    options = ["--quick", "--size", "tiny", "--rounds", "1", "--json", written]
    subprocess.run(
        [sys.executable, "-m", "bench.lossless", *options, "--markdown", tables],
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    figures = json.loads(written.read_text())
    weights = figures["contests"]["native"]["kinds"]["weights bfloat16"]
    assert 1.4 < weights["results"][peers.OURS]["ratio"] < weights["bound"] < 1.6
    assert weights["bound_top_field"] <= weights["bound"]
    assert set(figures["threads"]) >= {"encode", "decode"}
    text = tables.read_text()
    assert text.startswith("Kept.")
    assert "| weights bfloat16 |" in text
    assert "stale" not in text


def test_every_kind_is_made(cache):
    opened = corpus.Corpus(cache)
    for kind in opened.kinds():
        if kind.startswith("pretrained"):
            continue
        array = opened.flat(kind)
        assert array.dtype.name == kind.split()[-1]
        assert array.size > 1000, kind


def test_bounds_of_known_entropy():
    assert bounds.ratios(np.zeros(1000, np.uint16))[0] == 16_000  # no bits at all count as one
    uniform = np.arange(1 << 16, dtype=np.uint16)
    assert bounds.ratios(uniform) == pytest.approx((1, 1))
    signs = np.resize(np.array([1, -1], np.float32), 4096).astype(ml_dtypes.bfloat16)
    assert bounds.ratios(signs) == pytest.approx((16, 2))  # one bit of sign; the exponent is free
    for d in bounds.spec.DTYPES:  # fields put together again are the transformed word
        array = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, d.name, d.name))
        assert sum(width for width, _ in bounds.fields(array)) == 8 * d.word_bytes


def test_a_codec_that_loses_bits_is_not_timed():
    array = np.arange(1000, dtype=np.uint8)
    lossy = peers.Codec("lossy", "0", np.copy, lambda a: a >> 1, lambda a: a << 1)
    with pytest.raises(RuntimeError, match="lossy does not return uint8 as it was"):
        measure.race(array, [lossy])


def test_races_compare_within_rounds():
    array = np.zeros(1000, np.uint8)
    fast = peers.Codec(peers.ZIPNN, "0", np.copy, np.copy, np.copy)
    [result] = measure.race(array, [fast], rounds=3)
    assert (result.encode_x, result.decode_x, result.rounds, result.ratio) == (1, 1, 3, 1)
    assert measure.relative([2, 20, 4], [1, 10, 1]) == 2
    assert measure.spread([1.0]) == 0


def test_goals_show_losses_and_gaps():
    def contest(level, encode_x, decode_x):
        results = {
            peers.OURS: {"ratio": 1.49, "encode_x": encode_x, "decode_x": decode_x},
            peers.ZIPNN: {"ratio": 1.50},
        }
        return {"level": level, "kinds": {goals.TRAINED: {"bound": 1.51, "results": results}}}

    contests = {"native": contest("avx512", 2.5, 1.4), "plain": contest("plain", 0.9, 0.9)}
    found = {goal.name: goal.holds for goal in goals.goals({"contests": contests})}
    assert found[f"ratio, {goals.TRAINED}"] is False
    assert found["encode, avx512, one core"] is True
    assert found["decode, avx512, one core"] is False
    assert found["encode, avx2, one core"] is None
    assert found["decode, plain, one core"] is True
    rows = {row[0]: row[-1] for row in goals.table({"contests": contests}).rows}
    assert rows["decode, avx512, one core"] == "NO"
    assert rows["encode, avx2, one core"] == "not measured"


def test_levels_reach_numba(tmp_path, monkeypatch):
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import json, os, sys\n"
        "open(sys.argv[-1], 'w').write(json.dumps(os.environ.get('NUMBA_CPU_NAME')))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NUMBA_CPU_NAME", "of the caller")
    assert levels.run("probe", [], "plain") == "generic"
    assert levels.run("probe", []) is None


def test_filesystem_run():
    done = subprocess.run(
        [sys.executable, "-m", "bench.fs", "--mib", "24", "--rounds", "1"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "ratio 1.4" in done.stdout
    blocks = float(done.stdout.partition("64 KiB: ")[2].split()[0])
    assert 1 <= blocks <= 1.5
    faster = float(done.stdout.partition(" ms, ")[2].split()[0])
    assert faster >= 20


def test_the_bound_of_predicted_matrices_is_one():
    """Never above what the encoder needs, and hardly below it."""
    rng = np.random.default_rng(0)
    scales = np.exp2(rng.normal(0, 3, (512, 1)) + rng.normal(0, 3, 512))
    array = (scales * rng.chisquare(4, (512, 512))).astype(np.float32)
    bound = bounds.best_bits(array) / 8
    assert bound < 0.95 * bounds.bits(array) / 8
    assert bound <= gpucodec.encode(array).size <= 1.02 * bound
    noise = rng.integers(0, 256, 1 << 20, np.uint8).view(np.float32)
    assert bounds.best_bits(noise) == bounds.bits(noise)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZipNN imports
def test_ratios_of_a_training_state():
    """Everything that is stored counts, weights are derived, and the bound is near."""
    pytest.importorskip("zipnn")
    pytest.importorskip("zstandard")
    rng = np.random.default_rng(0)

    def parts(step):
        drift = np.random.default_rng(1).normal(0, 1e-5 * step, (300, 256))
        arrays = {"weights": rng.normal(0, 0.02, (300, 256)) + drift}
        arrays |= {"exp_avg": drift, "exp_avg_sq": drift**2}
        rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
        return {k: {"a": torch.from_numpy(v.astype(np.float32))} for k, v in arrays.items()}

    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
    state, later = (states.mixed(parts(step), step) for step in (1, 2))
    full = state_ratios.full_table(state)
    rows = {row[0]: row[1:] for row in full.rows}
    assert rows["gpucodec"][0] == rows["bound"][0] == "derived"
    assert float(rows["gpucodec"][-1]) == pytest.approx(float(rows["bound"][-1]), rel=0.04)
    assert float(rows["gpucodec, weights stored too"][-1]) < float(rows["gpucodec"][-1])
    delta = {row[0]: row[1:] for row in state_ratios.delta_table(state, later).rows}
    assert float(delta["gpucodec"][1]) > float(rows["gpucodec"][1])
    [ten, few] = state_ratios.weights_table(state, later).rows
    assert float(few[2]) > float(ten[2]) > 1.5
    assert few[1] == "1.00 %"


def test_figures_reach_the_report(tmp_path, monkeypatch):
    path = tmp_path / "figures.jsonl"
    record.record("lz", "nobody listens", ratio=1.0)
    monkeypatch.setenv(record.VARIABLE, str(path))
    record.record("lz", "text ratio", ratio=np.float64(2), zstd=1.5)
    record.record("fs", "local", blocks=1.6)
    assert record.read(path) == {
        "lz": {"text ratio": {"ratio": 2.0, "zstd": 1.5}},
        "fs": {"local": {"blocks": 1.6}},
    }


def test_the_report_judges_and_admits_what_was_not_measured():
    assert all(goal.holds is None for goal in must_show.goals({}))
    found = {
        "fs": {"local": {"blocks": 1.6, "faster": 30, "decode": 1.0, "encode": 0.5}},
        "activations": {"training float32": {"held": 8, "plain": 100, "wall_x": 1.2}},
    }
    held = {goal.name: goal.holds for goal in must_show.goals(found)}
    assert held["files: random 64 KiB read: blocks fetched"] is False
    assert held["files: random read beside the whole file"] is True
    assert held["files: sequential write beside the codec"] is False
    assert held["activations held in memory, float32"] is True
    assert held["step beside plain training, float32"] is False
    assert held["activations held in memory, bfloat16"] is None


def test_zarr_io_compares_every_bit(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(0, 0.02, (64, zarr_io.ROW))
    array = values.astype(ml_dtypes.bfloat16)
    monkeypatch.setattr(zarr_io, "CHUNK_BYTES", 16 * zarr_io.ROW * array.itemsize)
    table = zarr_io.race("weights", array, tmp_path, 1)
    ratios = {row[0]: float(row[1]) for row in table.rows}
    assert ratios["gpucodec"] == ratios["gpucodec, zarr's pipeline"] > 1.4
    assert 0.9 < ratios["zarr, uncompressed"] <= 1 < ratios["zarr, zstd (its default)"]
    assert not list(tmp_path.iterdir())

    class Forgetful:
        def __getitem__(self, key: object) -> np.ndarray:
            return 0 * array[key]

    ours = zarr_io.with_zarr("forgetful")
    ours.open = lambda _: Forgetful()
    monkeypatch.setattr(zarr_io, "contestants", lambda _: [ours])
    with pytest.raises(RuntimeError, match="forgetful does not return weights"):
        zarr_io.race("weights", array, tmp_path, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZipNN imports
@pytest.mark.usefixtures("cache")
def test_growth_is_measured_up_to_the_size_allowed(monkeypatch, capsys):
    monkeypatch.setattr(growth, "COUNTS", (1, 20))
    monkeypatch.setattr(measure, "pin", lambda: None)
    monkeypatch.setattr(sys, "argv", ["growth", "--size", "tiny", "--most-bytes", "20000"])
    growth.main()
    out = capsys.readouterr().out
    assert "| 16 KiB | gpucodec |" in out
    assert "64 KiB | gpucodec" not in out
    assert "| 20 |" in out


@pytest.mark.long
@pytest.mark.usefixtures("cache")
def test_one_report_of_all(tmp_path):
    """Of the two quickest parts; what fails and what is left out is in it."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "report"
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--size",
        "tiny",
        "--folder",
        str(folder),
        "gpu",
        "transforms",
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    report = json.loads((folder / "report.json").read_text())
    assert set(report["parts"]) == {"gpu", "transforms"}
    judged = {goal["name"]: goal["holds"] for goal in report["goals"]}
    assert judged["GPU: bf16 decode, profile ratio"] is None
    assert "## transforms: " in (folder / "report.md").read_text()
