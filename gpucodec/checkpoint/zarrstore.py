# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a zarr hierarchy: arrays under the names of tensors, each object checked.

What zarr takes for "not written, so it is zero" is here an error: a checkpoint has all chunks.
Differences and roundings are shown as arrays that are not encoded, whose chunks are made when they
are read.
"""

from __future__ import annotations

import asyncio
import json
from math import prod
from typing import TYPE_CHECKING, Final

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from ..dtypes import BY_NAME
from ..errors import CorruptionError
from . import codecs, grid
from .manifest import METADATA
from .read import check_digest, fetch, read_whole_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from .manifest import Array, Object
    from .storage import Storage

GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()
PLAIN: Final = {"name": "bytes", "configuration": {"endian": "little"}}


class CheckedStore(Store):
    """A read-only zarr store over the objects of a manifest.

    Parameters
    ----------
    storage
        Where the objects are.
    places
        Arrays by the paths under which zarr shall find them.

    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, storage: Storage, places: Mapping[str, Array]) -> None:
        super().__init__(read_only=True)
        self._is_open = True
        self.storage = storage
        self.places = dict(places)
        self._objects: dict[str, dict[str, Object]] = {}
        self._numbers: dict[str, dict[str, int]] = {}
        self._groups = {""} | {
            path[:i] for path in self.places for i, letter in enumerate(path) if letter == "/"
        }

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _find(self, key: str) -> tuple[str, Object] | None:
        """The stored object for a key of zarr."""
        path, _, name = key.rpartition("/")
        array = self.places.get(path)
        if array is None or len(array.chain) > 1:
            return None
        if array.path not in self._objects:
            keys = grid.chunk_keys(array.shape, array.chunks)
            named = dict(zip(keys, array.objects, strict=True))
            self._objects[array.path] = {METADATA: array.metadata, **named}
        found = self._objects[array.path].get(name)
        return None if found is None else (f"{array.path}/{name}", found)

    def _made(self, key: str) -> tuple[Array, int | None] | None:
        """An array that is made when it is read, and the number of a chunk, or None of metadata."""
        path, _, name = key.rpartition("/")
        array = self.places.get(path)
        if array is None or len(array.chain) == 1:
            return None
        if name == METADATA:
            return array, None
        if path not in self._numbers:
            keys = grid.chunk_keys(array.shape, array.chunks)
            self._numbers[path] = {key: number for number, key in enumerate(keys)}
        number = self._numbers[path].get(name)
        return None if number is None else (array, number)

    def _make(self, array: Array, number: int | None) -> bytes:
        if number is None:
            return codecs.metadata(array.dtype, array.shape, array.chunks, PLAIN)
        return read_whole_chunk(self.storage, array, number).tobytes()

    def _group(self, key: str) -> bool:
        return key.rpartition("/")[0] in self._groups and key.rpartition("/")[2] == METADATA

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if made := self._made(key):
            return _part(self._make(*made), byte_range)
        found = self._find(key)
        if found is None:
            return _part(GROUP, byte_range) if self._group(key) else None
        stored, expected = found
        if byte_range is None or stored.endswith(METADATA):
            return _part(fetch(self.storage, stored, expected), byte_range)
        start, stop = _limits(byte_range, expected.size)
        where = f"{self.storage.url}/{stored}"
        try:
            part = self.storage.get(stored, start, stop)
        except FileNotFoundError as error:
            raise CorruptionError(f"{where} is missing, the manifest names it") from error
        if start == 0 and len(part) >= codecs.HEAD_BYTES:
            check_digest(part, stored, expected, where)  # and with it the table, hence all blocks
        return part

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, or a part of it.

        Raises
        ------
        CorruptionError
            An object is missing or not the one that was written.

        """
        raw = await asyncio.to_thread(self._read, key, byte_range)
        return None if raw is None else prototype.buffer.from_bytes(raw)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of values."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    async def getsize(self, key: str) -> int:
        """Bytes of a value."""
        if made := self._made(key):
            array, number = made
            chunk_bytes = prod(array.chunks) * BY_NAME[array.dtype].itemsize
            return len(self._make(array, None)) if number is None else chunk_bytes
        found = self._find(key)
        if found is None:
            if self._group(key):
                return len(GROUP)
            raise FileNotFoundError(key)
        return found[1].size

    async def exists(self, key: str) -> bool:
        """Whether the manifest has such a value."""
        return any(look(key) for look in (self._find, self._made, self._group))

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for group in self._groups:
            yield f"{group}/{METADATA}".lstrip("/")
        for path, array in self.places.items():
            yield f"{path}/{METADATA}"
            for key in grid.chunk_keys(array.shape, array.chunks):
                yield f"{path}/{key}"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that start so."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a path."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = set()
        async for key in self.list():
            if key.startswith(start):
                name = key[len(start) :].partition("/")[0]
                if name not in seen:
                    seen.add(name)
                    yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Not allowed: use `save`."""
        del value
        raise ValueError(f"a checkpoint is read-only: {key}")

    async def delete(self, key: str) -> None:
        """Not allowed."""
        raise ValueError(f"a checkpoint is read-only: {key}")


def _limits(part: ByteRequest, size: int) -> tuple[int, int]:
    match part:
        case RangeByteRequest():
            return part.start, min(part.end, size)
        case OffsetByteRequest():
            return part.offset, size
        case SuffixByteRequest():
            return max(0, size - part.suffix), size
    raise TypeError(f"{part} is no byte range")


def _part(raw: bytes, part: ByteRequest | None) -> bytes:
    if part is None:
        return raw
    start, stop = _limits(part, len(raw))
    return raw[start:stop]
