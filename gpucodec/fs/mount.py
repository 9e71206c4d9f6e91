# SPDX-License-Identifier: Apache-2.0
"""A folder of plain files, through FUSE, over a filesystem of ours."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

import mfusepy

from ..errors import GpucodecError
from .encoder import WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    Operation = TypeVar("Operation", bound=Callable[..., Any])

_ERRORS: Final = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
    NotImplementedError: errno.EOPNOTSUPP,
}
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def _operation(method: Operation) -> Operation:
    """Exceptions as the error numbers that programs know; fsspec's often have none."""

    @functools.wraps(method)
    def run(*args: Any) -> Any:
        try:
            return method(*args)
        except (OSError, NotImplementedError, GpucodecError) as error:
            number = getattr(error, "errno", None)
            if number is None:
                kinds = (n for kind, n in _ERRORS.items() if isinstance(error, kind))
                number = next(kinds, errno.EIO)
            raise mfusepy.FuseOSError(number) from error

    return run  # type: ignore[return-value]


class Draft:
    """The plain contents of a file that is being written, until it is closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = tempfile.TemporaryFile(prefix="gpucodec-")  # noqa: SIM115 - closed by release
        self.changed = False
        self.users = 0
        self.lock = threading.Lock()

    def write(self, data: bytes, offset: int) -> int:
        """Change some bytes."""
        self.changed = True
        return os.pwrite(self.file.fileno(), data, offset)

    def truncate(self, length: int) -> None:
        """Change the size."""
        self.changed = True
        os.ftruncate(self.file.fileno(), length)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self.file.fileno()).st_size


class Handle:
    """A file that a program has open: to read it as stored, or through the draft."""

    def __init__(self, reader: Any = None, draft: Draft | None = None) -> None:
        self.reader, self.draft = reader, draft
        self.lock = threading.Lock()

    def read(self, size: int, offset: int) -> bytes:
        """Bytes from anywhere."""
        if self.draft is not None:
            return os.pread(self.draft.file.fileno(), size, offset)
        with self.lock:
            self.reader.seek(offset)
            return bytes(self.reader.read(size))


class Mount(mfusepy.Operations):  # type: ignore[misc] # not typed
    """What the kernel asks for, answered by a filesystem `fs` below its folder `root`.

    Files are read block by block. A file that is written or changed is kept as a plain temporary
    file, and encoded whenever a program closes it or asks for `fsync`.
    """

    use_ns = False

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root.rstrip("/")
        self.handles: dict[int, Handle] = {}
        self.drafts: dict[str, Draft] = {}
        self.numbers = itertools.count(1)
        self._guard = threading.RLock()

    def _full(self, path: str) -> str:
        return self.root + path.rstrip("/") or "/"

    # --- names ----------------------------------------------------------------------------------

    @_operation
    def getattr(self, path: str, _handle: int | None = None) -> dict[str, Any]:
        """Size, times and kind of a file."""
        with self._guard:
            draft = self.drafts.get(path)
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if draft is not None:
            mode = {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": draft.size}
            return {**owner, **mode, "st_mtime": os.fstat(draft.file.fileno()).st_mtime}
        info = self.fs.info(self._full(path))
        times = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), _time(info))
        if info["type"] == "directory":
            return {**owner, **times, "st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        mode = stat.S_IFREG | info.get("mode", 0o644) & 0o777
        return {**owner, **times, "st_mode": mode, "st_nlink": 1, "st_size": info["size"]}

    @_operation
    def readdir(self, path: str, _handle: int) -> list[str]:
        """Names in a folder."""
        full = self._full(path)
        found = {name.rstrip("/").rpartition("/")[2] for name in self.fs.ls(full, detail=False)}
        folder = path.rstrip("/") + "/"
        with self._guard:
            new = {name.removeprefix(folder) for name in self.drafts if name.startswith(folder)}
        return [".", "..", *sorted(found | {name for name in new if "/" not in name})]

    @_operation
    def mkdir(self, path: str, _mode: int) -> int:
        """Make a folder."""
        self.fs.mkdir(self._full(path), create_parents=False)
        return 0

    @_operation
    def rmdir(self, path: str) -> int:
        """Remove an empty folder."""
        if self.fs.ls(self._full(path), detail=False):
            raise OSError(errno.ENOTEMPTY, path)
        self.fs.rmdir(self._full(path))
        return 0

    @_operation
    def unlink(self, path: str) -> int:
        """Remove a file."""
        with self._guard:
            draft = self.drafts.pop(path, None)
        if draft is not None:
            draft.changed, draft.path = False, ""
            if not self.fs.exists(self._full(path)):
                return 0
        self.fs.rm_file(self._full(path))
        return 0

    @_operation
    def rename(self, old: str, new: str) -> int:
        """Move a file or folder over what is there."""
        with self._guard:
            draft = self.drafts.get(old)
            if draft is not None:
                self._commit(draft)
                del self.drafts[old]
                draft.path = new
                self.drafts[new] = draft
        source, target = self._full(old), self._full(new)
        self.fs.mv(source, target, recursive=self.fs.isdir(source))
        return 0

    def chmod(self, _path: str, _mode: int) -> int:
        """Modes are not kept: the filesystem below may have none."""
        return 0

    def chown(self, _path: str, _user: int, _group: int) -> int:
        """Nor are owners."""
        return 0

    def utimens(self, _path: str, _times: Any = None) -> int:
        """Nor are times, but for the last change."""
        return 0

    def statfs(self, _path: str) -> dict[str, int]:
        """As much room as anybody asks for."""
        return {"f_bsize": 1 << 17, "f_frsize": 1 << 12, "f_blocks": 1 << 40, "f_bavail": 1 << 39}

    # --- contents -------------------------------------------------------------------------------

    @_operation
    def create(self, path: str, _mode: int, _flags: Any = None) -> int:
        """Open a new file."""
        with self._guard:
            draft = self._draft(path, keep=False)
            draft.changed = True
            return self._open(Handle(draft=draft))

    @_operation
    def open(self, path: str, flags: int) -> int:
        """Open a file."""
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        with self._guard:
            if writing or path in self.drafts:
                draft = self._draft(path, keep=not flags & os.O_TRUNC)
                if writing and flags & os.O_TRUNC:
                    draft.truncate(0)
                return self._open(Handle(draft=draft))
        return self._open(Handle(self.fs.open(self._full(path), "rb")))

    def _open(self, handle: Handle) -> int:
        with self._guard:
            number = next(self.numbers)
            self.handles[number] = handle
            if handle.draft is not None:
                handle.draft.users += 1
            return number

    def _draft(self, path: str, *, keep: bool) -> Draft:
        """The draft of a file, that of another program if it has one; `keep` what is stored."""
        found = self.drafts.get(path)
        if found is None:
            found = Draft(path)
            if keep:
                with self.fs.open(self._full(path), "rb") as source:
                    while piece := source.read(WINDOW_BYTES):
                        found.file.write(piece)
                found.file.flush()
            self.drafts[path] = found
        return found

    @_operation
    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        """Bytes of an open file."""
        return self.handles[handle].read(size, offset)

    @_operation
    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        """Change an open file."""
        draft = self.handles[handle].draft
        assert draft is not None, handle
        return draft.write(data, offset)

    @_operation
    def truncate(self, path: str, length: int, handle: int | None = None) -> int:
        """Change the size of a file."""
        if handle is None:
            with self._guard:
                handle = self._open(Handle(draft=self._draft(path, keep=length > 0)))
            try:
                self.truncate(path, length, handle)
                self.flush(path, handle)
            finally:
                self.release(path, handle)
            return 0
        draft = self.handles[handle].draft
        assert draft is not None, handle
        draft.truncate(length)
        return 0

    @_operation
    def flush(self, _path: str, handle: int) -> int:
        """A program closes the file: store it, so that it learns of errors."""
        draft = self.handles[handle].draft
        if draft is not None:
            self._commit(draft)
        return 0

    @_operation
    def fsync(self, path: str, _only_data: int, handle: int) -> int:
        """A program wants the file to be safe."""
        return int(self.flush(path, handle))

    @_operation
    def release(self, _path: str, handle: int) -> int:
        """Nobody has the file open by this handle any more."""
        with self._guard:
            closed = self.handles.pop(handle)
            draft = closed.draft
            if draft is not None:
                draft.users -= 1
                if not draft.users:
                    if self.drafts.get(draft.path) is draft:
                        del self.drafts[draft.path]
                    draft.file.close()
        if closed.reader is not None:
            closed.reader.close()
        return 0

    def _commit(self, draft: Draft) -> None:
        with draft.lock:
            if not draft.changed:
                return
            draft.changed = False
            try:
                with self.fs.open(self._full(draft.path), "wb") as file:
                    for at in range(0, draft.size, WINDOW_BYTES):
                        file.write(os.pread(draft.file.fileno(), WINDOW_BYTES, at))
            except BaseException:
                draft.changed = True
                raise


def _time(info: dict[str, Any]) -> float:
    """When a file was changed, in seconds; 0 if its filesystem does not tell."""
    for key in _TIMES:
        value = info.get(key)
        if value is not None:
            timestamp = getattr(value, "timestamp", None)
            return float(timestamp() if timestamp else value)
    return 0.0


def mount(fs: Any, root: str, folder: str, *, read_only: bool = False) -> None:
    """Show the files below `root` in `folder`, until it is unmounted or the process is told to end.

    Raises
    ------
    RuntimeError
        FUSE refuses; it has said why on stderr.

    """
    options: dict[str, Any] = {"ro": True} if read_only else {}
    mfusepy.FUSE(Mount(fs, root), folder, foreground=True, fsname="gpucodec", **options)
