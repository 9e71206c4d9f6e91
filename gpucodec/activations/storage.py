# SPDX-License-Identifier: Apache-2.0
"""Where frames lie between the two passes: anonymous files, or objects of a file system.

A frame is kept for as long as its `Slot` is referred to.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import uuid
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from gpucodec.buffers import Bytes

SEGMENT_BYTES = 64 << 20  # after which the next file is begun: what one live frame can hold up


class Slot(NamedTuple):
    """Where one frame lies."""

    place: Any
    offset: int
    n_bytes: int


class Storage(Protocol):
    """Keeps frames. Safe from any thread."""

    where: str
    """For messages."""
    keeps: bool
    """Whether frames stay that nobody needs any more."""

    def write(self, frame: Bytes) -> Slot:
        """Keep a frame; OSError if that fails."""

    def read(self, slot: Slot) -> Bytes:
        """The frame, until this thread reads the next; OSError if that fails."""

    def trim(self) -> None:
        """Give back what is held for later."""


class _Files:
    """Descriptors of files without names, which the system removes however the process ends.

    Files are handed out again: pages that the system has in memory already are written at ten
    times the speed of new ones.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.idle: deque[int] = deque()  # its methods are atomic: finalizers may not take locks

    def take(self) -> int:
        """An idle file, or a new one."""
        try:
            return self.idle.pop()
        except IndexError:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                return os.dup(file.fileno())

    def give_back(self, fd: int) -> None:
        """Keep a file for the next segment."""
        self.idle.append(fd)

    def close_idle(self) -> None:
        """Give idle files back to the system."""
        with contextlib.suppress(IndexError):
            while True:
                os.close(self.idle.pop())

    __del__ = close_idle


class _Segment:
    """A file while frames lie in it."""

    def __init__(self, files: _Files) -> None:
        self.fd = files.take()
        self.end = 0
        # Not __del__: during that, weak references still work, and another thread would begin to
        # write to a file that is given away.
        weakref.finalize(self, files.give_back, self.fd).atexit = False


class Segments:
    """Frames one behind the other in anonymous files; a file is free when all of its slots are."""

    keeps = False

    def __init__(self, folder: str) -> None:
        self.where = folder
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._files = _Files(folder)
        _Segment(self._files)  # so that a folder that cannot be written is an error at once
        self._scratch = threading.local()  # new memory costs more than the reading
        self._lock = threading.Lock()
        self._last: weakref.ref[_Segment] | None = None

    def write(self, frame: Bytes) -> Slot:
        """Append a frame."""
        with self._lock:
            segment = None if self._last is None else self._last()
            if segment is None or segment.end >= SEGMENT_BYTES:
                segment = _Segment(self._files)
                self._last = weakref.ref(segment)
            slot = Slot(segment, segment.end, frame.size)
            segment.end += frame.size
        rest, at = memoryview(frame), slot.offset
        while rest:
            n_written = os.pwrite(segment.fd, rest, at)
            rest, at = rest[n_written:], at + n_written
        return slot

    def read(self, slot: Slot) -> Bytes:
        """Read a frame back, into memory that this thread's next read takes again."""
        room: Bytes | None = getattr(self._scratch, "room", None)
        if room is None or room.size < slot.n_bytes:
            room = self._scratch.room = np.empty(slot.n_bytes, np.uint8)
        frame = room[: slot.n_bytes]
        rest, at = memoryview(frame), slot.offset
        while rest:
            n_read = os.preadv(slot.place.fd, [rest], at)
            if not n_read:
                message = f"the file ends at {at}, the frame at {at + len(rest)}"
                raise OSError(message)
            rest, at = rest[n_read:], at + n_read
        return frame

    def trim(self) -> None:
        """Close the files that no frame lies in."""
        self._files.close_idle()


class _Object:
    """A name in a file system. Finalizers may not do input and output, so a thread removes it."""

    def __init__(self, path: str, removals: queue.SimpleQueue[Any] | None) -> None:
        self.path = path
        self._removals = removals

    def __del__(self) -> None:
        if self._removals is not None:
            self._removals.put(self.path)


class Objects:
    """One object a frame, in any fsspec file system: for URLs, and for files that are to stay."""

    def __init__(self, url: str, *, keep: bool) -> None:
        import fsspec  # torch brings it

        self.where = url
        self._fs, root = fsspec.core.url_to_fs(url)
        # Named for one process and one stream, so that nobody else's objects can be in it.
        self.keeps = keep
        self.folder = f"{root.rstrip('/')}/activations-{os.getpid()}-{uuid.uuid4().hex}"
        self._fs.makedirs(self.folder, exist_ok=True)
        self._lock = threading.Lock()
        self._n = 0
        self._removals: queue.SimpleQueue[Any] | None = None
        if not keep:
            self._removals = queue.SimpleQueue()
            arguments = (self._fs, self.folder, self._removals)
            remover = threading.Thread(target=_remove, args=arguments, daemon=True)
            remover.start()
            self.close = weakref.finalize(self, _finish, self._removals, remover)

    def write(self, frame: Bytes) -> Slot:
        """Put a frame under the next number."""
        with self._lock:
            path = f"{self.folder}/{self._n:08d}.gpucodec"
            self._n += 1
        slot = Slot(_Object(path, self._removals), 0, frame.size)
        self._fs.pipe_file(path, frame.tobytes())
        return slot

    def read(self, slot: Slot) -> Bytes:
        """Get a frame back."""
        return np.frombuffer(self._fs.cat_file(slot.place.path), np.uint8)

    def trim(self) -> None:
        """Nothing is held."""


def _remove(file_system: Any, folder: str, removals: queue.SimpleQueue[Any]) -> None:
    """Remove objects one by one as they are let go; at the end those left, and the folder."""
    while (path := removals.get()) is not None:
        if file_system.exists(path):
            file_system.rm_file(path)
    if file_system.exists(folder):
        for path in file_system.find(folder):
            file_system.rm_file(path)
        file_system.rmdir(folder)


def _finish(removals: queue.SimpleQueue[Any], remover: threading.Thread) -> None:
    """Have what is left removed; wait for it where the process is about to end."""
    removals.put(None)
    if threading.current_thread() is threading.main_thread():
        remover.join()


def open_storage(url_or_path: str | os.PathLike[str], *, keep: bool) -> Storage:
    """Anonymous files for local folders, where the system has them; else objects."""
    url = os.fspath(url_or_path)
    local = url.removeprefix("file://")
    if keep or "://" in local or not hasattr(os, "preadv"):
        return Objects(url, keep=keep)
    return Segments(local)
