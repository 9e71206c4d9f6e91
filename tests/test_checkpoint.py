# SPDX-License-Identifier: Apache-2.0
"""A checkpoint gives back what was saved, from anywhere, whole or in parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
import zarr
from checkpoint_cases import (
    DTYPES,
    STORAGES,
    Model,
    bits,
    odd_state,
    place_of,
    random_tensor,
    s3_server,
    same,
    train,
    training_state,
)
from hypothesis import given, settings, strategies as st

import gpucodec
from gpucodec import checkpoint
from gpucodec.checkpoint import grid
from gpucodec.checkpoint.storage import connect
from gpucodec.errors import CorruptionError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as url:
        yield url


@pytest.fixture(params=STORAGES)
def place(request, tmp_path, monkeypatch):
    return place_of(
        request.param, tmp_path, monkeypatch, lambda: request.getfixturevalue("endpoint")
    )


def test_everything_comes_back_from_every_storage(place):
    state = {"training": training_state(), "odd": odd_state()}
    info = checkpoint.save(state, place)
    loaded = checkpoint.load(None, place)
    state["odd"]["arrays"][2] = state["odd"]["arrays"][2].astype("<f4")  # byte order is not kept
    state["odd"]["grad"] = state["odd"]["grad"].detach()
    state["odd"]["grad"] = torch.as_tensor(state["odd"]["grad"])
    loaded_types = {type(one) for one in loaded["odd"]["strides"]}
    assert loaded_types == {torch.Tensor}
    for part in ("training", "odd"):
        for key in state[part]:
            assert same(state[part][key], loaded[part][key]), (part, key)
    assert checkpoint.verify(place) == checkpoint.inspect(place).n_objects
    assert checkpoint.inspect(place).id == info.id == checkpoint.open(place).id
    # Again, with a change: what is equal is not written again, what is gone is deleted.
    state["training"]["model"]["mix.weight"] += 1
    again = checkpoint.save(state, place)
    assert again.written_bytes < info.written_bytes / 4
    loaded = checkpoint.load(None, place)
    assert same(state["training"]["model"], loaded["training"]["model"])
    storage = connect(place)
    named = checkpoint.open(place).manifest.keys()
    assert set(storage.list("arrays/")) == named


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_in_many_chunks_and_slices(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "CHUNK_BYTES", 4096)
    tensor = random_tensor((91, 33), dtype, seed=1)
    checkpoint.save({"t": tensor, "s": tensor.T, "c": tensor[3]}, tmp_path)
    loaded = checkpoint.load(None, tmp_path)
    assert same(loaded, {"t": tensor, "s": tensor.T, "c": tensor[3]})
    lazy = checkpoint.open(tmp_path)["t"]
    assert (lazy.shape, lazy.dtype) == ((91, 33), str(dtype).removeprefix("torch."))
    for selection in (slice(5, 60), (slice(None), 3), (-1, slice(2, 9)), 17, (4, 5), ..., slice(0)):
        found, expected = lazy[selection], tensor[selection]
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert bits(found) == bits(expected), selection


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    dtype=st.sampled_from(DTYPES),
    chunk=st.integers(1, 300),
    data=st.data(),
)
def test_any_slice_is_that_slice(shape, dtype, chunk, data):
    from unittest import mock

    tensor = random_tensor(tuple(shape), dtype, seed=chunk)
    url = f"memory://slices-{os.urandom(6).hex()}"
    with mock.patch.object(grid, "CHUNK_BYTES", chunk):
        checkpoint.save(tensor, url)
    assert same(checkpoint.load(None, url), tensor)
    bounds = [
        (data.draw(st.integers(0, n)), data.draw(st.integers(0, n)), data.draw(st.integers(1, 3)))
        for n in shape
    ]
    selection = tuple(slice(*one) for one in bounds)
    assert bits(checkpoint.open(url)["tensor"][selection]) == bits(tensor[selection])


def test_a_slice_reads_only_its_blocks(tmp_path, monkeypatch):
    tensor = torch.randn(4096, 1024)
    checkpoint.save({"w": tensor}, tmp_path)
    read = []
    storage = connect(tmp_path)
    get = type(storage).get

    def watch(self, key, start=0, stop=None):
        found = get(self, key, start, stop)
        read.append(len(found))
        return found

    monkeypatch.setattr(type(storage), "get", watch)
    lazy = checkpoint.open(tmp_path)["w"]
    read.clear()
    assert torch.equal(lazy[100:110], tensor[100:110])
    assert sum(read) < 1 << 20  # of 14 MB


def test_loading_in_place_fills_the_tensors_that_are_there(tmp_path):
    state = training_state(3)
    checkpoint.save(state, tmp_path)
    other = training_state(1, seed=9)
    tensors = dict(other["model"])
    result = checkpoint.load(other, tmp_path)
    assert result is other
    assert same(other, state)
    assert all(other["model"][name] is one for name, one in tensors.items())
    # A part, another layout, another type when asked, tied tensors, arrays.
    weight = torch.zeros(48, 96, dtype=torch.float64).T
    part = {"model": {"mix.weight": weight}, "step": -1, "rng": {"numpy": state["rng"]["numpy"]}}
    with pytest.raises(ValueError, match=r"float64.*float32.*cast=True"):
        checkpoint.load(part, tmp_path)
    checkpoint.load(part, tmp_path, cast=True)
    assert torch.equal(weight.float(), state["model"]["mix.weight"])
    assert part["step"] == state["step"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["model"].update(extra=torch.ones(1)), "no tensor model/extra"),
        (lambda s: s["model"].update({"norm.bias": torch.ones(3)}), r"\(3,\).*\(48,\)"),
        (lambda s: s.update(model=1), "model holds tensors"),
        (lambda s: s.update(more=1), "the checkpoint has no more"),
        (lambda s: s["optimizer"]["param_groups"][0]["params"].pop(), "items"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_untouched(change, reason, tmp_path):
    checkpoint.save(training_state(2), tmp_path)
    other = training_state(1, seed=3)
    change(other)
    before = {name: bits(one) for name, one in other["optimizer"]["state"][0].items()}
    with pytest.raises(ValueError, match=reason):
        checkpoint.load(other, tmp_path)
    assert before == {name: bits(one) for name, one in other["optimizer"]["state"][0].items()}


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path):
    weight = torch.randn(50, 20)
    equal = weight.clone()
    state = {"embed": weight, "head": weight, "copy": equal, "view": weight[1:]}
    checkpoint.save(state, tmp_path)
    loaded = checkpoint.load(None, tmp_path)
    assert loaded["embed"] is loaded["head"]
    assert loaded["copy"] is not loaded["embed"]
    assert same(loaded, state)
    opened = checkpoint.open(tmp_path)
    assert opened.manifest.tensors["head"].same_as == "embed"
    assert len(opened.manifest.arrays) == 2
    assert opened.manifest.tensors["copy"].array == opened.manifest.tensors["embed"].array


def test_a_model_resumes_bit_exactly(tmp_path):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 4)
    checkpoint.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path)
    train(model, optimizer, 3, first=4)
    other = Model()
    stepper = torch.optim.AdamW(other.parameters(), lr=1)
    loaded = checkpoint.load(None, tmp_path)
    other.load_state_dict(loaded["model"])
    stepper.load_state_dict(loaded["optimizer"])
    train(other, stepper, 3, first=4)
    assert same(model.state_dict(), other.state_dict())
    assert same(optimizer.state_dict(), stepper.state_dict())


def test_plain_zarr_reads_the_arrays(tmp_path):
    state = training_state()
    checkpoint.save(state, tmp_path)
    opened = checkpoint.open(tmp_path)
    path = opened.manifest.tensors["model/mix.weight"].array
    array = zarr.open_array(tmp_path / path, mode="r")
    assert np.array_equal(array[:], state["model"]["mix.weight"].numpy())
    group = opened.zarr_group
    assert np.array_equal(group["model/norm.weight"][:], state["model"]["norm.weight"].numpy())
    assert {name for name, _ in group["optimizer/state/0"].members()} == {
        *("step", "exp_avg", "exp_avg_sq")
    }
    with pytest.raises(ValueError, match="read-only"):
        group["model/norm.weight"][:] = 0


def test_equal_states_are_equal_bytes(tmp_path):
    states = [training_state(), training_state()]
    infos = [checkpoint.save(s, tmp_path / str(i)) for i, s in enumerate(states)]
    assert infos[0].id == infos[1].id
    files = [
        {
            p.relative_to(tmp_path / str(i)): p.read_bytes()
            for p in (tmp_path / str(i)).rglob("*")
            if p.is_file()
        }
        for i in range(2)
    ]
    assert files[0] == files[1]


class Wrapper(torch.Tensor):
    """A tensor made of others, as quantized ones are."""

    __tensor_flatten__ = None


def test_what_cannot_be_kept_is_refused_by_name(tmp_path):
    cycle = {}
    cycle["self"] = cycle
    plain = torch.ones(2)
    for value, error, reason in (
        ({"x": {"y": object()}}, TypeError, "x/y is object"),
        ({"x": {1, 2}}, TypeError, "x is set"),
        ({"x": np.array(["text"])}, UnsupportedError, "no type"),
        ({"x": np.array([{}], dtype=object)}, TypeError, "pointers"),
        ({"x": np.ma.masked_array([1.0], [True])}, TypeError, "MaskedArray"),
        ({(1, 2): 3}, TypeError, "key"),
        ({"x": {1.5: 3}}, TypeError, "x has a key 1.5"),
        (cycle, TypeError, "holds itself"),
        ({"x": torch.ones(2, device="meta")}, UnsupportedError, "x has no elements"),
        ({"x": torch.ones(2, 2).to_sparse()}, UnsupportedError, "x has layout"),
        ({"x": plain.as_subclass(Wrapper)}, UnsupportedError, "x is a Wrapper"),
    ):
        with pytest.raises(error, match=reason):
            checkpoint.save(value, tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(None, tmp_path)
    with pytest.raises(TypeError, match="path, a URL"):
        checkpoint.save({}, 3)


def test_a_dtensor_is_refused_with_the_way_to_go(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    store = dist.FileStore(str(tmp_path / "rendezvous"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sharded = distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,)), [Shard(0)])
        with pytest.raises(UnsupportedError, match=r"w is a DTensor.*ZarrWriter"):
            checkpoint.save({"w": sharded}, tmp_path / "c")
    finally:
        dist.destroy_process_group()


def test_saving_holds_no_second_copy(tmp_path):
    """Memory beside the state dict stays below what is in flight: some chunks."""
    state = {
        f"w{i}": np.random.default_rng(i).normal(size=(2048, 1024)).astype("f4") for i in range(16)
    }
    total = sum(one.nbytes for one in state.values())  # 128 MiB
    checkpoint.save({"warm": state["w0"][:4]}, tmp_path / "warm")
    tracemalloc.start()
    checkpoint.save(state, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < total / 2, peak
    tracemalloc.start()
    checkpoint.load(state, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < total / 2, peak


def test_no_import_of_torch_or_zarr_for_arrays(tmp_path):
    code = (
        "import sys, numpy as np, gpucodec.checkpoint as c;"
        "light = not {'torch', 'zarr', 'fsspec', 'numba'} & set(sys.modules);"
        f"c.save({{'w': np.ones(3)}}, {str(tmp_path)!r}); c.load(None, {str(tmp_path)!r});"
        "print(light, 'torch' in sys.modules, 'zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_metadata_and_progress(tmp_path):
    seen = []
    state = {"w": torch.randn(100, 100), "b": torch.randn(3)}
    checkpoint.save(state, tmp_path, metadata={"step": 7, "loss": 0.5}, progress=seen.append)
    assert sum(seen) == 4 * (10_000 + 3)
    assert checkpoint.open(tmp_path).metadata == {"step": 7, "loss": 0.5}
    seen.clear()
    checkpoint.load(None, tmp_path, progress=seen.append)
    assert sum(seen) == 4 * (10_000 + 3)
    assert checkpoint.inspect(tmp_path).ratio > 1


def test_a_hostile_manifest_runs_nothing_and_leaves_its_folder_never(tmp_path):
    checkpoint.save({"w": torch.ones(3)}, tmp_path)
    manifest = checkpoint.open(tmp_path).manifest
    [(path, _)] = manifest.arrays.items()

    def rewrite(change):
        body = json.loads(manifest.body)
        change(body)
        raw = json.dumps(body).encode()
        import hashlib

        head = {
            "format": "gpucodec.checkpoint",
            "version": 1,
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
        (tmp_path / "manifest.json").write_bytes(
            json.dumps(head, separators=(",", ":")).encode() + b"\n" + raw
        )

    def moved(where):
        return lambda b: (
            b["arrays"].update({where: b["arrays"].pop(path)}),
            b["tensors"]["w"].update(array=where),
        )

    one = lambda **changes: lambda b: b["arrays"][path].update(changes)  # noqa: E731
    for change in (
        moved("../x"),
        moved("/etc"),
        moved(""),
        moved("a//b"),
        moved("a/./b"),
        one(shape=[-3]),
        one(shape=[1 << 62, 8]),
        one(chunks=[0]),
        one(shape=[6]),
        one(chunks=[]),
        one(objects=[]),
        one(objects=[[-1, "0"]]),
        one(objects=[["x"]]),
        one(dtype=3),
        one(dtype="object"),
        one(shape=[1] * 99, chunks=[1] * 99),
        lambda b: b.update(structure={"dict": [[["k"], 1]]}),
        lambda b: b.update(structure={"call": ["os.system", "true"]}),
        lambda b: b.update(structure={"dtype": "load"}),
        lambda b: b.update(structure={"tensor": "nobody"}),
        lambda b: b["tensors"]["w"].update(same_as="nobody"),
        lambda b: b["tensors"]["w"].update(library="os"),
        lambda b: b.pop("arrays"),
    ):
        rewrite(change)
        with pytest.raises((CorruptionError, UnsupportedError)):
            checkpoint.load(None, tmp_path)
    rewrite(one(shape=[5], chunks=[5]))
    with pytest.raises(gpucodec.GpucodecError):
        checkpoint.load(None, tmp_path)
