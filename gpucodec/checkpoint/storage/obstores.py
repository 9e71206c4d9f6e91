# SPDX-License-Identifier: Apache-2.0
"""A store of obstore: S3, Google Cloud, Azure, a folder or memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Obstore:
    """`Storage` in an obstore store, below the prefix that the store was made with."""

    def __init__(self, store: Any) -> None:
        import obstore

        self.store = store
        self.url = str(store)
        self.workers = 16  # requests wait, mostly
        self._api: Any = obstore
        # Only these can replace an object of a version; a folder cannot.
        self._has_versions = type(store).__name__ not in {"LocalStore", "HTTPStore"}

    def put(self, key: str, data: Any) -> None:
        """Write an object."""
        self._api.put(self.store, key, bytes(memoryview(data).cast("B")))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read an object, or a part of it."""
        if not start and stop is None:
            return bytes(self._api.get(self.store, key).bytes())
        if stop is None:
            stop = self.size(key)
        return bytes(self._api.get_range(self.store, key, start=start, end=stop))

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return int(self._api.head(self.store, key)["size"])

    def list(self, prefix: str) -> Iterator[str]:
        """All objects below a prefix."""
        for batch in self._api.list(self.store, prefix or None):
            for found in batch:
                yield found["path"]

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        try:
            self._api.delete(self.store, key)
        except FileNotFoundError:
            return

    def flush(self) -> None:
        """Nothing: an object is durable when its request is answered."""

    def read(self, key: str) -> tuple[bytes, Any]:
        """An object and its version."""
        got = self._api.get(self.store, key)
        tags = {name: got.meta[name] for name in ("e_tag", "version")}
        return bytes(got.bytes()), {name: tag for name, tag in tags.items() if tag is not None}

    def commit(self, key: str, data: bytes, version: Any = None) -> None:
        """One conditional write; in a folder, a replacement only looks first."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            if version is None:
                self._api.put(self.store, key, data, mode="create")
            elif self._has_versions:
                self._api.put(self.store, key, data, mode=version)
            elif self.read(key)[1] == version:
                self._api.put(self.store, key, data)
            else:
                raise FileExistsError(f"{key} was replaced by somebody else meanwhile")
        except (AlreadyExistsError, PreconditionError) as error:
            message = f"{key} was written by somebody else meanwhile"
            raise FileExistsError(message) from error
