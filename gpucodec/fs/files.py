# SPDX-License-Identifier: Apache-2.0
"""File objects: one that decodes what is read, one that encodes what is written."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fsspec.caching import BaseCache
from fsspec.spec import AbstractBufferedFile

from .encoder import Encoder
from .reading import aligned

if TYPE_CHECKING:
    from .section import Index
    from .sink import Sink
    from .source import Source

AHEAD_BYTES: Final = 8 << 20  # the most to decode ahead of a reader that goes straight on
WRITES_WAITING: Final = 2  # encoded pieces that may wait to be written
DIRECT_BYTES: Final = 1 << 20  # reads of this size are decoded to where they go


class DecodedFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec is not typed
    """A file opened for reading."""

    def __init__(self, fs: Any, path: str, source: Source, cache_type: str, **options: Any) -> None:
        assert source.index is not None, path
        self._source = source
        plain = cache_type in {"none", BlockAhead.name}
        options["size"] = source.index.size
        super().__init__(fs, path, "rb", cache_type="none" if plain else cache_type, **options)
        self.details = source.info
        if cache_type == BlockAhead.name:
            self.cache = BlockAhead(self.blocksize, self._fetch_range, self.size)
            self.cache.index = source.index

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        out = np.empty(max(0, end - start), np.uint8)
        self._source.read_into(start, end, out)
        return out.tobytes()

    def readinto(self, buffer: Any) -> int:
        """Decode to where the reader wants it."""
        out = np.frombuffer(buffer, np.uint8)
        if out.size < DIRECT_BYTES or self.closed:
            return int(super().readinto(buffer))
        start: int = self.tell()
        stop: int = min(start + out.size, self.size)
        if start < stop:
            self._source.read_into(start, stop, out[: stop - start])
            self.seek(stop)
        return max(0, stop - start)

    readinto1 = readinto

    def close(self) -> None:
        """Close what is read from, too."""
        if not self.closed:
            self._source.close()
        super().close()


class BlockAhead(BaseCache):  # type: ignore[misc] # fsspec is not typed
    """Keeps the blocks last decoded; decodes ahead for a reader that goes straight on."""

    name = "gpucodec"
    index: Index

    def __init__(self, blocksize: int, fetcher: Any, size: int, **_: Any) -> None:
        super().__init__(blocksize, fetcher, size)
        self._held, self._held_at = b"", 0
        self._next, self._ahead = -1, 0

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = start or 0
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        straight, self._next = start == self._next, stop
        held_stop = self._held_at + len(self._held)
        if not (self._held_at <= start and stop <= held_stop):
            if stop - start >= DIRECT_BYTES:
                return bytes(self.fetcher(start, stop))
            self._ahead = min(2 * self._ahead + (stop - start), AHEAD_BYTES) if straight else 0
            begin, end = aligned(self.index, start, min(stop + self._ahead, self.size))
            kept = (
                self._held[begin - self._held_at :] if self._held_at <= begin < held_stop else b""
            )
            self._held = kept + self.fetcher(begin + len(kept), end)
            self._held_at = begin
        return self._held[start - self._held_at : stop - self._held_at]


class EncodingFile(io.RawIOBase):
    """A file opened for writing; it appears when it is closed, or when a transaction ends.

    Left by an exception in a ``with`` block it does not appear at all.
    """

    def __init__(
        self,
        fs: Any,
        path: str,
        mode: str,
        sink: Sink,
        *,
        autocommit: bool = True,
        start: int = 0,
        threads: int | None = None,
    ) -> None:
        self.fs, self.path, self.mode, self.autocommit = fs, path, mode, autocommit
        self._sink: Sink | None = sink
        self._encoder = Encoder(threads)
        self._start = start
        self._thread: ThreadPoolExecutor | None = None
        self._written: deque[Future[None]] = deque()

    def readable(self) -> bool:
        """Not."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Not: object stores cannot."""
        return False

    def tell(self) -> int:
        """Bytes so far, with those of the file that is appended to."""
        return self._start + self._encoder.n_bytes

    def write(self, data: Any) -> int:
        """Encode what fills a window; keep the rest."""
        if self.closed or self._sink is None:
            raise ValueError("write to a closed file")
        before = self._encoder.n_bytes
        for piece in self._encoder.feed(data):  # encode the next while this one is written
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "gpucodec-write")
            self._written.append(self._thread.submit(self._sink.write, piece))
            while len(self._written) > WRITES_WAITING:
                self._written.popleft().result()
        return self._encoder.n_bytes - before

    def _wait(self) -> None:
        """Until all that was encoded is written. Raises what went wrong."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        while self._written:
            self._written.popleft().result()

    def close(self) -> None:
        """Encode the rest, and commit unless a transaction does so later."""
        if self.closed:
            return
        sink = self._sink
        try:
            if sink is not None:
                try:
                    last = list(self._encoder.finish())
                    self._wait()
                    for piece in last:
                        sink.write(piece)
                except BaseException:
                    self.discard()
                    raise
                if self.autocommit:
                    self.commit()
        finally:
            super().close()

    def commit(self) -> None:
        """Let the file appear."""
        if not self.closed and not self.autocommit:
            self.close()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.commit()
            self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Let it not appear."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with contextlib.suppress(Exception):  # of writes that nobody wants any more
                self._wait()
            sink.discard()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Close, or discard after an exception."""
        if kind is not None:
            self.discard()
        self.close()
