# SPDX-License-Identifier: Apache-2.0
"""Where objects of a checkpoint lie: a folder, any fsspec file system, any obstore store.

What all of them promise: an object is there completely or not at all once `put` returned, `flush`
makes everything so far durable, and `commit` replaces one object in one step.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Storage(Protocol):
    """Objects by key; keys are relative paths with "/"."""

    url: str
    """For messages, and to open the same place again."""
    workers: int
    """How many requests at once are worth it."""

    def put(self, key: str, data: Any) -> None:
        """Write an object. It may be torn by a crash, so nothing may refer to it yet."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop` of an object. Raises FileNotFoundError."""

    def size(self, key: str) -> int:
        """Bytes of an object. Raises FileNotFoundError."""

    def list(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, which ends with "/"."""

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""

    def flush(self) -> None:
        """Make all objects written so far survive a loss of power."""

    def read(self, key: str) -> tuple[bytes, Any]:
        """An object that `commit` wrote, and its version. Raises FileNotFoundError."""

    def commit(self, key: str, data: bytes, version: Any = None) -> None:
        """Create an object, or replace that of the `version` from `read`, in one durable step.

        Raises
        ------
        FileExistsError
            Somebody else was faster.

        """


def connect(url: Any) -> Storage:
    """The storage behind a path, a URL or an obstore store.

    Parameters
    ----------
    url
        A path, ``file://...``, any URL of fsspec (``s3://``, ``gs://``, ``memory://``, chained
        ones), an obstore store, or a `Storage`.

    Raises
    ------
    UnsupportedError
        fsspec, or what it needs for this URL, is not installed.
    TypeError
        None of these.

    """
    if isinstance(url, (str, os.PathLike)):
        text = os.fspath(url)
        assert isinstance(text, str)
        scheme, mark, rest = text.partition("://")
        if not mark:
            from .local import Local

            return Local(text)
        if scheme == "file":
            from .local import Local

            return Local(rest)
        from .fsspecfiles import Fsspec

        return Fsspec(text)
    if type(url).__module__.split(".")[0] == "obstore":
        from .obstores import Obstore

        return Obstore(url)
    if all(hasattr(url, name) for name in ("put", "get", "commit", "flush")):
        return url  # type: ignore[no-any-return]
    message = f"a checkpoint lies at a path, a URL or in an obstore store, not {type(url).__name__}"
    raise TypeError(message)


def missing(package: str, url: str) -> UnsupportedError:
    """The error for a package that is not installed."""
    return UnsupportedError(f"{url} needs the package {package}, which is not installed")
