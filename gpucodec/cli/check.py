# SPDX-License-Identifier: Apache-2.0
"""Decode everything once and say what could not be."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from ..codec import verify
from ..kernels import spec
from .errors import DamagedError
from .tensors import as_bytes, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..buffers import Bytes
    from .stores import Store
    from .tensors import Contents


def frame(path: Path) -> None:
    """Verify a file that is one frame, or one that the filesystem wrote. Raises GpucodecError."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            verify(b"")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    raw = np.frombuffer(mapped, np.uint8)
    magic = spec.FILE_MAGIC, spec.FOOTER_MAGIC
    if magic[0] == raw[: len(magic[0])].tobytes() or magic[1] == raw[-len(magic[1]) :].tobytes():
        sections(raw)
    else:
        verify(raw)


def sections(raw: Bytes) -> None:
    """Verify all of a file that the filesystem wrote. Raises GpucodecError."""
    from ..fs.indexes import load_now

    index = load_now(raw.size, lambda start, stop: raw[start:stop].tobytes())
    if index is None:
        raise DamagedError("the file ends like gpucodec's, but begins otherwise")
    for begin in index.begins:
        magic = raw[begin : begin + len(spec.FILE_MAGIC)].tobytes()
        if magic != spec.FILE_MAGIC:
            raise DamagedError(f"the section at byte {begin} begins with {magic.hex(' ')}")
    for number, (start, head) in enumerate(zip(index.starts, index.heads, strict=True)):
        whole = raw[start : start + index.frame(number).encoded_bytes]
        if whole[: len(head)].tobytes() != head:
            raise DamagedError(f"frame {number}, at byte {start}, is not the one of the index")
        verify(whole)


def store(opened: Store, done: Callable[[int], None]) -> Iterator[str]:
    """Yield a sentence for each chunk (or shard) that is missing or does not decode."""
    from .stores import chunk_keys

    for path, array in opened.arrays.items():
        missing = set(opened.missing(array))
        boxes = regions(array.shape, array.shards or array.chunks, array.dtype.itemsize, 1)
        for key, region in zip(chunk_keys(array), boxes, strict=True):
            if key in missing:
                yield f"{key} is missing"
                continue
            try:
                values = array[region]
            except Exception as error:  # noqa: BLE001 - each codec has its own
                yield f"{key}, {_words(region)} of {path or 'the array'}: {error}"
            else:
                done(getattr(values, "nbytes", 0))


def same(contents: Contents, other: Contents) -> Iterator[str]:
    """Yield a sentence for each tensor of `contents` that `other` has not bit for bit."""
    others = {tensor.name: tensor for tensor in other.tensors}
    for tensor in contents.tensors:
        twin = others.get(tensor.name)
        if twin is None or (twin.shape, twin.dtype) != (tensor.shape, tensor.dtype):
            yield f"{tensor.name} is not there as {tensor.shape} of {tensor.dtype}"
            continue
        step = twin.row_step
        for (rows, piece), (_, copy) in zip(tensor.pieces(step), twin.pieces(step), strict=True):
            if not (as_bytes(piece) == as_bytes(copy)).all():
                yield f"{tensor.name} differs in rows {rows.start} to {rows.stop}"
                break


def _words(region: tuple[slice, ...]) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in region) + "]"
