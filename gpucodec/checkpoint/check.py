# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint consists of, and whether all of it is sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gpucodec

from ..errors import CorruptionError, GpucodecError
from . import codecs
from .manifest import METADATA
from .parallel import Workers
from .read import fetch, read_manifest
from .storage import connect
from .view import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .manifest import Manifest, Object
    from .storage import Storage


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    codec: Mapping[str, Any]
    """The zarr codec that encodes it."""
    delta: str | None
    """"sub" or "xor" if it is stored as a difference."""
    rounded_from: str | None
    """The tensor of which it is stored as the rounding: such a reference takes no space."""
    decoded_bytes: int
    encoded_bytes: int
    same_as: str | None
    """The tensor whose memory it shared when it was saved."""

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / max(1, self.encoded_bytes)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint's manifest says."""

    id: str
    tensors: tuple[TensorInfo, ...]
    decoded_bytes: int
    """Of tensors that share memory, once."""
    encoded_bytes: int
    """Of equal tensors, once."""
    n_objects: int
    policy: str
    metadata: Mapping[str, Any]

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / max(1, self.encoded_bytes)


def inspect(url: Any) -> CheckpointInfo:
    """What a checkpoint consists of; only its manifest is read. Raises as `open`."""
    checkpoint = open_checkpoint(url)
    manifest = checkpoint.manifest
    rows = tuple(
        TensorInfo(
            name,
            lazy.dtype,
            lazy.shape,
            lazy.kind,
            lazy.codec,
            lazy.delta,
            lazy.rounded_from,
            lazy.nbytes,
            lazy.encoded_bytes,
            manifest.tensors[name].same_as,
        )
        for name, lazy in checkpoint.items()
    )
    return CheckpointInfo(
        manifest.id,
        rows,
        sum(row.decoded_bytes for row in rows if row.same_as is None),
        sum(array.encoded_bytes for array in manifest.arrays.values()),
        len(manifest.keys()),
        str(manifest.extra.get("policy", "")),
        checkpoint.metadata,
    )


def verify(
    url: Any, *, subset: tuple[int, int] = (1, 1), progress: Callable[[int], None] | None = None
) -> int:
    """Read every object, decode it, check every hash, and keep nothing.

    Parameters
    ----------
    url
        As for `save`.
    subset
        ``(n, t)`` reads the n-th of t parts (1 to t), so that a large checkpoint can be checked
        over t days. Each object is in one part.
    progress
        Called with the stored bytes of each object.

    Returns
    -------
    The number of objects read.

    Raises
    ------
    CorruptionError
        Something is missing or damaged; its notes name every such object.

    """
    storage = connect(url)
    manifest = read_manifest(storage)
    found = list(damages(storage, manifest, subset, progress))
    n_objects = len(_subset(manifest, subset))
    if found:
        error = CorruptionError(f"{storage.url}: {len(found)} of {n_objects} objects: {found[0]}")
        for one in found:
            error.add_note(one)
        raise error
    return n_objects


def damages(
    storage: Storage,
    manifest: Manifest,
    subset: tuple[int, int] = (1, 1),
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """A sentence for each object that is missing or not sound."""

    def look(item: tuple[str, Object]) -> str | None:
        key, expected = item
        try:
            raw = fetch(storage, key, expected)
            if not key.endswith(METADATA):
                gpucodec.verify(raw, threads=1)
        except GpucodecError as error:
            return f"{key}: {error}"
        if progress is not None:
            progress(expected.size)
        return None

    codecs.warm(array.codec for array in manifest.arrays.values())
    with Workers(storage.workers) as workers:
        return [one for one in workers.map(look, _subset(manifest, subset)) if one is not None]


def _subset(manifest: Manifest, subset: tuple[int, int]) -> list[tuple[str, Object]]:
    number, total = subset
    if not 1 <= number <= total:
        raise ValueError(f"subset is (n, t) with n from 1 to t, not {subset}")
    items = [item for array in manifest.arrays.values() for item in array.items()]
    return items[number - 1 :: total]
