# SPDX-License-Identifier: Apache-2.0
"""Files become checkpoints and come back, by commands of one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from checkpoint_cases import same, training_state
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from gpucodec import checkpoint
from gpucodec.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")


def command(*arguments, code=0):
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def run(*arguments, code=0):
    return command("checkpoint", *arguments, code=code)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    names = {"a.weight": (300, 40), "b.weight": (40,), "c/d": (3, 4, 5), "scalar": ()}
    return {name: torch.randn(shape).bfloat16() for name, shape in names.items()}


def test_safetensors_there_and_back(weights, tmp_path):
    save_file(weights, tmp_path / "w.safetensors", metadata={"format": "pt"})
    run("import", tmp_path / "w.safetensors", tmp_path / "run")
    assert same(
        checkpoint.load(None, tmp_path / "run"),
        {n: weights[n] for n in checkpoint.open(tmp_path / "run")},
    )
    run("export", tmp_path / "run", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_torch_files_there_and_back(tmp_path):
    state = training_state()
    state["rng"].pop("numpy")
    torch.save(state, tmp_path / "state.pt")
    run("import", tmp_path / "state.pt", tmp_path / "run")
    loaded = checkpoint.load(None, tmp_path / "run")
    assert same(loaded, state)
    assert loaded["model"]["head.weight"] is loaded["model"]["embed.weight"]
    run("export", tmp_path / "run", tmp_path / "back.pt")
    assert same(torch.load(tmp_path / "back.pt", weights_only=True), state)
    run("export", tmp_path / "run", tmp_path / "back.pt", code=2)
    run("export", tmp_path / "run", tmp_path / "back.pt", "--force")


def test_hugging_face_directories_there_and_back(weights, tmp_path):
    save_file(weights, tmp_path / "w.safetensors")
    run("import", tmp_path / "w.safetensors", tmp_path / "run")
    run("export", tmp_path / "run", tmp_path / "hf", "--shard-bytes", 1000)
    files = sorted(path.name for path in (tmp_path / "hf").iterdir())
    assert len(files) == 3
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == weights.keys()
    merged = {}
    for name in files[:2]:
        merged |= load_file(tmp_path / "hf" / name)
    assert same({n: merged[n] for n in weights}, weights)
    run("import", tmp_path / "hf", tmp_path / "again")
    assert checkpoint.inspect(tmp_path / "again").id != ""
    again = checkpoint.load(None, tmp_path / "again")
    assert same({n: again[n] for n in weights}, weights)
    run("export", tmp_path / "run", tmp_path / "one")
    run("import", tmp_path / "one", f"memory://cli-{tmp_path.name}")
    (tmp_path / "empty").mkdir()
    assert "no .safetensors" in run("import", tmp_path / "empty", tmp_path / "x", code=2)


def test_inspect_verify_compact(tmp_path):
    state = {"w": torch.arange(9000.0), "n": np.arange(3)}
    state["tied"] = state["w"]
    checkpoint.save(state, tmp_path)
    state["w"][:5] += 1
    checkpoint.save(state, tmp_path, delta=2)
    output = run("inspect", tmp_path)
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert rows["w"][1:4] == ["float32", "9000", "param"]
    assert "of an earlier one" in " ".join(rows["w"])
    assert rows["tied"][-4:] == ["the", "same", "as", "w"]
    assert "sound" in run("verify", tmp_path)
    assert "sound" in run("verify", tmp_path, "--subset", "2/3")
    for wrong in ("3", "0/3", "4/3", "a/b"):
        run("verify", tmp_path, "--subset", wrong, code=2)
    run("compact", tmp_path)
    assert "of an earlier one" not in run("inspect", tmp_path)
    chunk = next((tmp_path / "arrays").rglob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert "error: arrays/" in run("verify", tmp_path, code=1)
    run("verify", tmp_path / "nowhere", code=2)


def test_general_commands_know_a_checkpoint(tmp_path):
    url = f"memory://cli-{tmp_path.name}"
    for place in (tmp_path / "run", url):
        checkpoint.save({"w": torch.arange(9000.0)}, place)
        assert command("inspect", place) == run("inspect", place)
        assert command("verify", place) == run("verify", place)
        assert "--json" in command("verify", place, "--json", code=2)
    refused = command("decompress", tmp_path / "run", tmp_path / "w.safetensors", code=2)
    assert "is a checkpoint" in refused
    chunk = next((tmp_path / "run" / "arrays").rglob("c.*"))
    chunk.unlink()
    command("verify", tmp_path / "run", code=1)
