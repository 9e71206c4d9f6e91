# SPDX-License-Identifier: Apache-2.0
"""A rounded copy of a tensor takes no space, and is exact wherever it is read."""

from __future__ import annotations

import json
from hashlib import sha256

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoint_cases import bits, same
from hypothesis import given, strategies as st

from gpucodec import checkpoint
from gpucodec.checkpoint import CheckpointSeries, grid, manifest as manifests
from gpucodec.checkpoint.rounding import round_into
from gpucodec.errors import CorruptionError, GpucodecError

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")


def mixed(seed=0, step=0, dtype=torch.bfloat16):
    """A mixed-precision AdamW state: weights in 16 bits beside their masters."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (300, 70), "b": (64,), "tiny": (3,)}
    masters = {k: torch.randn(n, generator=generator) for k, n in shapes.items()}
    drift = torch.Generator().manual_seed(step)
    masters = {
        k: w + 1e-4 * step * torch.randn(w.shape, generator=drift) for k, w in masters.items()
    }
    state = {
        i: {"master_param": w, "exp_avg": w * w.sin(), "exp_avg_sq": w**2}
        for i, w in enumerate(masters.values())
    }
    model = {name: w.to(dtype) for name, w in masters.items()}
    return {"model": model, "optimizer": {"state": state, "param_groups": [{"lr": 0.1}]}}


def sources(url):
    """By the names of roundings, what they are rounded from."""
    found = {row.name: row.rounded_from for row in checkpoint.inspect(url).tensors}
    return {name: source for name, source in found.items() if source is not None}


PAIRS = {f"model/{k}": f"optimizer/state/{i}/master_param" for i, k in enumerate("ab")}


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_rounding_is_to_nearest_even(words):
    """As ml_dtypes and NumPy convert, whose NaNs alone may differ."""
    exact = np.array(words, np.uint32).view(np.float32)
    is_number = ~np.isnan(exact)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        out = np.empty(exact.shape, dtype)
        round_into(exact, out, np.dtype(dtype).name)
        with np.errstate(all="ignore"):
            expected = exact.astype(dtype)
        assert bits(out[is_number]) == bits(expected[is_number])


def test_every_tie_and_its_neighbours_round_right():
    tops = np.arange(1 << 16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        exact = (tops | low).view(np.float32)[:, None]
        out = np.empty((1 << 16, 2), ml_dtypes.bfloat16)[:, :1]  # not contiguous
        round_into(exact, out, "bfloat16")
        is_number = ~np.isnan(exact)
        expected = exact[is_number].astype(ml_dtypes.bfloat16)
        assert bits(out[is_number]) == bits(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_beside_their_masters_cost_nothing(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "CHUNK_BYTES", 5000)
    state = mixed(dtype=dtype)
    state["model"]["tied"] = state["model"]["a"]
    state["model"]["equal"] = state["model"]["a"].clone()
    checkpoint.save(state, tmp_path)
    again = {"model/tied": PAIRS["model/a"], "model/equal": PAIRS["model/a"]}
    assert sources(tmp_path) == PAIRS | again
    rows = {row.name: row for row in checkpoint.inspect(tmp_path).tensors}
    assert rows["model/a"].encoded_bytes == 0
    assert checkpoint.verify(tmp_path) == len(checkpoint.open(tmp_path).manifest.keys())
    loaded = checkpoint.load(None, tmp_path)
    assert same(loaded, state)
    assert loaded["model"]["tied"] is loaded["model"]["a"]
    only = {"model": {"a": torch.zeros(300, 70, dtype=dtype), "b": torch.zeros(64, dtype=dtype)}}
    checkpoint.load(only, tmp_path)  # without the masters
    assert same(only["model"], {k: state["model"][k] for k in "ab"})
    opened = checkpoint.open(tmp_path)
    lazy = opened["model/a"]
    assert (lazy.dtype, lazy.shape) == (str(dtype).removeprefix("torch."), (300, 70))
    for selection in ((slice(250, 260),), (slice(3, 99, 7), 5), (-1, -1), ...):
        assert bits(lazy[selection]) == bits(state["model"]["a"][selection])
    made = opened.zarr_group["model/a"]
    assert made.dtype.itemsize == 2
    assert bits(made[200:260, 3:]) == bits(state["model"]["a"][200:260, 3:])


def test_names_do_not_matter_and_arrays_of_numpy_count(tmp_path):
    exact = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    state = {"x": exact.astype(ml_dtypes.bfloat16), "y": [exact.astype(np.float16), exact.T.copy()]}
    state["z"] = np.asfortranarray(exact)
    checkpoint.save(state, tmp_path)
    assert sources(tmp_path) == {"x": "z", "y/0": "z"}
    assert same(checkpoint.load(None, tmp_path), state)


def test_what_is_not_quite_the_rounding_is_stored(tmp_path):
    """One bit, another way to round, a NaN that rounds otherwise, fewer elements."""
    state = mixed()
    master = state["optimizer"]["state"][0]["master_param"]
    master[7, 7] = float("nan")
    near = master.bfloat16()
    near.view(torch.int16)[299, 69] ^= 1
    cut = (master.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    odd = master.bfloat16()
    odd.view(torch.int16)[7, 7] = -1
    state["model"] = {"near": near, "cut": cut, "odd": odd, "part": master[:50].bfloat16()}
    checkpoint.save(state, tmp_path)
    assert sources(tmp_path) == {}
    assert same(checkpoint.load(None, tmp_path), state)


def test_masters_that_a_policy_quantizes_are_no_sources(tmp_path):
    from gpucodec import QuantizeConfig

    rule = checkpoint.Rule(QuantizeConfig("int8"), kinds=("master_weight",))
    state = mixed()
    checkpoint.save(state, tmp_path, checkpoint.Policy((rule,)))
    assert sources(tmp_path) == {}
    assert same(checkpoint.load(None, tmp_path)["model"], state["model"])


def test_a_damaged_master_is_an_error_of_its_weights(tmp_path):
    state = mixed()
    checkpoint.save(state, tmp_path)
    opened = checkpoint.open(tmp_path)
    source = opened[PAIRS["model/a"]].array
    path = tmp_path / source.path / "c.0.0"
    content = path.read_bytes()
    target = {"model": {"a": torch.zeros(300, 70, dtype=torch.bfloat16)}}
    for damage in (None, content[:-1], content[:900] + b"\xff" + content[901:]):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        for read in (lambda: checkpoint.load(target, tmp_path), lambda: opened["model/a"][:]):
            with pytest.raises(GpucodecError, match=source.path):
                read()
        with pytest.raises(GpucodecError, match=source.path):
            opened.zarr_group["model/a"][:]
        with pytest.raises(CorruptionError, match=source.path):
            checkpoint.verify(tmp_path)
        path.write_bytes(content)
    checkpoint.load(target, tmp_path)
    assert same(target["model"]["a"], state["model"]["a"])


def test_differences_retention_and_compact(tmp_path):
    """Masters as differences carry their weights with them, and stay as long as these do."""
    states = [mixed(step=step) for step in range(5)]
    with CheckpointSeries(tmp_path, keep=2, delta=2, staging_bytes=100_000) as series:
        for step, state in enumerate(states):
            series.save_async(state, step)
        series.wait()
        assert series.steps() == [3, 4]
        for step in series.steps():
            opened = series.open(step)
            assert opened["model/a"].rounded_from == PAIRS["model/a"]
            assert same(opened.load(), states[step])
            assert bits(opened["model/a"][5:9]) == bits(states[step]["model"]["a"][5:9])
        assert {series.open(s)[PAIRS["model/a"]].array.depth for s in (3, 4)} == {0, 1}
        named = series.open(3).manifest.keys() | series.open(4).manifest.keys()
        assert set(series.storage.list("arrays/")) == named


def test_weights_without_their_masters_are_stored_again(tmp_path):
    """So that nobody has to keep, or to fetch, masters for their sake alone."""
    state = mixed()
    checkpoint.save(state, tmp_path)
    checkpoint.save({"model": state["model"]}, tmp_path, delta=3)
    opened = checkpoint.open(tmp_path)
    assert sources(tmp_path) == {}
    assert opened["model/a"].delta is None
    assert len(opened.manifest.arrays) == 3
    assert same(checkpoint.load(None, tmp_path), {"model": state["model"]})


def test_compact_keeps_roundings(tmp_path):
    checkpoint.save(mixed(step=1), tmp_path)
    state = mixed(step=2)
    checkpoint.save(state, tmp_path, delta=3)
    assert checkpoint.open(tmp_path)[PAIRS["model/a"]].delta
    checkpoint.compact(tmp_path)
    opened = checkpoint.open(tmp_path)
    assert not any(lazy.delta for lazy in opened.values())
    assert sources(tmp_path) == PAIRS
    assert same(checkpoint.load(None, tmp_path), state)


def test_workers_of_a_published_rounding(tmp_path):
    states = [mixed(step=step) for step in (1, 2)]
    for version, state in enumerate(states):
        checkpoint.publish_delta(state, tmp_path, version)
    for have in (0, 1):
        weights = {"model": {k: states[have]["model"][k].clone() for k in "ab"}}
        info = checkpoint.apply_delta(weights, tmp_path, 1)
        assert (info.n_current, info.n_loaded) == ((2, 0) if have else (0, 2))
        assert same(weights["model"], {k: states[1]["model"][k] for k in "ab"})


def test_dcp_reads_roundings(tmp_path):
    import torch.distributed.checkpoint as dcp

    from gpucodec.checkpoint.dcp import ZarrReader

    state = mixed()
    checkpoint.save(state, tmp_path)
    other = mixed(seed=3)
    with pytest.warns(UserWarning, match="single process"):
        dcp.load(other, storage_reader=ZarrReader(tmp_path), no_dist=True)
    assert same(other["model"], state["model"])


def test_a_lying_manifest_is_refused(tmp_path):
    checkpoint.save(mixed(), tmp_path)
    path = tmp_path / "manifest.json"
    body = json.loads(path.read_bytes().partition(b"\n")[2])
    arrays = body["arrays"]
    one = next(p for p, array in arrays.items() if "rounding" in array)
    source = arrays[one]["rounding"]["source"]
    stored = [p for p, array in arrays.items() if "rounding" not in array and p != source]

    def with_change(change):
        lie = json.loads(json.dumps(body))
        change(lie["arrays"])
        raw = json.dumps(lie).encode()
        head = {"format": manifests.FORMAT, "version": 1, "bytes": len(raw)}
        head["sha256"] = sha256(raw).hexdigest()
        path.write_bytes(json.dumps(head, separators=(",", ":")).encode() + b"\n" + raw)
        return checkpoint.open(tmp_path)

    assert with_change(lambda arrays: None)
    other_shape = next(p for p in stored if arrays[p]["shape"] != arrays[source]["shape"])
    for change in (
        lambda a: a[one]["rounding"].update(source=one),
        lambda a: a[one]["rounding"].update(source=other_shape),
        lambda a: a[one]["rounding"].update(source="arrays/none"),
        lambda a: a[one].update(dtype="float32"),
        lambda a: a[one].update(chunks=[1, 1]),
        lambda a: a[one].update(delta={"base": source, "op": "sub", "content": "x"}),
        lambda a: a[source].update(codec={"name": "gpucodec.quantize", "configuration": {}}),
        lambda a: a.update(x={**a[one], "rounding": {"source": one, "content": "x"}}),
        lambda a: a[stored[0]].update(delta={"base": one, "op": "sub", "content": "x"}),
        lambda a: a[one].pop("rounding"),
        lambda a: a[one].update(rounding=3),
        lambda a: a[one].update(order=[1, 0]),
        lambda a: a[stored[0]].update(order=[1, 1]),
        lambda a: a[stored[0]].update(order=[0, 1, 2]),
    ):
        with pytest.raises(CorruptionError):
            with_change(change)
