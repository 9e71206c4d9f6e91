# SPDX-License-Identifier: Apache-2.0
"""obstore below our filesystem, and its stores below zarr: on moto's S3 server, in memory, on a disk."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
import zarr
from fs_places import DATA
from fsspec.registry import _registry
from gpucodec_s3 import BUCKET
from helpers import sample

from gpucodec import TruncatedError
from gpucodec.fs import GpucodecFileSystem, sink
from gpucodec.zarr import TensorCodec

obstore = pytest.importorskip("obstore", reason="needs obstore: pip install 'gpucodec[test]'")


@pytest.fixture
def connection(s3_options):
    """What obstore needs to know of the server."""
    return {
        "endpoint": s3_options["endpoint_url"].replace("0.0.0.0", "127.0.0.1"),
        "access_key_id": s3_options["key"],
        "secret_access_key": s3_options["secret"],
        "region": "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
    }


@pytest.fixture(params=["s3", "memory", "file"])
def place(request, tmp_path):
    """Our filesystem over obstore's, that one, and a folder."""
    from obstore.fsspec import FsspecStore

    options, folder = {}, "memory"
    if request.param == "s3":
        options, folder = request.getfixturevalue("connection"), f"{BUCKET}/{tmp_path.name}"
    elif request.param == "file":
        folder = str(tmp_path)
    below = FsspecStore(request.param, **options)
    yield GpucodecFileSystem(fs=below), below, folder
    if request.param == "s3" and below.find(folder):
        below.rm(folder, recursive=True)


def test_files_come_back_in_ranges(place, monkeypatch):
    fs, below, folder = place
    path = f"{folder}/a"
    for spool in (sink.SPOOL_BYTES, 1 << 20):  # from memory, and from a temporary file
        monkeypatch.setattr(sink, "SPOOL_BYTES", spool)
        with fs.open(path, "wb") as file:
            file.write(DATA)
        assert fs.cat_file(path) == DATA
    assert fs.info(path)["size"] == len(DATA)
    assert below.info(path)["size"] == fs.info(path)["physical_size"] < 0.8 * len(DATA)
    assert fs.cat_file(path, start=-7) == DATA[-7:]
    starts = [0, 1_000_000, 5]
    found = fs.cat_ranges([path] * 3, starts, [start + 999 for start in starts])
    assert found == [DATA[start : start + 999] for start in starts]
    with fs.open(path) as file:
        file.seek(800_000)
        assert file.read(100) == DATA[800_000:800_100]
    fs.pipe_file(f"{folder}/zeros", bytes(100_000))  # a file without a payload
    assert fs.cat_file(f"{folder}/zeros", start=50_000) == bytes(50_000)
    assert fs.cat_ranges([f"{folder}/zeros"], [1], [3]) == [bytes(2)]
    fs.rm([path, f"{folder}/zeros"])
    assert not fs.exists(path)


def test_exclusive_writers_do_not_replace(place):
    fs, _, folder = place
    path = f"{folder}/once"
    first, second = fs.open(path, "xb"), fs.open(path, "xb")
    second.write(b"second")
    second.close()
    first.write(b"first")
    with pytest.raises(FileExistsError):
        first.close()
    with pytest.raises(FileExistsError):
        fs.pipe_file(path, b"third", mode="create")
    assert fs.cat_file(path) == b"second"
    fs.rm(path)


def test_cut_files_are_errors(place):
    fs, below, folder = place
    fs.pipe_file(f"{folder}/cut", DATA)
    below.pipe_file(f"{folder}/cut", below.cat_file(f"{folder}/cut")[:-9])
    with pytest.raises(TruncatedError):
        fs.cat_file(f"{folder}/cut")
    below.rm(f"{folder}/cut")


def test_as_a_url(connection, monkeypatch):
    """obstore in the place of s3fs."""
    from obstore.fsspec import register

    monkeypatch.setitem(_registry, "s3", None)  # restores what was there
    register("s3")
    url = f"gpucodec::s3://{BUCKET}/by-url"
    with fsspec.open(url, "wb", s3=connection) as file:
        file.write(DATA)
    fs, path = fsspec.url_to_fs(url, s3=connection)
    assert type(fs.fs).__module__ == "obstore.fsspec"
    assert fs.cat_file(path, start=10, end=20) == DATA[10:20]
    fs.rm(path)


def test_its_stores_below_zarr(connection):
    store = zarr.storage.ObjectStore(obstore.store.S3Store(BUCKET, prefix="zarr", **connection))
    values = sample("float32", 120_000, "values").reshape(300, 400)
    root = zarr.create_group(store)
    plain = root.create_array(
        "plain", data=values, chunks=(100, 400), serializer=TensorCodec(), compressors=None
    )
    shards = root.create_array(
        "shards",
        data=values,
        chunks=(50, 100),
        shards=(100, 400),
        serializer=TensorCodec(),
        compressors=None,
    )
    for array in (plain, shards):
        again = zarr.open_array(store, path=array.path, mode="r")
        assert (np.asarray(again[:]) == values).all()
        assert (np.asarray(again[10:20, 7]) == values[10:20, 7]).all()
