# SPDX-License-Identifier: Apache-2.0
"""The indexes of files, read when they are needed and kept while the files stay the same."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from fsspec.implementations.local import LocalFileSystem

from ..errors import GpucodecError
from .locks import between_appends
from .section import read_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from .section import Index

KEPT_BYTES: Final = 64 << 20  # of indexes; some 500 GB of tensors
_TAGS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5")
_TIMES = ("mtime", "ino", "LastModified", "last_modified", "updated", "created")


class Indexes:
    """Indexes of the files of a filesystem `fs`; `below` is the same with asynchronous methods."""

    def __init__(self, fs: Any, below: Any) -> None:
        self._fs, self._below = fs, below
        self._kept: OrderedDict[str, tuple[Any, Index | None]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    async def load(self, path: str, **kwargs: Any) -> tuple[dict[str, Any], Index | None]:
        """What the filesystem below says of a file, and its index: None if it is not gpucodec's.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        GpucodecError
            What is wrong with the file.

        """
        info = {
            **await self._below._info(path, **kwargs),
            "name": path,
        }  # obstore's lacks the bucket
        try:
            return info, await self.of(info)
        except GpucodecError:
            with await asyncio.to_thread(self._quiet, path):
                again = await self.changed(path, info)
                if again is None:
                    raise
                return again, await self.of(again)

    def _quiet(self, path: str) -> ExitStack:
        """Waits until nobody appends to a local file, and keeps it so until it is left."""
        stack = ExitStack()
        if isinstance(self._fs, LocalFileSystem):
            stack.enter_context(between_appends(path))
        return stack

    async def changed(self, path: str, info: dict[str, Any]) -> dict[str, Any] | None:
        """What there is to say of a file now, if `info` came from a listing older than it."""
        self._fs.invalidate_cache(self._fs._parent(path))
        again = {**await self._below._info(path), "name": path}
        return None if _identity(again) == _identity(info) else again

    async def of(self, info: dict[str, Any]) -> Index | None:
        """The index of a file of a listing."""
        if info["type"] != "file" or not info.get("size"):
            return None
        with self._lock:
            known, index = self._kept.get(info["name"], (None, None))
        identity = _identity(info)
        if known is not None and known == identity:
            return index
        reader = read_index(info["size"])
        try:
            wanted = next(reader)
            while True:
                start, stop = wanted
                piece = await self._below._cat_file(info["name"], start=start, end=stop)
                wanted = reader.send(piece)
        except StopIteration as done:
            self._keep(info["name"], identity, done.value)
            return done.value  # type: ignore[no-any-return]

    def _keep(self, name: str, identity: Any, index: Index | None) -> None:
        with self._lock:
            _, former = self._kept.pop(name, (None, None))
            self._bytes += _nbytes(index) - _nbytes(former)
            self._kept[name] = identity, index
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= _nbytes(dropped)


def load_now(size: int, fetch: Callable[[int, int], Any]) -> Index | None:
    """The index of a file whose bytes come at once; as `read_index`."""
    reader = read_index(size)
    try:
        wanted = next(reader)
        while True:
            wanted = reader.send(fetch(*wanted))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _nbytes(index: Index | None) -> int:
    return 0 if index is None else index.nbytes


def _identity(info: dict[str, Any]) -> Any:
    """What changes when a file does, as far as its filesystem tells; None if it tells nothing."""
    for tag in _TAGS:
        if info.get(tag):
            return info["size"], info[tag]
    times = [info.get(key) for key in _TIMES]
    if all(time is None for time in times):
        return None
    return info["size"], *(str(getattr(time, "timestamp", lambda t=time: t)()) for time in times)
