# SPDX-License-Identifier: Apache-2.0
"""Reading objects of a checkpoint, none of which may be missing, cut, or another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import BY_NAME
from ..errors import CorruptionError, TruncatedError
from . import codecs, grid, manifest as manifests
from .hashing import hash_bytes
from .manifest import stored_type
from .rounding import round_into

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    storage: Storage, array: Array, number: int, box: Box, out: Host, keys: Sequence[str]
) -> None:
    """Read a chunk into its place `box` of `out`, which has the array's shape and item size."""
    target = out[box] if box else out
    in_place = target.flags.c_contiguous and target.shape == array.chunks
    whole = target if in_place else np.empty(array.chunks, out.dtype)
    _decode(storage, array, number, whole, keys)
    if not in_place:
        target[...] = whole[tuple(slice(0, n) for n in target.shape)]


def _decode(storage: Storage, array: Array, number: int, out: Host, keys: Sequence[str]) -> None:
    """Decode a whole chunk, by way of those that it is a difference to or rounded from."""
    if array.rounding is not None:
        exact = np.empty(array.chunks, BY_NAME[array.rounding.source.dtype].numpy)
        _decode(storage, array.rounding.source, number, exact, keys)
        round_into(exact, out, array.dtype)
        return
    key = f"{array.path}/{keys[number]}"
    raw = fetch(storage, key, array.objects[number])
    where = f"{storage.url}/{key}"
    if array.order is not None:
        turned = np.empty([array.chunks[axis] for axis in array.order], out.dtype)
        codecs.decode_into(raw, turned, array.dtype, where)
        out.transpose(array.order)[...] = turned
        return
    if array.delta is None:
        codecs.decode_into(raw, out, array.dtype, where)
        return
    _decode(storage, array.delta.base, number, out, keys)
    change = np.empty(array.chunks, array.stored_dtype)
    codecs.decode_into(raw, change, array.stored_dtype, where)
    apply(array.delta.op, change, out)


def read_whole_chunk(storage: Storage, array: Array, number: int) -> Host:
    """A chunk with its padding."""
    out = np.empty(array.chunks, BY_NAME[array.dtype].numpy)
    _decode(storage, array, number, out, list(grid.chunk_keys(array.shape, array.chunks)))
    return out


def difference(op: str, new: Host, base: Host) -> Host:
    """What `apply` makes `new` of, when given `base`."""
    word = f"u{new.itemsize}"
    words, others = np.ascontiguousarray(new).view(word), np.ascontiguousarray(base).view(word)
    change: Host = np.bitwise_xor(words, others) if op == "xor" else np.subtract(words, others)
    return change.view(stored_type(op, new.itemsize))


def apply(op: str, change: Host, out: Host) -> None:
    """Turn the base `out` into what a difference was made of, in place."""
    words = out.view(f"u{out.itemsize}")
    if op == "xor":
        np.bitwise_xor(words, change, out=words)
    else:
        np.add(words, change.view(words.dtype), out=words)


def chunk_jobs(array: Array) -> list[tuple[int, Box, Sequence[str]]]:
    """Number and place of each chunk, and the keys of all."""
    keys = list(grid.chunk_keys(array.shape, array.chunks))
    return [(i, box, keys) for i, box in enumerate(grid.boxes(array.shape, array.chunks))]
