# SPDX-License-Identifier: Apache-2.0
"""A folder of a file system, written so that what is committed survives a loss of power."""

from __future__ import annotations

import os
import secrets
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from ...durable import sync
from ..parallel import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_BYTES: Final = 1 << 20  # files for which it pays to wait one by one
SYNC_THREADS: Final = 32
TEMPORARY: Final = ".tmp"  # how names end that `commit` leaves behind when it is interrupted


class Disk:
    """The system calls that change a disk, one method each, so that tests can stop at any."""

    def mkdir(self, path: str) -> None:
        """Make a folder. Raises FileExistsError."""
        os.mkdir(path)

    def write(self, path: str, data: Any) -> None:
        """Write a file anew."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        try:
            view = memoryview(data).cast("B")
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def sync(self, path: str) -> None:
        """Wait until a file's contents, or a folder's names, are on the disk."""
        sync(path)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name. Raises FileExistsError."""
        os.link(source, target)

    def replace(self, source: str, target: str) -> None:
        """Rename, over whatever has that name."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file. Raises FileNotFoundError."""
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        """Remove a folder, if it is empty. Raises OSError if it is not."""
        os.rmdir(path)


_BINARY: Final = getattr(os, "O_BINARY", 0)


class Local:
    """`Storage` in a folder, which is made when something is written."""

    def __init__(self, root: str, disk: Disk | None = None) -> None:
        self.root = os.path.abspath(root)
        self.url = self.root
        self.workers = 4 + (os.cpu_count() or 1)  # waiting for the disk takes no CPU
        self.disk = disk or Disk()
        self._lock = Lock()
        self._unsynced: set[str] = set()  # small files, and folders with new names in them

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *key.split("/"))

    def put(self, key: str, data: Any) -> None:
        """Write a file; if it is large, wait for the disk, while other threads encode."""
        path = self._path(key)
        folder = os.path.dirname(path)
        self._make(folder)
        self.disk.write(path, data)
        is_large = memoryview(data).nbytes >= LARGE_BYTES
        if is_large:
            self.disk.sync(path)
        with self._lock:
            self._unsynced |= {folder} if is_large else {folder, path}

    def _make(self, folder: str) -> None:
        """Make a folder and those above it."""
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder)
        self._make(above)
        try:
            self.disk.mkdir(folder)
        except FileExistsError:  # another thread's
            if not os.path.isdir(folder):
                raise
        with self._lock:
            self._unsynced.add(above)

    def flush(self) -> None:
        """Wait until new files, and the names of files and folders, are on the disk.

        File systems write what many threads wait for at once, which takes hardly longer than one
        file does.
        """
        with self._lock:
            paths, self._unsynced = sorted(self._unsynced), set()
        there = [path for path in paths if os.path.exists(path)]  # rubbish is removed at once
        with Workers(SYNC_THREADS) as workers:
            workers.map(self.disk.sync, there)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a file, or a part of it."""
        with open(self._path(key), "rb") as file:
            if start:
                file.seek(start)
            return file.read() if stop is None else file.read(stop - start)

    def size(self, key: str) -> int:
        """Bytes of a file."""
        return os.stat(self._path(key)).st_size

    def list(self, prefix: str) -> Iterator[str]:
        """All files below a folder."""
        for folder, _, names in os.walk(self._path(prefix.rstrip("/")) if prefix else self.root):
            above = os.path.relpath(folder, self.root).replace(os.sep, "/")
            for name in names:
                yield name if above == "." else f"{above}/{name}"

    def names(self, prefix: str) -> Iterator[str]:
        """The files directly in a folder."""
        try:
            found = os.listdir(self._path(prefix.rstrip("/")) if prefix else self.root)
        except FileNotFoundError:
            return
        yield from (f"{prefix}{name}" for name in sorted(found))

    def delete(self, key: str) -> None:
        """Remove a file, and folders that become empty."""
        path = self._path(key)
        try:
            self.disk.unlink(path)
        except FileNotFoundError:
            return
        folder = os.path.dirname(path)
        with self._lock:
            self._unsynced.add(folder)
        while folder != self.root:
            try:
                self.disk.rmdir(folder)
            except OSError:  # not empty
                return
            folder = os.path.dirname(folder)

    def remove_root(self) -> None:
        """Remove the folder itself, if it is there and empty."""
        try:
            self.disk.rmdir(self.root)
        except OSError:
            return

    def read(self, key: str) -> tuple[bytes, Any]:
        """A file, and the hash of its contents as version."""
        data = self.get(key)
        return data, sha256(data).digest()

    def commit(self, key: str, data: bytes, version: Any = None) -> None:
        """Write a file beside, then give it the name: in one step, and durable on return."""
        path = self._path(key)
        folder = os.path.dirname(path)
        self._make(folder)
        self.flush()
        beside = f"{path}.{secrets.token_hex(8)}{TEMPORARY}"
        try:
            self.disk.write(beside, data)
            self.disk.sync(beside)
            if version is None:
                self._create(beside, path)
            else:
                self._replace(beside, path, self.read(key)[1] == version)
        except Exception:
            if os.path.exists(beside):
                self.disk.unlink(beside)
            raise
        self.disk.sync(folder)

    def _replace(self, beside: str, path: str, is_ours: bool) -> None:
        if not is_ours:
            raise FileExistsError(f"{path} was replaced by somebody else meanwhile")
        self.disk.replace(beside, path)

    def _create(self, beside: str, path: str) -> None:
        try:
            self.disk.link(beside, path)
        except FileExistsError as error:
            raise FileExistsError(f"{path} was written by somebody else meanwhile") from error
        except OSError:  # a file system without hard links
            if os.path.exists(path):
                message = f"{path} was written by somebody else meanwhile"
                raise FileExistsError(message) from None
            self.disk.replace(beside, path)
        else:
            self.disk.unlink(beside)
