# SPDX-License-Identifier: Apache-2.0
"""kvikio without a GPU: its files, over memory of the host that `cupy_shim` takes for a device's.

`GDSStore` is a store like kvikio's: the asynchronous methods of a local store, and no others, read and write
what the prototype asks for by `CuFile`. Where kvikio is installed, its own store takes these files, too.
"""

from __future__ import annotations

import asyncio
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cupy_shim
import numpy as np
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import LocalStore

if TYPE_CHECKING:
    import pytest


class Counts:
    """Bytes of chunks that `CuFile` moved between files and the device, or the host."""

    def __init__(self, module: cupy_shim.Module) -> None:
        self.module = module
        self.writes = 0
        self.clear()

    def clear(self) -> None:
        self.moved = dict.fromkeys(("read device", "read host", "write device", "write host"), 0)

    def note(self, what: str, array: Any, n_bytes: int) -> None:
        assert array.ndim == 1
        assert array.flags.c_contiguous
        on_device = isinstance(array, cupy_shim.Array)
        self.moved[f"{what} {'device' if on_device else 'host'}"] += n_bytes
        if on_device and what == "write":
            # Nothing orders it behind the kernels that make the bytes but the wait of who hands it over.
            self.writes += 1
            assert self.module.waits >= self.writes


def file_class(counts: Counts) -> type:
    class CuFile:
        def __init__(self, file: Any, flags: str = "r") -> None:
            self.is_chunk = Path(file).name != "zarr.json"
            self.handle = Path(file).open({"r": "rb", "w": "wb"}.get(flags, flags))  # noqa: SIM115

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.handle.close()

        def pread(self, array: Any, size: int, file_offset: int = 0) -> Any:
            self.handle.seek(file_offset)
            raw = np.frombuffer(self.handle.read(size), np.uint8)
            memory = array.memory if isinstance(array, cupy_shim.Array) else array
            memory[: raw.size] = raw
            if self.is_chunk:
                counts.note("read", array, raw.size)
            return types.SimpleNamespace(get=lambda: raw.size)

        def write(self, array: Any) -> int:
            if self.is_chunk:
                counts.note("write", array, array.nbytes)
            memory = array.memory if isinstance(array, cupy_shim.Array) else array
            return self.handle.write(memory.tobytes())

    return CuFile


class GDSStore(LocalStore):
    """As kvikio's, by the files of the module that it is in."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        if not self._is_open:
            await self._open()
        path = self.root / key
        if not path.is_file():
            return None
        n_bytes = path.stat().st_size
        start, stop = 0, n_bytes
        if isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, min(byte_range.end, n_bytes)
        elif isinstance(byte_range, SuffixByteRequest):
            start = max(0, n_bytes - byte_range.suffix)
        raw = prototype.nd_buffer.create(shape=(stop - start,), dtype="B").as_ndarray_like()

        def read() -> None:
            with sys.modules["kvikio"].CuFile(path) as file:
                file.pread(raw, size=stop - start, file_offset=start).get()

        await asyncio.to_thread(read)
        return prototype.buffer.from_array_like(raw)

    async def set(self, key: str, value: Any) -> None:
        await self._set(key, value)

    async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        path = self.root / key

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with sys.modules["kvikio"].CuFile(path, flags="xb" if exclusive else "wb") as file:
                file.write(value.as_array_like())

        await asyncio.to_thread(write)


def install(
    monkeypatch: pytest.MonkeyPatch, module: cupy_shim.Module, kvikio: Any = None
) -> Counts:
    """Make these the files of kvikio, which is a stand-in unless it is given."""
    counts = Counts(module)
    if kvikio is None:
        kvikio = types.ModuleType("kvikio")
        kvikio.zarr = types.ModuleType("kvikio.zarr")
        kvikio.zarr.GDSStore = GDSStore
        monkeypatch.setitem(sys.modules, "kvikio", kvikio)
        monkeypatch.setitem(sys.modules, "kvikio.zarr", kvikio.zarr)
    monkeypatch.setattr(kvikio, "CuFile", file_class(counts), raising=False)
    return counts
