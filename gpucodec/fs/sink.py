# SPDX-License-Identifier: Apache-2.0
"""Where encoded bytes wait until a file is complete, and how it then appears all at once."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..durable import sync
from .locks import lock_to_append

if TYPE_CHECKING:
    from ..buffers import Bytes

NO_LINKS: Final = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # some disks
SPOOL_BYTES: Final = 64 << 20  # of a file for a remote place are kept in memory, the rest on disk


class Sink(Protocol):
    """Takes the bytes of a file; nobody sees them before `commit`."""

    def write(self, piece: Bytes) -> None:
        """Take some more bytes."""

    def commit(self) -> None:
        """Let the file appear in its place, whole."""

    def discard(self) -> None:
        """Leave no trace."""


class LocalSink:
    """A hidden sibling, flushed to the disk and renamed over the file when it is complete.

    With `exclusive`, a file that appeared meanwhile stays, and `commit` raises FileExistsError.
    """

    def __init__(self, path: str, *, exclusive: bool) -> None:
        self.path = Path(os.path.realpath(path))  # through links, as open() writes
        self.exclusive = exclusive
        if self.path.exists() and not self.path.is_file():
            raise IsADirectoryError(path)  # or a device, which nobody wants replaced
        self.partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.partial")
        self.file = self.partial.open("xb")

    def write(self, piece: Bytes) -> None:
        """Write to the sibling."""
        self.file.write(piece)

    def commit(self) -> None:
        """Rename it."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            if self.exclusive and self._linked():
                self.partial.unlink()
            else:
                if self.path.exists():
                    shutil.copymode(self.path, self.partial)
                self.partial.replace(self.path)
        except BaseException:
            self.discard()
            raise
        sync(self.path.parent)

    def _linked(self) -> bool:
        """Give the sibling its name as well, which, unlike a rename, never hits another file."""
        try:
            os.link(self.partial, self.path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if self.path.exists():  # the best that can be done here
                raise FileExistsError(self.path) from error
            return False
        return True

    def discard(self) -> None:
        """Remove it."""
        self.file.close()
        self.partial.unlink(missing_ok=True)


class AppendSink:
    """Bytes for the end of a local file, written at once, so that writers cannot interleave."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.spool = Spool()

    def write(self, piece: Bytes) -> None:
        """Keep them."""
        self.spool.write(piece)

    def commit(self) -> None:
        """Append them, or nothing."""
        data = self.spool.read()
        self.spool.close()
        with open(self.path, "ab", buffering=0) as file:  # noqa: PTH123 - a path of fsspec's
            lock_to_append(file.fileno())
            start = file.seek(0, os.SEEK_END)
            try:
                written = file.write(data)
                while written < len(data):  # a full disk, or more than 2 GiB
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise

    def discard(self) -> None:
        """Forget them."""
        self.spool.close()


class RemoteSink:
    """Bytes kept here and uploaded when they are complete, by what the file system does best.

    Object stores show an uploaded object at once or not at all; s3fs sends large ones in parallel
    parts, tries failed ones again, and leaves an object that exists alone if asked to.
    """

    def __init__(self, fs: Any, path: str, mode: str) -> None:
        self.fs, self.path, self.mode = fs, path, mode
        self.spool = Spool()

    def write(self, piece: Bytes) -> None:
        """Keep them."""
        self.spool.write(piece)

    def commit(self) -> None:
        """Upload them."""
        mode = creation(self.mode)
        try:
            if "a" in self.mode:
                with self.fs.open(self.path, "ab") as file:
                    file.write(self.spool.read())
            elif self.spool.name is None:
                self.fs.pipe_file(self.path, self.spool.read(), mode=mode)
            else:
                self.fs.put_file(self.spool.name, self.path, mode=mode)
        except OSError as error:
            if self._refused(error) and self.fs.exists(self.path):
                raise FileExistsError(self.path) from error
            raise
        finally:
            self.spool.close()

    async def upload(self, below: Any) -> None:
        """`commit` for callers on the event loop of the filesystem `below`."""
        mode = creation(self.mode)
        try:
            if self.spool.name is None:
                await below._pipe_file(self.path, self.spool.read(), mode=mode)
            else:
                await below._put_file(self.spool.name, self.path, mode=mode)
        except OSError as error:
            if self._refused(error) and await below._exists(self.path):
                raise FileExistsError(self.path) from error
            raise
        finally:
            self.spool.close()

    def _refused(self, error: OSError) -> bool:
        """Whether this may be an object store's way to say that the file exists."""
        return "x" in self.mode and error.errno == errno.EINVAL

    def discard(self) -> None:
        """Forget them."""
        self.spool.close()


class Spool:
    """Bytes in memory, or in a temporary file once they are many."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: Any = None

    @property
    def name(self) -> str | None:
        """The temporary file, complete; None if there is none."""
        if self._file is None:
            return None
        self._file.flush()
        return str(self._file.name)

    def write(self, piece: Bytes) -> None:
        """Add some."""
        if self._file is None and len(self._memory) + piece.nbytes > SPOOL_BYTES:
            self._file = tempfile.NamedTemporaryFile(prefix="gpucodec-")  # noqa: SIM115
            self._file.write(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += memoryview(piece)
        else:
            self._file.write(piece)

    def read(self) -> bytes:
        """All of them."""
        return bytes(self._memory) if self.name is None else Path(self._file.name).read_bytes()

    def close(self) -> None:
        """Drop them."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()


def creation(mode: str) -> str:
    """What fsspec calls an open mode where a whole file is handed over."""
    return "create" if "x" in mode else "overwrite"
