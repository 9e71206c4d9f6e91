# SPDX-License-Identifier: Apache-2.0
"""Differences to earlier checkpoints are exact, bounded in depth, and never outlive their base."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoint_cases import DTYPES, Model, bits, random_tensor, same, train

from gpucodec import checkpoint
from gpucodec.checkpoint import CheckpointSeries, grid
from gpucodec.errors import CorruptionError, GpucodecError

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")


def steps_of_training(n):
    """State dicts of a run with a small step size: neighbours are alike."""
    torch.manual_seed(0)
    model = Model(width=64, vocabulary=300)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    train(model, optimizer, 3)
    for step in range(n):
        train(model, optimizer, 1, first=3 + step)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        yield {key: copy(value) for key, value in state.items()}


def copy(node):
    if isinstance(node, torch.Tensor):
        return node.clone()
    if isinstance(node, dict):
        return type(node)((key, copy(value)) for key, value in node.items())
    return [copy(value) for value in node] if isinstance(node, list) else node


def test_a_chain_is_exact_and_smaller_and_bounded(tmp_path):
    states = list(steps_of_training(7))
    with CheckpointSeries(tmp_path / "delta", keep=None, delta=3) as series:
        for step, state in enumerate(states):
            series.save(state, step)
        depths = []
        for step, state in enumerate(states):
            assert same(series.load(step=step), state)
            array = series.open(step)["model/mix.weight"].array
            depths.append(array.depth)
            part = series.open(step)["model/mix.weight"][3:9, ::2]
            assert bits(part) == bits(state["model"]["mix.weight"][3:9, ::2])
            group = series.open(step).zarr_group
            assert bits(group["model/mix.weight"][3:9, ::2]) == bits(part)
            names = {name for name, one in group.members(max_depth=None) if hasattr(one, "shape")}
            assert names == set(series.open(step))
        assert depths == [0, 1, 2, 3, 0, 1, 2]
        written = series.stats.written_bytes
    with CheckpointSeries(tmp_path / "full", keep=None) as series:
        for step, state in enumerate(states):
            series.save(state, step)
        assert written < series.stats.written_bytes * 0.9


def test_bases_stay_as_long_as_they_are_needed(tmp_path):
    states = list(steps_of_training(4))
    with CheckpointSeries(tmp_path, keep=1, delta=9) as series:
        for step, state in enumerate(states):
            series.save(state, step)
        assert series.steps() == [3]
        assert same(series.load(), states[3])
        named = series.open().manifest.keys()
        assert set(series.storage.list("arrays/")) == named
        array = series.open()["model/mix.weight"].array
        assert array.depth == 3
        base = array.delta.base.delta.base.delta.base
        path = tmp_path / base.path / "c.0.0"
        content = path.read_bytes()
        path.unlink()
        assert series.latest() is None
        with pytest.raises(CorruptionError, match="missing"):
            series.load(step=3)
        path.write_bytes((tmp_path / array.path / "c.0.0").read_bytes())  # another's
        with pytest.raises(GpucodecError):
            series.load(step=3)
        path.write_bytes(content)
        assert same(series.load(step=3), states[3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_type_and_any_change(dtype, tmp_path, monkeypatch):
    """Random bits too: then nothing is smaller, and it is stored in full."""
    monkeypatch.setattr(grid, "CHUNK_BYTES", 2000)
    first = random_tensor((61, 17), dtype, seed=1)
    sparse = first.clone()
    sparse[7] = random_tensor((17,), dtype, seed=2)
    for number, state in enumerate([first, sparse, random_tensor((61, 17), dtype, seed=3)]):
        checkpoint.save({"w": state}, tmp_path, delta=4)
        lazy = checkpoint.open(tmp_path)["w"]
        assert bits(lazy[:]) == bits(state)
        assert bits(lazy[5:9, 3]) == bits(state[5:9, 3])
        is_word = dtype not in {torch.complex128, torch.bool}
        if is_word:
            assert (lazy.delta is not None) == (number == 1), number
        checkpoint.verify(tmp_path)
    # Another shape, or another type, is no difference.
    checkpoint.save({"w": first[:50]}, tmp_path, delta=4)
    assert checkpoint.open(tmp_path)["w"].delta is None


def test_the_smaller_operation_is_taken(tmp_path):
    """Small steps of floats subtract well; scattered bits are better xored."""
    base = torch.linspace(1, 2, 40_000)
    steps = (base.view(torch.int32) + torch.randint(-3, 4, (40_000,), dtype=torch.int32)).view(
        torch.float32
    )
    checkpoint.save({"w": base}, tmp_path / "sub")
    checkpoint.save({"w": steps}, tmp_path / "sub", delta=1)
    assert checkpoint.open(tmp_path / "sub")["w"].delta == "sub"
    words = torch.randint(0, 1 << 30, (40_000,), dtype=torch.int32)
    checkpoint.save({"w": words}, tmp_path / "xor")
    checkpoint.save(
        {"w": words ^ (torch.randint(0, 2, (40_000,), dtype=torch.int32) << 20)},
        tmp_path / "xor",
        delta=1,
    )
    assert checkpoint.open(tmp_path / "xor")["w"].delta == "xor"


def test_a_damaged_base_is_no_base(tmp_path):
    first, second = list(steps_of_training(2))
    checkpoint.save(first, tmp_path)
    for path in (tmp_path / "arrays").rglob("c.*"):
        raw = bytearray(path.read_bytes())
        raw[30] ^= 1
        path.write_bytes(raw)
    with pytest.warns(RuntimeWarning, match="stored in full"):
        checkpoint.save(second, tmp_path, delta=3)
    opened = checkpoint.open(tmp_path)
    assert not any(lazy.delta for lazy in opened.values())


@pytest.mark.parametrize("number", range(4))
def test_one_damaged_chunk_of_a_base_costs_that_tensor_its_difference(
    number, tmp_path, monkeypatch
):
    """Whichever chunk it is, also one that was not looked at for the decision."""
    monkeypatch.setattr(grid, "CHUNK_BYTES", 4000)
    base = {"w": torch.linspace(1, 2, 4000), "x": torch.linspace(2, 3, 4000)}
    checkpoint.save(base, tmp_path)
    path = tmp_path / checkpoint.open(tmp_path)["w"].array.path / f"c.{number}"
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    state = {name: one + 1e-6 for name, one in base.items()}
    told = []
    with pytest.warns(RuntimeWarning, match=f"w is stored in full.*c.{number}"):
        checkpoint.save(state, tmp_path, delta=3, progress=told.append)
    opened = checkpoint.open(tmp_path)
    assert (opened["w"].delta, opened["x"].delta is None) == (None, False)
    assert same(checkpoint.load(None, tmp_path), state)
    checkpoint.verify(tmp_path)
    assert sum(told) == 2 * 16_000
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == opened.manifest.keys() | {"manifest.json"}


def test_compact_stores_in_full(tmp_path):
    first, second = list(steps_of_training(2))
    checkpoint.save(first, tmp_path)
    checkpoint.save(second, tmp_path, delta=3, metadata={"a": 1})
    assert any(lazy.delta for lazy in checkpoint.open(tmp_path).values())
    checkpoint.compact(tmp_path)
    opened = checkpoint.open(tmp_path)
    assert not any(lazy.delta for lazy in opened.values())
    assert opened.metadata == {"a": 1}
    assert same(checkpoint.load(None, tmp_path), second)
    with CheckpointSeries(tmp_path) as series:
        assert set(series.storage.list("arrays/")) == opened.manifest.keys()


def test_a_worker_catches_up_from_any_version(tmp_path):
    """With few of the weights changed, as in reinforcement learning."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(300, 200, generator=generator).bfloat16(),
        "b": torch.randn(50),
        "c": torch.ones(3),
    }
    versions = []
    for version in range(1, 7):
        versions.append(copy(weights))
        info = checkpoint.publish_delta(weights, tmp_path, version, anchor_every=4, keep=6)
        if version in {2, 3, 4}:
            assert info.written_bytes < 60_000 * 2 / 3
        mask = torch.rand(300, 200, generator=generator) < 0.02
        weights["a"] = torch.where(mask, weights["a"] * 1.01, weights["a"])
    full = checkpoint.apply_delta(copy(versions[0]), tmp_path, 1)
    assert (full.n_current, full.n_changed, full.n_loaded, full.fetched_bytes) == (3, 0, 0, 0)
    for have in range(6):
        for want in range(6):
            state = copy(versions[have])
            before = state["a"]
            info = checkpoint.apply_delta(state, tmp_path, want + 1)
            assert same(state, versions[want])
            assert state["a"] is before
            assert info.n_current == (3 if have == want else 2)
            behind = have < want and (have // 4 == want // 4)
            assert info.n_changed == int(behind)
            assert info.n_loaded == int(have != want and not behind)
    fresh = {"a": torch.zeros(300, 200).bfloat16(), "b": torch.zeros(50), "c": torch.zeros(3)}
    assert checkpoint.apply_delta(fresh, tmp_path).n_loaded == 3
    assert same(fresh, versions[5])
    with pytest.raises(ValueError, match="not above 6"):
        checkpoint.publish_delta(weights, tmp_path, 6)
    with pytest.raises(FileNotFoundError):
        checkpoint.apply_delta(fresh, tmp_path, 99)
    with pytest.raises(ValueError, match="no tensor d"):
        checkpoint.apply_delta({"d": torch.ones(1)}, tmp_path)
    with pytest.raises(ValueError, match="float32"):
        checkpoint.apply_delta({"a": torch.zeros(300, 200)}, tmp_path)


def test_arrays_of_numpy_and_zero_dimensions(tmp_path):
    state = {"x": np.arange(900, dtype=np.float64), "step": np.array(3.0), "none": np.empty((0, 2))}
    checkpoint.save(state, tmp_path)
    state["x"][5] += 1
    state["step"] += 1
    checkpoint.save(state, tmp_path, delta=2)
    assert same(checkpoint.load(None, tmp_path), state)
    assert checkpoint.open(tmp_path)["x"].delta
    assert np.array_equal(checkpoint.open(tmp_path)["x"][3:8], state["x"][3:8])
    assert checkpoint.open(tmp_path)["step"][()] == 4
