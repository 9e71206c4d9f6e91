# SPDX-License-Identifier: Apache-2.0
"""``compression="gpucodec"`` of `fsspec.open`, and of names that end in ``.gpc``: one file at a time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fsspec.compression import register_compression

from ..errors import UnsupportedError
from .encoder import Encoder
from .indexes import load_now
from .reading import Request, fill


def open_stream(infile: Any, mode: str = "rb", **_: Any) -> io.BufferedIOBase:
    """What `fsspec.compression.register_compression` asks for.

    Parameters
    ----------
    infile
        The stored file, opened in `mode`; to read, it must be seekable. It is closed with the
        returned file.

    Raises
    ------
    GpucodecError
        To read: the file is damaged, or not gpucodec's.

    """
    if "r" not in mode:
        return io.BufferedWriter(_Writer(infile), io.DEFAULT_BUFFER_SIZE)
    return io.BufferedReader(_Reader(infile), 1 << 20)


class _Reader(io.RawIOBase):
    def __init__(self, infile: Any) -> None:
        self._infile = infile
        size = infile.seek(0, io.SEEK_END)
        index = load_now(size, self._stored)
        if index is None:
            message = f"not a file of gpucodec: {getattr(infile, 'name', infile)}"
            raise UnsupportedError(message)
        self._index, self._at = index, 0

    def _stored(self, start: int, stop: int) -> bytes:
        self._infile.seek(start)
        return bytes(self._infile.read(stop - start))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._index.size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        out = np.frombuffer(buffer, np.uint8)
        stop = min(self._at + out.size, self._index.size)
        n = max(0, stop - self._at)
        if n:
            request = Request(self._index, self._at, stop, out[:n])
            fill([(request, self._stored(*request.stored))])
            self._at = stop
        return n

    def close(self) -> None:
        if not self.closed:
            self._infile.close()
        super().close()


class _Writer(io.RawIOBase):
    def __init__(self, infile: Any) -> None:
        self._infile, self._encoder = infile, Encoder()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        before = self._encoder.n_bytes
        for piece in self._encoder.feed(data):
            self._infile.write(piece)
        return self._encoder.n_bytes - before

    def close(self) -> None:
        if not self.closed:
            for piece in self._encoder.finish():
                self._infile.write(piece)
            self._infile.close()
        super().close()


register_compression("gpucodec", open_stream, ["gpc"])
