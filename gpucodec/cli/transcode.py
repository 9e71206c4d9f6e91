# SPDX-License-Identifier: Apache-2.0
"""Zarr to zarr: the same arrays under another codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

from ..tensorfiles.tensors import regions
from ..zarr import enable
from .output import interrupts_held
from .stores import arguments_for, tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zarr.storage import MemoryStore

    from ..quant import QuantizeConfig
    from .stores import Store


def copy(
    source: Store, target: Path, codec: str, done: Callable[[int], None], profile: str = "ratio"
) -> None:
    """Write `source` to `target` in zarr format 3; `done` is told the bytes copied.

    Groups, attributes, dimension names, chunks, shards, data types, fill values and whether
    metadata is consolidated are kept.
    Chunks of nothing but the fill value are not written, except where the source's layout
    promises all of them.
    """
    with enable():
        arrays = create(source, target, codec, profile)
        for path, made in arrays.items():
            array = source.arrays[path]
            rows = tensor(source, array, path).open()
            for region in regions(array.shape, made.shards or made.chunks, array.dtype.itemsize):
                piece = rows[region]
                with interrupts_held():
                    made[region] = piece
                done(piece.nbytes)


def create(
    source: Store,
    target: Path | MemoryStore,
    codec: str,
    profile: str,
    quantize: QuantizeConfig | None = None,
) -> dict[str, zarr.Array[Any]]:
    """Make the groups and arrays of `source` in `target`, without a chunk; the arrays by path."""
    make: Callable[..., zarr.Array[Any]]
    if isinstance(source.root, zarr.Array):

        def make(_path: str, **options: Any) -> zarr.Array[Any]:
            return zarr.create_array(target, **options)

    else:
        root = zarr.create_group(target, zarr_format=3, attributes=source.root.attrs.asdict())
        make = root.create_array
        for path, group in source.groups.items():
            root.create_group(path, attributes=group.attrs.asdict())
    made = {}
    for path, array in source.arrays.items():
        metadata = array.metadata
        made[path] = make(
            path,
            shape=array.shape,
            dtype=getattr(metadata, "data_type", None) or metadata.dtype,
            chunks=array.chunks,
            shards=array.shards,
            fill_value=array.fill_value,
            attributes=array.attrs.asdict(),
            dimension_names=getattr(metadata, "dimension_names", None),
            config={"write_empty_chunks": source.note is not None},
            **arguments_for(tensor(source, array, path), codec, profile, quantize),
        )
    if source.is_consolidated:
        zarr.consolidate_metadata(target)
    return made
