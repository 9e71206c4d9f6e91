# SPDX-License-Identifier: Apache-2.0
"""How much room a harvest will take, from one batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import zarr

from .harvest import record_activations
from .rows import RowStore

if TYPE_CHECKING:
    from collections.abc import Iterable


class SpaceEstimate(NamedTuple):
    """Disk space of a harvest."""

    raw_bytes: int
    """Uncompressed, of all arrays."""
    encoded_bytes: int
    """As the batch compressed."""
    free_bytes: int | None
    """On the disk of the store; None for URLs."""

    def __str__(self) -> str:
        free = "" if self.free_bytes is None else f", {self.free_bytes / 1e9:.3f} GB are free"
        return (
            f"{self.encoded_bytes / 1e9:.3f} GB of disk space required "
            f"({self.raw_bytes / 1e9:.3f} GB before compression){free}"
        )


def estimate_space(
    model: Any,
    modules: Iterable[str],
    batch: Any,
    n_rows: int,
    store: Any = None,
    dtype: Any = None,
    codec: Any = "auto",
    axis: Literal["tokens", "examples"] = "tokens",
) -> SpaceEstimate:
    """Run the model on one batch, and say what `n_rows` like its rows would take.

    Parameters
    ----------
    batch
        What the model is called with: a tensor, a tuple of arguments, or a mapping of them.
    n_rows
        Rows of the harvest.
    store
        Where it will be, for the free space.

    The others are those of `record_activations`.

    """
    sample = zarr.storage.MemoryStore()
    with record_activations(model, modules, sample, dtype, codec, axis), torch.no_grad():
        if isinstance(batch, torch.Tensor):
            model(batch)
        elif isinstance(batch, (tuple, list)):
            model(*batch)
        else:
            model(**batch)
    found = RowStore.open(sample)
    raw = encoded = 0
    for name, array in found.arrays.items():
        values = found.read(name, 0, found.rows)
        objects: dict[str, Any] = {}  # one chunk of these rows, where the store's would be padded
        zarr.create_array(
            zarr.storage.MemoryStore(store_dict=objects), data=values, chunks=values.shape,
            serializer=array.serializer or "auto", compressors=None,
        )  # fmt: skip
        raw += values.nbytes
        encoded += sum(len(one) for key, one in objects.items() if not key.endswith("zarr.json"))
    scale = n_rows / found.rows
    return SpaceEstimate(round(raw * scale), round(encoded * scale), _free_bytes(store))


def _free_bytes(store: Any) -> int | None:
    if store is None or (isinstance(store, str) and "://" in store):
        return None
    if not isinstance(store, (str, Path)):
        return None
    folder = Path(store).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
