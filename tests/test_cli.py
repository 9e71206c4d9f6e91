# SPDX-License-Identifier: Apache-2.0
"""The command line: every kind of file and store comes back, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from cli_cases import (
    DTYPES,
    FLOAT8,
    contents_of,
    every_tensor,
    fails,
    only,
    random_tensor,
    run,
    same,
)

from gpucodec.checkpoint import grid
from gpucodec.checkpoint.grid import chunk_shape
from gpucodec.checkpoint.names import array_paths
from gpucodec.cli import peers, stores
from gpucodec.tensorfiles import safetensors
from gpucodec.tensorfiles.tensors import regions


@pytest.fixture
def tensors():
    return every_tensor()


@pytest.fixture
def checkpoint(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    safetensors.write(path, contents_of(tensors, metadata={"format": "pt", "note": "naïve"}))
    return path


@pytest.fixture
def store(tmp_path, checkpoint):
    path = tmp_path / "model.zarr"
    run("compress", checkpoint, path)
    return path


# --- round trips ------------------------------------------------------------------------------


def test_safetensors_comes_back_byte_for_byte(tmp_path, checkpoint):
    store, back = tmp_path / "s.zarr", tmp_path / "back.safetensors"
    result = run("compress", checkpoint, store, "--check")
    assert "ratio" in result.output
    run("decompress", store, back)
    assert back.read_bytes() == checkpoint.read_bytes()
    assert only(tmp_path) == ["back.safetensors", "model.safetensors", "s.zarr"]


def test_store_opens_with_plain_zarr(store, tensors):
    root = zarr.open_group(store, mode="r")
    for name, path in root.attrs["gpucodec"]["tensors"].items():
        assert same(np.asarray(root[path][...]), tensors[name]), name


def test_a_store_opens_with_nothing_but_the_package_installed(store):
    """No import of ours, bfloat16 and float8 included: zarr finds everything by entry points."""
    code = (
        "import sys, zarr; root = zarr.open_group(sys.argv[1], mode='r');"
        "print(*(root[f'layer.{name}'][...].tobytes().hex() for name in sys.argv[2:]))"
    )
    names = ("bfloat16", *FLOAT8, "float32")
    line = [sys.executable, "-W", "ignore", "-c", code, str(store), *names]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=store)
    expected = [random_tensor(name, (37, 19)).tobytes().hex() for name in names]
    assert done.stdout.split() == expected


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    plain = {name: random_tensor(name, (5, 3)) for name in DTYPES if "float8" not in name}
    del plain["bfloat16"]  # the library's NumPy side writes but does not read these
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    safetensors.write(ours, contents_of(plain, metadata={"a": "b"}))
    loaded = library.load_file(ours)
    assert all(same(loaded[name], array) for name, array in plain.items())
    every = {name: random_tensor(name, (5, 3)) for name in DTYPES}
    library.save_file(every, theirs)
    read = {tensor.name: tensor.read() for tensor in safetensors.read(theirs).tensors}
    assert all(same(read[name], array) for name, array in every.items())


def test_a_checkpoint_in_several_files(tmp_path):
    parts = {
        "1": {"b": np.arange(5)},
        "2": {"a": random_tensor("bfloat16", (4, 3)), "c": np.eye(2)},
    }
    for number, part in parts.items():
        safetensors.write(tmp_path / f"m-{number}-of-2.safetensors", contents_of(part))
    places = {"a": "m-2-of-2.safetensors", "b": "m-1-of-2.safetensors"}
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    run("compress", index, tmp_path / "s.zarr")
    run("decompress", tmp_path / "s.zarr", tmp_path / "one.safetensors")
    read = {
        tensor.name: tensor.read()
        for tensor in safetensors.read(tmp_path / "one.safetensors").tensors
    }
    assert list(read) == ["a", "b"]
    assert same(read["a"], parts["2"]["a"])
    assert "bfloat16" in run("inspect", index).output
    for weight_map in ({"a": "../x.safetensors"}, {"a": "gone.safetensors"}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        fails("compress", index, tmp_path / "x.zarr")
    for broken in (
        '{"weight_map": {"z": "m-1-of-2.safetensors"}}',
        "{}",
        "[",
        '{"weight_map": {"a": 1}}',
    ):
        index.write_text(broken)
        fails("compress", index, tmp_path / "x.zarr", code=1)


def test_npz_and_npy(tmp_path):
    arrays = {"w": random_tensor("float32", (8, 5)), "x/y": np.arange(3), "c": np.array(1j)}
    source = tmp_path / "in.npz"
    np.savez(source, **arrays)
    run("compress", source, tmp_path / "s.zarr")
    run("decompress", tmp_path / "s.zarr", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as loaded:
        assert list(loaded) == list(arrays)
        assert all(same(loaded[name], array) for name, array in arrays.items())

    transposed = np.asfortranarray(random_tensor("float64", (300, 7)))
    np.save(tmp_path / "in.npy", transposed.astype(">f8"))
    run("compress", tmp_path / "in.npy", tmp_path / "t.zarr")
    run("decompress", tmp_path / "t.zarr", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tobytes() == transposed.tobytes()


def test_torch_files_keep_structure_and_types(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.randn(40, 30)
    state = {
        "model": {
            f"w.{dtype}": weight.to(getattr(torch, dtype))
            for dtype in ("bfloat16", "float16", "float32", "int64", *FLOAT8)
        },
        "optimizer": {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": weight.T}, 1: {}},
            "param_groups": [
                {"lr": 1e-3, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1]}
            ],
        },
        "best": float("-inf"),
        "name": "run",
        "empty": torch.empty(0, 3),
    }
    source, back = tmp_path / "in.pt", tmp_path / "out.pt"
    torch.save(state, source)
    run("compress", source, tmp_path / "s.zarr", "--check")
    run("decompress", tmp_path / "s.zarr", back)
    got = torch.load(back, weights_only=True)

    def equal(a, b):
        if isinstance(a, torch.Tensor):
            bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
            return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
        if isinstance(a, dict):
            return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple):
            return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
        return type(a) is type(b) and a == b

    assert equal(state, got)


def test_torch_files_of_a_state_dict_and_the_old_format(tmp_path):
    torch = pytest.importorskip("torch")
    state = torch.nn.Linear(3, 4).state_dict()
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    run("compress", tmp_path / "old.bin", tmp_path / "s.zarr")
    run("decompress", tmp_path / "s.zarr", tmp_path / "back.pt")
    got = torch.load(tmp_path / "back.pt", weights_only=True)
    assert type(got) is type(state)
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_files_convert_into_each_other(tmp_path):
    arrays = {"a": random_tensor("float32", (9, 4)), "b": np.arange(3)}
    np.savez(tmp_path / "in.npz", **arrays)
    run("compress", tmp_path / "in.npz", tmp_path / "s.zarr")
    run("decompress", tmp_path / "s.zarr", tmp_path / "out.safetensors")
    read = safetensors.read(tmp_path / "out.safetensors")
    assert all(same(tensor.read(), arrays[tensor.name]) for tensor in read.tensors)


def test_large_tensors_are_cut_into_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "CHUNK_BYTES", 1 << 12)
    array = random_tensor("bfloat16", (3, 50, 40))
    source, back = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    safetensors.write(source, contents_of({"w": array}))
    run("compress", source, tmp_path / "s.zarr")
    assert zarr.open_group(tmp_path / "s.zarr")["w"].chunks == (1, 50, 40)
    run("decompress", tmp_path / "s.zarr", back)
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunks"),
    [
        ((), 4, ()),
        ((0, 7), 4, (1, 7)),
        ((1024, 1024), 4, (1024, 1024)),
        ((4096, 4096), 4, (1024, 4096)),
        ((4097, 4096), 4, (820, 4096)),
        ((100_000_000,), 2, (8_333_334,)),
        ((2, 1 << 30), 1, (1, 1 << 24)),
        ((3, 5, 1 << 25), 8, (1, 1, 1 << 21)),
    ],
)
def test_chunk_shapes(shape, itemsize, chunks):
    assert chunk_shape(shape, itemsize) == chunks


@pytest.mark.parametrize("most_bytes", [0, 1, 100, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("shape", "step"), [((), ()), ((0, 3), (1, 3)), ((7, 5, 9), (2, 5, 4)), ((100,), (7,))]
)
def test_regions_cover_an_array_once(shape, step, most_bytes):
    counts = np.zeros(shape, np.int64)
    for region in regions(shape, step, 4, most_bytes):
        counts[region] += 1
        assert all(part.start % size == 0 for part, size in zip(region, step, strict=True))
        assert most_bytes < 1 or counts[region].nbytes // 2 <= max(most_bytes, 4 * np.prod(step))
    assert (counts == 1).all()


def test_names_become_paths_that_do_not_collide():
    names = [
        "a",
        "a/b",
        "a%",
        ".",
        "..",
        "",
        "a//b",
        "__x",
        "zarr.json",
        "c/0",
        "ü",
        "a:b",
        "\ud800",
    ]
    paths = array_paths(names)
    assert len(set(paths.values())) == len(names)
    for path in paths.values():
        parts = path.split("/")
        assert not {"", ".", "..", "zarr.json"} & set(parts)
        assert not any(part.startswith("__") for part in parts)
        assert not any(other.startswith(path + "/") for other in paths.values())
    assert paths["c/0"] == "c/0"
    assert paths["ü"] == "ü"


# --- copies to and from standard codecs ---------------------------------------------------------


@pytest.mark.parametrize("codec", ["gpucodec", "zstd", "blosc", "gzip", "none"])
def test_copy_changes_the_codec_and_nothing_else(tmp_path, store, checkpoint, codec):
    target = tmp_path / "copy.zarr"
    said = run("copy", store, target, "--codec", codec)
    copied = stores.open_store(target)
    assert f"ratio {copied.decoded_bytes / copied.stored_bytes:.3f}" in said.output
    old, new = zarr.open_group(store, mode="r"), zarr.open_group(target, mode="r")
    assert new.attrs.asdict() == old.attrs.asdict()
    for path, array in old.members(max_depth=None):
        twin = new[path]
        assert twin.attrs.asdict() == array.attrs.asdict()
        if isinstance(array, zarr.Array):
            assert twin.chunks == array.chunks
            assert twin.metadata.data_type == array.metadata.data_type
    assert ("gpucodec.tensor" in str((target / "layer.float32" / "zarr.json").read_text())) == (
        codec == "gpucodec"
    )
    run("verify", target)
    run("decompress", target, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == checkpoint.read_bytes()


def foreign_store(path, zarr_format):
    root = zarr.create_group(
        path, zarr_format=zarr_format, attributes={"title": "ours", "n": [1, 2]}
    )
    group = root.create_group("g", attributes={"units": "m"})
    fill = group.create_array(
        "t", shape=(10, 6), chunks=(4, 4), dtype="float32", fill_value=7, attributes={"k": "v"}
    )
    fill[2:5, 1:3] = 1.25
    root.create_array("text", shape=(3,), dtype="<U4")[...] = ["a", "bb", "cccc"]
    root.create_array("when", shape=(4,), dtype="datetime64[s]")[...] = np.arange(4)
    if zarr_format == 3:
        sharded = root.create_array(
            "sharded", shape=(64, 8), chunks=(8, 8), shards=(32, 8), dtype="i4"
        )
        sharded[...] = np.arange(512).reshape(64, 8)
    return root


@pytest.mark.filterwarnings("ignore")  # zarr warns of its own data types
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_of_others(tmp_path, zarr_format):
    root = foreign_store(tmp_path / "other.zarr", zarr_format)
    run("compress", tmp_path / "other.zarr", tmp_path / "ours.zarr")
    new = zarr.open_group(tmp_path / "ours.zarr", mode="r")
    assert new.attrs.asdict() == root.attrs.asdict()
    assert new["g"].attrs.asdict() == {"units": "m"}
    assert new["g/t"].attrs.asdict() == {"k": "v"}
    assert new["g/t"].fill_value == 7
    for path, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array):
            assert np.array_equal(new[path][...], array[...]), path
            assert (new[path].chunks, new[path].shards) == (array.chunks, array.shards)
    run("verify", tmp_path / "ours.zarr")
    shown = run("inspect", tmp_path / "ours.zarr").output
    assert "g/t" in shown
    run("inspect", tmp_path / "other.zarr")


def test_an_array_at_the_root(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(20,), chunks=(6,), dtype="f4")
    array[...] = np.arange(20)
    run("copy", tmp_path / "a.zarr", tmp_path / "b.zarr", "--codec", "gpucodec")
    assert np.array_equal(zarr.open_array(tmp_path / "b.zarr")[...], np.arange(20))
    run("verify", tmp_path / "b.zarr")
    run("inspect", tmp_path / "b.zarr")
    run("decompress", tmp_path / "b.zarr", tmp_path / "b.npy")
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.arange(20))


# --- inspect, verify, bench, demo ---------------------------------------------------------------


def test_inspect_shows_types_coders_and_a_total(store):
    shown = run("inspect", store).output
    for word in ("layer.bfloat16", "37×19", "float8_e4m3fn", "stored", "total", "ratio"):
        assert word in shown


def test_bench_names_what_is_missing(checkpoint, monkeypatch):
    def absent(_dtype):
        raise ImportError

    monkeypatch.setitem(peers.PEERS, "lz4", absent)
    shown = run("bench", checkpoint, "--mib", 1).output
    assert "gpucodec" in shown
    assert "Not installed: " in shown
    assert "lz4" in shown.split("Not installed: ")[1]


def test_demo_trains_and_keeps(tmp_path):
    shown = run("demo", "--steps", 3, "--keep", tmp_path / "kept").output
    assert "every bit is the same" in shown
    assert "exp_avg_sq.hidden.weight" in shown
    assert only(tmp_path / "kept") == ["checkpoint.safetensors", "checkpoint.zarr"]
    run("verify", tmp_path / "kept" / "checkpoint.zarr")


def test_demo_takes_a_file(checkpoint):
    before = checkpoint.read_bytes()
    assert "every bit is the same" in run("demo", checkpoint).output
    assert checkpoint.read_bytes() == before
