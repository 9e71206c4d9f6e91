# SPDX-License-Identifier: Apache-2.0
"""A zarr store that knows which chunks were read and written, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import Store
from zarr.storage import StorePath, WrapperStore

from ...zarr import enable

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class Counted(WrapperStore[Store]):
    """Passes everything on, and counts since the last `reset`."""

    _supports_sync_io = False  # all of it comes by the methods below

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.read_bytes = 0
        self.missing: set[str] = set()
        """Keys that were asked for and are not there."""
        self.written: dict[str, int] = {}
        """Bytes of each value that was written."""

    @property
    def inner(self) -> Store:
        """The store that has the values."""
        return self._store

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Count the bytes, or the key if it is missing."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            self.missing.add(key)
        else:
            self.read_bytes += len(found)
        return found

    async def set(self, key: str, value: Buffer) -> None:
        """Count the key and its bytes."""
        await self._store.set(key, value)
        self.written[key] = len(value)


def counting(array: zarr.Array[Any], store: Store | None = None) -> zarr.Array[Any]:
    """An array as it is described, whose chunks lie in `store`, or where they are; counted."""
    at = StorePath(Counted(array.store if store is None else store), array.path)
    with enable():
        inner: Any = zarr.AsyncArray(array.metadata, at, array.async_array.config)
    return zarr.Array(inner)
