# SPDX-License-Identifier: Apache-2.0
"""Zarr stores as sources and targets, read so that nothing missing or wrong goes unseen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.buffer import default_buffer_prototype

from ..checkpoint.grid import chunk_shape
from ..checkpoint.names import array_paths
from ..tensorfiles.tensors import Contents, Tensor, is_url
from ..views import carrier
from ..zarr import QuantizeCodec, TensorCodec, enable
from ..zarr._compat import sync
from . import layout, lossy
from .check import is_checkpoint
from .errors import CommandError, DamagedError
from .output import interrupts_held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..quant import QuantizeConfig
    from ..tensorfiles.tensors import Array

CODECS = ("gpucodec", "zstd", "blosc", "gzip", "none")


@dataclass(frozen=True)
class Store:
    """An opened store: its root and the arrays in it by path ("" for an array at the root)."""

    path: Path | str
    root: zarr.Group | zarr.Array[Any]
    arrays: dict[str, zarr.Array[Any]]
    groups: dict[str, zarr.Group]
    note: dict[str, Any] | None

    @cached_property
    def keys(self) -> frozenset[str]:
        """All keys of the store, listed when somebody asks."""

        async def ask() -> frozenset[str]:
            return frozenset([key async for key in self.root.store.list_prefix("")])

        return sync(ask())

    def missing(self, array: zarr.Array[Any]) -> list[str]:
        """Keys of chunks (or shards) that should be there and are not."""
        if self.note is None:
            return []  # elsewhere a missing chunk stands for the fill value
        return [key for key in chunk_keys(array) if key not in self.keys]

    def fetch(self, key: str, n_bytes: int | None = None) -> bytes:
        """A value of the store, or its first `n_bytes`."""
        part = None if n_bytes is None else RangeByteRequest(0, n_bytes)
        got = sync(self.root.store.get(key, default_buffer_prototype(), part))
        if got is None:
            raise DamagedError(f"{self.path}: {key} is missing")
        return got.to_bytes()

    def sizes(self, keys: Iterable[str]) -> list[int]:
        """Bytes of values of the store."""

        async def ask() -> list[int]:
            return [await self.root.store.getsize(key) for key in keys]

        return sync(ask())

    @property
    def is_consolidated(self) -> bool:
        """Whether the root has a copy of all metadata."""
        metadata = self.root.metadata
        return getattr(metadata, "consolidated_metadata", None) is not None

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of everything in the store, metadata too."""
        return sum(self.sizes(self.keys))


