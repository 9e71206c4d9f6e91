# SPDX-License-Identifier: Apache-2.0
"""Any file system of fsspec: object stores, memory, archives, chains of them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from . import missing

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fsspec:
    """`Storage` below a URL of fsspec.

    `commit` is a conditional write on S3 (``If-None-Match``, ``If-Match``) and an exclusive one
    where the file system has it; elsewhere it looks first.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise missing("fsspec", url) from error
        self.url = url
        self.workers = 16  # requests wait, mostly
        try:
            self.files, root = url_to_fs(url)
        except ImportError as error:  # names the package to install
            raise missing(str(error), url) from error
        self.root = root.rstrip("/")
        protocol = self.files.protocol
        self._is_s3 = "s3" in ((protocol,) if isinstance(protocol, str) else protocol)

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)  # type: ignore[misc] # connections are made anew

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def put(self, key: str, data: Any) -> None:
        """Write an object in one request (or in parts, completed at once)."""
        path = self._path(key)
        self._make_parent(path)
        self.files.pipe_file(path, bytes(memoryview(data).cast("B")))

    def _make_parent(self, path: str) -> None:
        """Folders, where the file system has such; object stores do nothing."""
        if not self._is_s3:
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read an object, or a part of it."""
        if stop is not None and stop <= start:
            return b""
        data: bytes = self.files.cat_file(self._path(key), start=start or None, end=stop)
        return data

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return int(self.files.info(self._path(key), refresh=True)["size"])

    def list(self, prefix: str) -> Iterator[str]:
        """All objects below a prefix."""
        self.files.invalidate_cache()
        try:
            found = self.files.find(self._path(prefix.rstrip("/")) if prefix else self.root)
        except FileNotFoundError:
            return
        for path in found:
            yield path[len(self.root) :].lstrip("/")

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        try:
            self.files.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def flush(self) -> None:
        """Nothing: an object is durable when its request is answered."""

    def read(self, key: str) -> tuple[bytes, Any]:
        """An object and its version: the entity tag on S3, else the hash of its contents."""
        path = self._path(key)
        if self._is_s3:
            tag = self.files.info(path, refresh=True)["ETag"]
            return self.get(key), tag
        data = self.get(key)
        return data, sha256(data).digest()

    def commit(self, key: str, data: bytes, version: Any = None) -> None:
        """One write, conditional where the store can do that."""
        path = self._path(key)
        self._make_parent(path)
        try:
            if version is None:
                self._create(path, data)
            elif self._is_s3:
                self.files.pipe_file(path, data, IfMatch=version)
            elif self.read(key)[1] == version:
                self.files.pipe_file(path, data)
            else:
                raise FileExistsError
        except OSError as error:
            if not _is_conflict(error):
                raise
            message = f"{path} was written by somebody else meanwhile"
            raise FileExistsError(message) from error

    def _create(self, path: str, data: bytes) -> None:
        if self._is_s3 or self._writes_exclusively():
            self.files.pipe_file(path, data, mode="create")
        elif self.files.exists(path):
            raise FileExistsError
        else:
            self.files.pipe_file(path, data)

    def _writes_exclusively(self) -> bool:
        return bool({"memory", "gcs", "gs"} & {*_names(self.files.protocol)})


def _names(protocol: Any) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _is_conflict(error: OSError) -> bool:
    """Whether an error says that the condition of a write did not hold (HTTP 412 or 409)."""
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__ or error.__context__
    response = getattr(cause, "response", None) or getattr(error, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    return code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
