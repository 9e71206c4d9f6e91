# SPDX-License-Identifier: Apache-2.0
"""Programs that take fsspec URLs take ours, unchanged."""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import sample

VALUES = sample("float32", 300_000, "values").reshape(300, 1000)


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """A folder, as a URL without gpucodec; and where its bytes are counted."""
    if request.param == "memory":
        yield "memory://programs"
        MemoryFileSystem.store.clear()
    else:
        yield f"file://{tmp_path}"


def stored(url: str) -> int:
    fs, path = fsspec.url_to_fs(url)
    return fs.du(path)


def test_numpy(url):
    with fsspec.open(f"gpucodec::{url}/a.npy", "wb") as file:
        np.save(file, VALUES)
    with fsspec.open(f"gpucodec::{url}/a.npy", "rb") as file:
        assert (np.load(file) == VALUES).all()
    with fsspec.open(f"gpucodec::{url}/a.npz", "wb") as file:
        np.savez(file, a=VALUES, b=VALUES[0])
    with fsspec.open(f"gpucodec::{url}/a.npz", "rb") as file:
        assert (np.load(file)["b"] == VALUES[0]).all()
    assert stored(url) < 0.9 * 2 * VALUES.nbytes


def test_safetensors(url):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {"a": VALUES, "b": VALUES[0].astype(np.float16)}
    fs, path = fsspec.url_to_fs(f"gpucodec::{url}/m.safetensors")
    fs.pipe(path, safetensors.save(tensors))
    found = safetensors.load(fs.cat(path))
    assert all((found[name] == tensor).all() for name, tensor in tensors.items())


def test_torch_save(url):
    torch = pytest.importorskip("torch")
    state = {
        "weight": torch.from_numpy(VALUES).bfloat16(),
        "step": 7,
        "ids": torch.arange(100_000),
    }
    with fsspec.open(f"gpucodec::{url}/m.pt", "wb") as file:
        torch.save(state, file)
    with fsspec.open(f"gpucodec::{url}/m.pt", "rb") as file:
        found = torch.load(file, weights_only=True)
    assert found["step"] == 7
    assert (found["weight"] == state["weight"]).all()
    assert (found["ids"] == state["ids"]).all()
    assert stored(f"{url}/m.pt") < 0.65 * (600_000 + 800_000)


@pytest.mark.filterwarnings("ignore")  # of torch, about the missing process group
def test_torch_distributed_checkpoint(url):
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    if url.startswith("file"):
        fsspec.url_to_fs(url)[0].makedirs(f"{url}/dcp", exist_ok=True)
    state = {"model": {"weight": torch.from_numpy(VALUES), "bias": torch.ones(1000)}}
    target = f"gpucodec::{url}/dcp"
    checkpoint.save(state, storage_writer=FsspecWriter(target), no_dist=True)
    found = {"model": {"weight": torch.zeros(300, 1000), "bias": torch.zeros(1000)}}
    checkpoint.load(found, storage_reader=FsspecReader(target), no_dist=True)
    assert (found["model"]["weight"] == state["model"]["weight"]).all()
    assert (found["model"]["bias"] == 1).all()
    assert stored(f"{url}/dcp") < 0.9 * VALUES.nbytes


def test_pandas(url):
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install 'gpucodec[test-fs]'")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'gpucodec[test-fs]'")
    table = pandas.DataFrame({"x": VALUES[0], "n": np.arange(1000), "s": ["a", "b"] * 500})
    for ending, options in ((".parquet", {"compression": None}), (".csv", {"index": False})):
        name = f"gpucodec::{url}/table{ending}"
        getattr(table, f"to_{ending[1:]}")(name, **options)
        found = getattr(pandas, f"read_{ending[1:]}")(name)
        assert (found["n"] == table["n"]).all()
        assert (found["s"] == table["s"]).all()
    columns = pandas.read_parquet(f"gpucodec::{url}/table.parquet", columns=["x"])
    assert (columns["x"] == table["x"]).all()
    whole = io.BytesIO()
    table.to_csv(whole, index=False)
    assert stored(f"{url}/table.csv") < 0.6 * whole.tell()
