# SPDX-License-Identifier: Apache-2.0
"""zarr's own tests of a store, on a store over our filesystem, and arrays in it."""

from __future__ import annotations

import asyncio
import functools
import inspect

import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from zarr.core.buffer import Buffer, cpu
from zarr.storage import FsspecStore
from zarr.testing.store import StoreTests

from gpucodec.fs import GpucodecFileSystem

FOLDER = "/zarr-store"


def filesystem() -> GpucodecFileSystem:
    return GpucodecFileSystem(target_protocol="memory", target_options={}, asynchronous=True)


class TestStore(StoreTests[FsspecStore, cpu.Buffer]):
    store_cls = FsspecStore
    buffer_cls = cpu.Buffer

    async def set(self, store: FsspecStore, key: str, value: Buffer) -> None:
        await filesystem()._pipe_file(f"{FOLDER}/{key}", value.to_bytes())

    async def get(self, store: FsspecStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(await filesystem()._cat_file(f"{FOLDER}/{key}"))

    @pytest.fixture
    def store_kwargs(self):
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        yield {"fs": filesystem(), "path": FOLDER}
        MemoryFileSystem.store.clear()

    @pytest.fixture
    def open_kwargs(self, store_kwargs):
        return store_kwargs

    @pytest.fixture
    def store(self, store_kwargs):
        return asyncio.run(self.store_cls.open(**store_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs):
        return self.store_cls(**store_kwargs)

    def test_store_repr(self, store):
        assert "GpucodecFileSystem" in str(store)

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing


def synchronous(test):
    """zarr's tests are coroutines for a plugin; here each runs in a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        return asyncio.run(test(*args, **kwargs))

    return run


for name, member in inspect.getmembers(StoreTests, inspect.iscoroutinefunction):
    if name.startswith("test_") and name not in vars(TestStore):
        setattr(TestStore, name, synchronous(member))


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_arrays(protocol, tmp_path):
    url = f"gpucodec::{protocol}://{tmp_path}/arrays.zarr"
    values = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    options = {"auto_mkdir": True} if protocol == "file" else {}
    storage = {"file": options} if options else {}
    array = zarr.create_array(
        url,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(50, 400),
        compressors=None,
        storage_options=storage,
    )
    array[:] = values
    again = zarr.open_array(url, mode="r", storage_options=storage)
    assert (again[:] == values).all()
    assert (again[60:70, 5] == values[60:70, 5]).all()
    MemoryFileSystem.store.clear()
