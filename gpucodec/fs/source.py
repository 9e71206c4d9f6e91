# SPDX-License-Identifier: Apache-2.0
"""An open file's way to its bytes, without an event loop where the filesystem below needs none."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fsspec.asyn import sync

from ..errors import GpucodecError
from .indexes import load_now
from .locks import between_appends
from .reading import Request, fill

if TYPE_CHECKING:
    from ..buffers import Bytes
    from .section import Index

STEP_BYTES: Final = 16 << 20  # of contents decoded at a time, while the next are read
REUSED_BYTES: Final = 1 << 20  # reads of this size get memory that is kept


def logical(info: dict[str, Any], index: Index | None) -> dict[str, Any]:
    """What ``info`` says of a file: the size of its contents, and the stored one beside."""
    if index is None:
        return info
    return {**info, "size": index.size, "physical_size": info["size"]}


class Source:
    """A file to read, as it is now: a local one stays so even if it is replaced.

    Attributes
    ----------
    info
        What `GpucodecFileSystem.info` says of it.
    index
        Its index, or None if gpucodec did not write it.

    """

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self._descriptor = -1
        self._rooms: list[Bytes] = []
        if fs.fs.async_impl:
            info, self.index = sync(fs.loop, fs._indexes.load, path)
        else:
            info = fs.fs.info(path)
            if info["type"] == "file" and fs._local and hasattr(os, "preadv"):
                self._descriptor = os.open(path, os.O_RDONLY)
            try:
                self.index = self._load(info)
            except BaseException:
                self.close()
                raise
        if info["type"] == "directory":
            raise IsADirectoryError(path)
        self.info = logical(info, self.index)

    def _load(self, info: dict[str, Any]) -> Index | None:
        """The index of a file whose bytes come at once."""
        if self._descriptor < 0:
            known = info["type"] == "file" and info["size"] is not None
            return load_now(info["size"], self._read) if known else None
        try:
            info["size"] = os.fstat(self._descriptor).st_size
            return load_now(info["size"], self._read)
        except GpucodecError:
            with between_appends(self._path):
                info["size"] = os.fstat(self._descriptor).st_size
                return load_now(info["size"], self._read)

    def _read(self, start: int, stop: int) -> Any:
        """Bytes of the file as it is stored."""
        if self._descriptor < 0:
            return self._fs.fs.cat_file(self._path, start=start, end=stop)
        return os.pread(self._descriptor, stop - start, start)

    def _fetch(self, request: Request) -> Any:
        """What a request needs; large pieces in memory that was used before, which is faster."""
        start, stop = request.stored
        if self._descriptor < 0 or stop - start < REUSED_BYTES:
            return self._read(start, stop)
        room = self._rooms.pop() if self._rooms else np.empty(0, np.uint8)
        if room.size < stop - start:
            room = np.empty(stop - start, np.uint8)
        n = os.preadv(self._descriptor, [room[: stop - start]], start)
        return room[:n]

    def _fill(self, request: Request, payload: Any) -> None:
        fill([(request, payload)], self._fs.threads)
        if isinstance(payload, np.ndarray):
            self._rooms.append(payload if payload.base is None else payload.base)

    def read_into(self, start: int, stop: int, out: Bytes) -> None:
        """Decode bytes `start` to `stop` - 1 of the contents into `out`. Raises GpucodecError."""
        fs, index = self._fs, self.index
        assert index is not None, self._path
        if fs.fs.async_impl:
            sync(fs.loop, fs._read_into, self._path, index, start, stop, out)
            return
        ends = [min(at + STEP_BYTES, stop) for at in range(start, stop, STEP_BYTES)]
        requests = [
            Request(index, at, end, out[at - start : end - start])
            for at, end in zip([start, *ends], ends, strict=False)
        ]
        if len(requests) < 2:  # noqa: PLR2004
            for request in requests:
                self._fill(request, self._fetch(request))
            return
        with ThreadPoolExecutor(1, "gpucodec-read") as ahead:
            coming = [ahead.submit(self._fetch, request) for request in requests[:2]]
            for i, request in enumerate(requests):
                payload = coming.pop(0).result()
                if i + 2 < len(requests):
                    coming.append(ahead.submit(self._fetch, requests[i + 2]))
                self._fill(request, payload)

    def close(self) -> None:
        """Close the local file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
