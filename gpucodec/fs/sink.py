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

from fsspec.asyn import sync as wait

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
    """Bytes kept here and uploaded when they are complete.

    Object stores show an uploaded object at once or not at all.

    Parameters
    ----------
    fs, below
        A filesystem, and the same with asynchronous methods.
    loop
        The event loop that `below` works on.

    """

    def __init__(self, fs: Any, below: Any, path: str, mode: str, loop: Any) -> None:
        self.fs, self.below, self.path, self.mode, self.loop = fs, below, path, mode, loop
        self.spool = Spool()

    def write(self, piece: Bytes) -> None:
        """Keep them."""
        self.spool.write(piece)

    def commit(self) -> None:
        """Upload them."""
        if "a" not in self.mode:
            wait(self.loop, self.upload)
            return
        try:
            with self.fs.open(self.path, "ab") as file:
                file.write(self.spool.read())
        finally:
            self.spool.close()

    async def upload(self) -> None:
        """`commit` for callers on the event loop."""
        spooled = self.spool.name
        try:
            source = self.spool.read() if spooled is None else Path(spooled)
            await put(self.below, self.path, source, creation(self.mode))
        finally:
            self.spool.close()

    def discard(self) -> None:
        """Forget them."""
        self.spool.close()


async def put(below: Any, path: str, source: bytes | Path, mode: str, **options: Any) -> None:
    """Store an object by what the filesystem `below` does best. `mode` is that of `pipe_file`.

    Raises
    ------
    FileExistsError
        It is there, and `mode` is "create".

    """
    if type(below).__module__ == "obstore.fsspec" and mode == "create":
        await _create_by_obstore(below, path, source)
    elif isinstance(source, Path):
        await below._put_file(str(source), path, mode=mode, **options)
    else:
        await below._pipe_file(path, source, mode=mode, **options)


async def _create_by_obstore(below: Any, path: str, source: bytes | Path) -> None:
    """obstore can create exclusively; its fsspec methods do not (0.12)."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    bucket, key = below._split_path(path)
    try:
        await below._construct_store(bucket).put_async(key, source, mode="create")
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(path) from error


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
