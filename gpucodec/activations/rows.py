# SPDX-License-Identifier: Apache-2.0
"""The zarr group of a harvest: arrays that grow by rows together, and one place that says how far.

::

    group            attributes: {"gpucodec.activations": {"version", "axis", "rows", "modules"}}
    ├── token_ids    int64[rows]
    ├── NAME         dtype[rows, ...] of each module; dots of the name stay
    └── ...

``rows`` is the only truth. Arrays are lengthened ahead of it, chunks are written, then ``rows`` is,
each by one atomic put; so whatever a kill leaves behind lies beyond ``rows``, and opening for
appending cuts it off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec

import gpucodec.zarr  # the data types and the codec
from gpucodec.dtypes import BY_NAME
from gpucodec.errors import CorruptionError, UnsupportedError

from .codecs import config_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, np.dtype[Any]]

ATTRIBUTE = "gpucodec.activations"
VERSION = 1
TOKENS = "token_ids"
GROWTH = 16  # chunks by which arrays are lengthened at once
CHUNK_BYTES = 8 << 20  # of whole rows: large enough for a disk, small enough to shuffle by


def chunk_rows(row_bytes: int) -> int:
    """Rows of a chunk: a power of two, about `CHUNK_BYTES` of the widest module's rows."""
    return 1 << max(0, (CHUNK_BYTES // max(row_bytes, 1)).bit_length() - 1)


def serializer_of(codec: Any) -> dict[str, Any]:
    """The codec arguments of `zarr.Group.create_array` for a `codec` argument.

    Raises
    ------
    UnsupportedError
        Neither None, a name or configuration for tensors, nor a serializer of zarr.

    """
    if codec is None:
        return {"compressors": None}
    if isinstance(codec, str) or hasattr(codec, "to_json"):
        config = config_of(codec)
        if isinstance(config, gpucodec.TensorConfig):
            codec = gpucodec.zarr.TensorCodec(**config.to_json())
        elif isinstance(config, gpucodec.QuantizeConfig):
            codec = gpucodec.zarr.QuantizeCodec(**config.to_json())
    if not isinstance(codec, ArrayBytesCodec):
        message = f"codec {codec!r} is no name, configuration or zarr serializer known here"
        raise UnsupportedError(message)
    return {"serializer": codec, "compressors": None}


class RowStore:
    """Arrays of equal length in one group. One process may append."""

    def __init__(self, group: zarr.Group) -> None:
        found = group.attrs.get(ATTRIBUTE)
        if not isinstance(found, dict) or found.get("version") != VERSION:
            version = found.get("version") if isinstance(found, dict) else None
            message = f"{group.store_path}: version {version!r} of a harvest, not {VERSION}"
            raise UnsupportedError(message)
        match found:
            case {"rows": int(rows), "axis": str(axis), "modules": [*names]} if rows >= 0:
                self.rows, self.axis = rows, axis
                """Complete rows, and what they run over."""
                self.names = [str(name) for name in names]
            case _:
                message = f"{group.store_path}: {ATTRIBUTE} is {found}, not as harvests have it"
                raise CorruptionError(message)
        self.group = group
        self.arrays = {}
        for name in (TOKENS, *self.names):
            array = _array(group, name)
            if array is None or array.shape[0] < self.rows:
                length = "no" if array is None else array.shape[0]
                message = f"{group.store_path}: {name!r} has {length} rows, the group {self.rows}"
                raise CorruptionError(message)
            # Rows of zeros are written, too: a missing chunk is a lost one.
            self.arrays[name] = array.with_config({"write_empty_chunks": True})
        self.chunk_rows = int(self.arrays[TOKENS].chunks[0])

    @classmethod
    def create(
        cls, store: Any, axis: str, rows: Mapping[str, tuple[tuple[int, ...], str]], codec: Any
    ) -> RowStore:
        """An empty store for rows of these shapes and data types, in an empty or new group."""
        group = zarr.open_group(store, mode="a")
        n = chunk_rows(
            max(math.prod(shape) * BY_NAME[dtype].itemsize for shape, dtype in rows.values())
        )
        arrays: dict[str, tuple[tuple[int, ...], str, dict[str, Any]]] = {
            TOKENS: ((), "int64", serializer_of("auto"))
        }
        for name, (shape, dtype) in rows.items():
            arrays[name] = (shape, dtype, serializer_of(codec))
        for name, (shape, dtype, options) in arrays.items():
            group.create_array(
                name, shape=(0, *shape), chunks=(n, *shape), dtype=dtype, overwrite=True, **options
            )
        _commit(group, axis, list(rows), 0)
        return cls(group)

    @classmethod
    def open(cls, store: Any, *, append: bool = False) -> RowStore:
        """A store that exists; for appending, without what lies beyond its last complete row."""
        found = cls(zarr.open_group(store, mode="r+" if append else "r"))
        if append:
            found.trim()
        return found

    def trim(self) -> None:
        """Cut off what is beyond the last complete row."""
        for array in self.arrays.values():
            if array.shape[0] > self.rows:
                array.resize((self.rows, *array.shape[1:]))

    def grow(self, rows: int) -> None:
        """Make room for this many rows."""
        for array in self.arrays.values():
            if array.shape[0] < rows:
                length = rows + (GROWTH - 1) * self.chunk_rows
                array.resize((length, *array.shape[1:]))

    def put(self, name: str, start: int, values: Array) -> None:
        """Write rows that begin at a chunk's first row. They do not count before `commit`."""
        assert start % self.chunk_rows == 0, (start, self.chunk_rows)
        self.arrays[name][start : start + len(values)] = values

    def read(self, name: str, start: int, stop: int) -> Array:
        """Complete rows `start` to `stop` - 1 of one array."""
        assert 0 <= start <= stop <= self.rows, (start, stop, self.rows)
        return np.asarray(self.arrays[name][start:stop])

    def commit(self, rows: int) -> None:
        """Make this many rows count."""
        _commit(self.group, self.axis, self.names, rows)
        self.rows = rows

    def verify(self) -> None:
        """Read every row; CorruptionError if one is damaged or its chunk is missing."""
        for name, array in self.arrays.items():
            n_chunks = -(-self.rows // self.chunk_rows)
            if array.nchunks_initialized < n_chunks:
                message = (
                    f"{self.group.store_path}: {name!r} has {array.nchunks_initialized} chunks, "
                    f"{self.rows} rows take {n_chunks}"
                )
                raise CorruptionError(message)
            for start in range(0, self.rows, self.chunk_rows):
                self.read(name, start, min(start + self.chunk_rows, self.rows))


def _array(group: zarr.Group, name: str) -> zarr.Array[Any] | None:
    """The array of rows with this name, which a damaged list of names may not have."""
    try:
        found = group.get(name)
    except ValueError:  # no name that zarr allows
        return None
    return found if isinstance(found, zarr.Array) and found.ndim else None


def _commit(group: zarr.Group, axis: str, names: Sequence[str], rows: int) -> None:
    entry = {"version": VERSION, "axis": axis, "rows": rows, "modules": list(names)}
    group.update_attributes({ATTRIBUTE: entry})
