# SPDX-License-Identifier: Apache-2.0
"""Zarr to zarr: the same arrays under another codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

from ..zarr import enable
from .output import interrupts_held
from .stores import codec_arguments, tensor
from .tensors import regions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .stores import Store


def copy(
    source: Store, target: Path, codec: str, done: Callable[[int], None], profile: str = "ratio"
) -> None:
    """Write `source` to `target` in zarr format 3; `done` is told the bytes copied.

    Groups, attributes, dimension names, chunks, shards, data types and fill values are kept.
    Chunks of nothing but the fill value are not written, except where the source's layout
    promises all of them.
    """
    with enable():
        _copy(source, target, codec, done, profile)


def _copy(
    source: Store, target: Path, codec: str, done: Callable[[int], None], profile: str
) -> None:
    create: Callable[..., zarr.Array[Any]]
    if isinstance(source.root, zarr.Array):

        def create(_path: str, **options: Any) -> zarr.Array[Any]:
            return zarr.create_array(target, **options)

    else:
        root = zarr.create_group(target, zarr_format=3, attributes=source.root.attrs.asdict())
        create = root.create_array
        for path, group in source.groups.items():
            root.create_group(path, attributes=group.attrs.asdict())
    for path, array in source.arrays.items():
        metadata = array.metadata
        made = create(
            path,
            shape=array.shape,
            dtype=getattr(metadata, "data_type", None) or metadata.dtype,
            chunks=array.chunks,
            shards=array.shards,
            fill_value=array.fill_value,
            attributes=array.attrs.asdict(),
            dimension_names=getattr(metadata, "dimension_names", None),
            config={"write_empty_chunks": source.note is not None},
            **codec_arguments(codec, array.dtype, profile),
        )
        rows = tensor(source, array, path).open()
        for region in regions(array.shape, made.shards or made.chunks, array.dtype.itemsize):
            piece = rows[region]
            with interrupts_held():
                made[region] = piece
            done(piece.nbytes)
