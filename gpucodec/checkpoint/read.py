# SPDX-License-Identifier: Apache-2.0
"""Reading objects of a checkpoint, none of which may be missing, cut, or another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptionError, TruncatedError
from . import codecs, grid, manifest as manifests
from .write import hash_bytes

if TYPE_CHECKING:
    from .grid import Box
    from .manifest import Array, Manifest, Object
    from .storage import Storage

    Host = np.ndarray[Any, np.dtype[Any]]


def read_manifest(storage: Storage, key: str = manifests.NAME) -> Manifest:
    """The manifest of a checkpoint.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint: nothing was ever committed there.
    CorruptionError, UnsupportedError
        As `manifest.parse`.

    """
    where = f"{storage.url}/{key}"
    try:
        data, _ = storage.read(key)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no checkpoint at {storage.url}: {key} is missing") from error
    return manifests.parse(data, where)


def fetch(storage: Storage, key: str, expected: Object) -> bytes:
    """An object, checked against what the manifest says of it.

    Raises
    ------
    CorruptionError, TruncatedError
        It is missing, cut, or another object.

    """
    where = f"{storage.url}/{key}"
    try:
        raw = storage.get(key)
    except FileNotFoundError as error:
        raise CorruptionError(f"{where} is missing, the manifest names it") from error
    if len(raw) != expected.size:
        kind = TruncatedError if len(raw) < expected.size else CorruptionError
        raise kind(f"{where} has {len(raw)} bytes, the manifest says {expected.size}")
    check_digest(raw, key, expected, where)
    return raw


def check_digest(raw: bytes, key: str, expected: Object, where: str) -> None:
    """Make sure that an object's head (or all of its metadata) is the one that was written.

    Raises
    ------
    CorruptionError
        It is another's.

    """
    is_metadata = key.endswith(manifests.METADATA)
    found = hash_bytes(raw) if is_metadata else codecs.digest_of(raw, where)
    if found != expected.digest:
        raise CorruptionError(
            f"{where} is not what was written: hash {found:016x}, the manifest says "
            f"{expected.digest:016x}"
        )


def read_chunk(
    storage: Storage, array: Array, key: str, expected: Object, box: Box, out: Host
) -> None:
    """Read a chunk into its place `box` of `out`, which has the array's shape and item size."""
    raw = fetch(storage, f"{array.path}/{key}", expected)
    where = f"{storage.url}/{array.path}/{key}"
    target = out[box] if box else out
    if target.flags.c_contiguous and target.shape == array.chunks:
        codecs.decode_into(raw, target, array.dtype, where)
        return
    whole = np.empty(array.chunks, out.dtype)
    codecs.decode_into(raw, whole, array.dtype, where)
    target[...] = whole[tuple(slice(0, n) for n in target.shape)]


def chunk_jobs(array: Array) -> list[tuple[str, Object, Box]]:
    """Key, object and place of each chunk."""
    return list(
        zip(
            grid.chunk_keys(array.shape, array.chunks),
            array.objects,
            grid.boxes(array.shape, array.chunks),
            strict=True,
        )
    )