def store_at(path: Path | str) -> Any:
    """zarr's store at a path or any URL of fsspec, as zarr itself would choose it.

    Raises
    ------
    CommandError
        There is no such path, or fsspec cannot open the URL.

    """
    if not is_url(path):
        if not Path(path).exists():
            raise CommandError(f"{path} does not exist")
        return path
    try:
        return zarr.storage.FsspecStore.from_url(str(path), read_only=True)
    except (ImportError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from error


def open_store(path: Path | str) -> Store:
    """Open for reading, and look whether all arrays that were written are there.

    `path` may be a URL of fsspec.

    Raises
    ------
    CommandError
        Not a zarr store.
    DamagedError
        Metadata cannot be read, or an array is missing.

    """
    at = store_at(path)
    try:
        with enable():
            root = zarr.open(at, mode="r")
            members = [] if isinstance(root, zarr.Array) else root.members(max_depth=None)
            nodes = dict(sorted(members))
    except FileNotFoundError as error:
        hint = ": see gpucodec checkpoint --help" if is_checkpoint(str(path)) else ""
        kind = "a checkpoint, " if hint else ""
        raise CommandError(f"{path} is {kind}no zarr store{hint}") from error
    except Exception as error:  # zarr raises whatever its parsers stumble upon
        raise DamagedError(f"{path}: metadata cannot be read: {error}") from error
    arrays = {path: node for path, node in nodes.items() if isinstance(node, zarr.Array)}
    groups = {path: node for path, node in nodes.items() if isinstance(node, zarr.Group)}
    if isinstance(root, zarr.Array):
        arrays[""] = root
    note = layout.recall(root.attrs)
    if note is not None:
        for name, where in note["tensors"].items():
            if where not in arrays:
                raise DamagedError(f"{path}: array {where} of tensor {name} is missing")
    for array in arrays.values():
        _refuse_pickles(array)
    return Store(path, root, arrays, groups, note)


def read(store: Store) -> Contents:
    """The store's tensors, by the names they had in the file they came from."""
    if store.note is None:
        named = {path or "array": array for path, array in store.arrays.items()}
        kind, extra = "zarr", {}
    else:
        extra = {k: v for k, v in store.note.items() if k not in {"layout", "kind", "tensors"}}
        kind = store.note["kind"]
        named = {name: store.arrays[path] for name, path in store.note["tensors"].items()}
    return Contents(kind, [tensor(store, array, name) for name, array in named.items()], extra)


def tensor(store: Store, array: zarr.Array[Any], name: str) -> Tensor:
    """An array of the store, whose reads fail as `DamagedError`."""
    dtype = array.dtype
    step = (array.shards or array.chunks)[0] if array.shape else 1
    return Tensor(name, dtype, array.shape, lambda: _Rows(store, array), step)


class _Rows:
    """An array that is read by rows and says which could not be."""

    def __init__(self, store: Store, array: zarr.Array[Any]) -> None:
        missing = store.missing(array)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DamagedError(f"{store.path}: chunk {missing[0]} is missing{more}")
        self.store = store
        self.array = array

    def __getitem__(self, rows: Any) -> Array:
        try:
            return np.asarray(self.array[rows])
        except Exception as error:  # each codec has its own
            box = rows if isinstance(rows, tuple) else (rows,)
            where = ", ".join(f"{part.start}:{part.stop}" for part in box)
            name = self.array.path or "the array"
            raise DamagedError(f"{self.store.path}: {name}[{where}]: {error}") from error


def write(
    path: Path,
    contents: Contents,
    codec: str,
    profile: str = "ratio",
    quantize: QuantizeConfig | None = None,
) -> None:
    """Write tensors as a new store in the project's layout, those quantized that can be."""
    paths = array_paths(tensor.name for tensor in contents.tensors)
    note = layout.remember(contents.kind, paths, contents.extra)
    with enable():
        root = zarr.create_group(path, zarr_format=3, attributes=note)
        for source in contents.tensors:
            array = root.create_array(
                paths[source.name],
                shape=source.shape,
                dtype=source.dtype,
                chunks=chunk_shape(source.shape, source.dtype.itemsize),
                config={"write_empty_chunks": True},
                **arguments_for(source, codec, profile, quantize),
            )
            fill(array, source)


def arguments_for(
    source: Tensor, codec: str, profile: str, quantize: QuantizeConfig | None
) -> dict[str, Any]:
    """What `create_array` needs for a tensor, which is quantized if it can be."""
    if quantize is None or lossy.reason_to_keep(source, quantize):
        return codec_arguments(codec, source.dtype, profile)
    serializer = QuantizeCodec(**quantize.to_json())
    return {"serializer": serializer, "compressors": None, "filters": None}


def fill(array: zarr.Array[Any], source: Tensor) -> None:
    """Write all of a tensor, whole chunks (or shards) at a time.

    zarr writes from a thread of its own, which an interrupt would leave running.
    """
    step = (array.shards or array.chunks)[0] if array.shape else 1
    for rows, piece in source.pieces(step):
        with interrupts_held():
            array[rows if array.shape else ()] = piece


def codec_arguments(codec: str, dtype: Any, profile: str = "ratio") -> dict[str, Any]:
    """What `create_array` needs to encode with one of `CODECS`, gpucodec in a profile.

    Types that gpucodec does not take get zarr's own codecs.
    """
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    match codec:
        case "gpucodec":
            try:
                carrier(dtype)
            except TypeError:
                return {}
            serializer = TensorCodec(profile=profile)
            return {"serializer": serializer, "compressors": None, "filters": None}
        case "zstd":
            return {"compressors": ZstdCodec(level=3)}
        case "blosc":
            return {"compressors": BloscCodec(cname="zstd", clevel=5, typesize=dtype.itemsize)}
        case "gzip":
            return {"compressors": GzipCodec(level=6)}
    return {"compressors": None}


def chunk_keys(array: zarr.Array[Any]) -> list[str]:
    """The keys of all chunks (shards, if sharded) that an array can have."""
    counts = [-(-n // c) for n, c in zip(array.shape, array.shards or array.chunks, strict=True)]
    return [chunk_key(array, chunk) for chunk in product(*map(range, counts))]


def chunk_key(array: zarr.Array[Any], chunk: tuple[int, ...]) -> str:
    """The key of a chunk (shard) by its place in the grid."""
    prefix = f"{array.path}/" if array.path else ""
    return prefix + array.metadata.encode_chunk_key(chunk)


def _refuse_pickles(array: zarr.Array[Any]) -> None:
    """numcodecs' pickle codec runs code of the store; nothing here ever calls it.

    Raises
    ------
    CommandError
        The array names a codec whose name contains "pickle", at any depth of its metadata.

    """

    def names(node: Any) -> bool:
        if isinstance(node, dict):
            labels = (node.get("id"), node.get("name"))
            return any("pickle" in str(label) for label in labels) or any(map(names, node.values()))
        return isinstance(node, list | tuple) and any(map(names, node))

    metadata = array.metadata.to_dict()
    if names({key: value for key, value in metadata.items() if key != "attributes"}):
        raise CommandError(f"array {array.path} uses pickle, which could run code: not read")
