# SPDX-License-Identifier: Apache-2.0
"""An open file's way to its bytes, without an event loop where the filesystem below needs none."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from fsspec.asyn import sync

from .indexes import load_now
from .reading import Request, fill

if TYPE_CHECKING:
    from ..buffers import Bytes
    from .section import Index

STEP_BYTES: Final = 8 << 20  # of contents decoded at a time, while the next are read


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
        if fs.fs.async_impl:
            info, self.index = sync(fs.loop, fs._indexes.load, path)
        else:
            info = fs.fs.info(path)
            if info["type"] == "file" and fs._local and hasattr(os, "pread"):
                self._descriptor = os.open(path, os.O_RDONLY)
                info["size"] = os.fstat(self._descriptor).st_size
            try:
                is_file = info["type"] == "file"
                self.index = load_now(info["size"], self._read) if is_file else None
            except BaseException:
                self.close()
                raise
        if info["type"] == "directory":
            raise IsADirectoryError(path)
        self.info = logical(info, self.index)

    def _read(self, start: int, stop: int) -> bytes:
        """Bytes of the file as it is stored."""
        if self._descriptor < 0:
            return bytes(self._fs.fs.cat_file(self._path, start=start, end=stop))
        pieces = [os.pread(self._descriptor, stop - start, start)]
        while pieces[-1] and (missing := stop - start - sum(map(len, pieces))):  # 2 GiB at most
            pieces.append(os.pread(self._descriptor, missing, stop - missing))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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
            fill([(request, self._read(*request.stored)) for request in requests], fs.threads)
            return
        with ThreadPoolExecutor(1, "gpucodec-read") as ahead:
            coming = [ahead.submit(self._read, *request.stored) for request in requests[:2]]
            for i, request in enumerate(requests):
                payload = coming.pop(0).result()
                if i + 2 < len(requests):
                    coming.append(ahead.submit(self._read, *requests[i + 2].stored))
                fill([(request, payload)], fs.threads)

    def close(self) -> None:
        """Close the local file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
