# SPDX-License-Identifier: Apache-2.0
"""The store that is written: chunks first, metadata last, so that nobody reads half of it.

Until its metadata is there it is no store, and a chunk that is still missing cannot pass for one of
fill values. The root's metadata comes last of all.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from ...checkpoint.storage import connect
from ...tensorfiles.tensors import is_url
from ...zarr import enable
from ...zarr._compat import sync
from ..transcode import create
from .counted import counting

if TYPE_CHECKING:
    from ...quant import QuantizeConfig
    from ..stores import Store

ROOT: Final = "zarr.json"


class Target:
    """Where a store is recompressed to.

    Attributes
    ----------
    arrays
        By path. They can be written and read, though their metadata is not in the store.

    """

    def __init__(
        self, source: Store, url: str, codec: str, profile: str, quantize: QuantizeConfig | None
    ) -> None:
        staged = MemoryStore()
        with enable():
            made = create(source, staged, codec, profile, quantize)
        self._documents = _documents(staged)
        self.url = url
        self._files = connect(url)
        store = _writable(url)
        self.arrays = {path: counting(array, store) for path, array in made.items()}

    @property
    def digest(self) -> str:
        """Of all metadata: of what the source is, and of how it is encoded."""
        whole = sha256()
        for key, document in sorted(self._documents.items()):
            whole.update(b"%d %s %s" % (len(document), key.encode(), document))
        return whole.hexdigest()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return next(iter(self._files.list("")), None) is None

    @property
    def is_store(self) -> bool:
        """Whether this is a zarr store of some kind."""
        return bool({ROOT, ".zgroup", ".zarray"}.intersection(self._files.list("")))

    @property
    def is_published(self) -> bool:
        """Whether the metadata is there, and the same."""
        try:
            return self._files.get(ROOT) == self._documents[ROOT]
        except FileNotFoundError:
            return False

    def keys(self, path: str) -> set[str]:
        """What the store has of an array."""
        return set(self._files.list(f"{path}/" if path else ""))

    def clear(self) -> None:
        """Remove everything, the root's metadata first."""
        self._files.delete(ROOT)
        for key in list(self._files.list("")):
            self._files.delete(key)

    def publish(self) -> None:
        """Write the metadata: from now on it is a store."""
        for key in sorted(self._documents, key=lambda key: (key == ROOT, key)):
            if key == ROOT:
                self._files.flush()
            self._files.put(key, self._documents[key])
        self._files.flush()


def _writable(url: str) -> Any:
    if not is_url(url):
        return LocalStore(url)
    options = {"file": {"auto_mkdir": True}} if "file://" in url else {}  # as zarr's own does
    return FsspecStore.from_url(url, storage_options=options)


def _documents(staged: MemoryStore) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        found = {}
        async for key in staged.list():
            value = await staged.get(key, default_buffer_prototype())
            assert value is not None, key
            found[key] = value.to_bytes()
        return found

    return dict(sync(read()))
