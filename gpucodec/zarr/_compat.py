# SPDX-License-Identifier: Apache-2.0
"""Every name of zarr that is private or that moved between 3.1.6 and 3.4, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr import errors
from zarr.abc.store import RangeByteRequest, SuffixByteRequest, SupportsSyncStore
from zarr.buffer.cpu import Buffer
from zarr.core import indexing
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.common import concurrent_map
from zarr.core.dtype import common
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BatchedCodecPipeline",
    "Buffer",
    "DataTypeValidationError",
    "HasEndianness",
    "HasItemSize",
    "RangeByteRequest",
    "StorePath",
    "SuffixByteRequest",
    "concurrent_map",
    "is_sync",
    "sync",
    "value_of",
    "write_order",
]


def _first(name: str, *modules: Any) -> Any:
    """The name from the first of these modules that has it."""
    return next(getattr(module, name) for module in modules if hasattr(module, name))


# In `errors` since 3.3; the old place warns.
DataTypeValidationError: type[Exception] = _first("DataTypeValidationError", errors, common)

_SYNC = (("get_sync", "get"), ("set_sync", "set"), ("delete_sync", "delete"))


def is_sync(store: Any) -> bool:
    """Whether the store's synchronous methods do what its asynchronous ones do.

    A subclass that overrides only the asynchronous method would be bypassed by the synchronous
    one that it inherits, so that one must be defined at least as far down. Wrappers hand both over to what
    they wrap.
    """
    if isinstance(store, WrapperStore) and not is_sync(store._store):  # noqa: SLF001 - its interface
        return False
    if not isinstance(store, SupportsSyncStore) or not getattr(store, "_supports_sync_io", True):
        return False
    lineage = type(store).__mro__

    def depth(name: str) -> int | None:
        return next((i for i, cls in enumerate(lineage) if name in vars(cls)), None)

    pairs = [(depth(sync), depth(plain)) for sync, plain in _SYNC]
    return all(s is not None and p is not None and s <= p for s, p in pairs)


def value_of(setting: Any) -> str | None:
    """A setting that is an enumeration in 3.1.6 and a string since."""
    value: str | None = getattr(setting, "value", setting)
    return value


def write_order(codec: Any, counts: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    """The order in which a sharding codec lays out the inner chunks of a shard."""
    order = getattr(codec, "subchunk_write_order", None)  # since 3.3
    places: Iterable[tuple[int, ...]] = (
        _first("morton_order_iter", indexing)(counts)
        if order is None
        else codec._subchunk_order_iter(counts, order)  # noqa: SLF001
    )
    return places
