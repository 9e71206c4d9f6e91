# SPDX-License-Identifier: Apache-2.0
"""Decode everything once and say what could not be."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codec import verify
from ..kernels import spec
from ..tensorfiles.tensors import as_bytes, is_url
from .errors import CommandError, DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..tensorfiles.tensors import Contents


def is_file(path: str) -> bool:
    """Whether this is one file, not a store."""
    if not is_url(path):
        return Path(path).is_file() and not path.endswith(".zip")
    fs, name = _opened(path)
    return bool(fs.isfile(name)) and not path.endswith(".zip")


def is_checkpoint(path: str) -> bool:
    """Whether this is what `checkpoint.save` wrote, not a store to open with zarr."""
    from ..checkpoint.manifest import NAME

    if not is_url(path):
        return (Path(path) / NAME).is_file()
    fs, name = _opened(path)
    return bool(fs.isfile(f"{name.rstrip('/')}/{NAME}"))


def frame(path: str) -> None:
    """Verify a file that is one frame, or one that the filesystem wrote. Raises GpucodecError."""
    if is_url(path):
        fs, name = _opened(path)
        size = fs.size(name)
        _verify(size, lambda start, stop: fs.cat_file(name, start=start, end=stop))
        return
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            verify(b"")
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    _verify(size, lambda start, stop: mapped[start:stop])


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise CommandError(f"{url}: {error}") from error
    return found


def _verify(size: int, fetch: Callable[[int, int], Any]) -> None:
    begin = bytes(fetch(0, len(spec.FILE_MAGIC)))
    end = bytes(fetch(max(0, size - len(spec.FOOTER_MAGIC)), size))
    if begin == spec.FILE_MAGIC or end == spec.FOOTER_MAGIC:
        _sections(size, fetch)
    else:
        verify(fetch(0, size))


def _sections(size: int, fetch: Callable[[int, int], Any]) -> None:
    """Verify all of a file that the filesystem wrote. Raises GpucodecError."""
    from ..fs.indexes import load_now

    index = load_now(size, lambda start, stop: bytes(fetch(start, stop)))
    if index is None:
        raise DamagedError("the file ends like gpucodec's, but begins otherwise")
    for begin in index.begins:
        magic = bytes(fetch(begin, begin + len(spec.FILE_MAGIC)))
        if magic != spec.FILE_MAGIC:
            raise DamagedError(f"the section at byte {begin} begins with {magic.hex(' ')}")
    for number, (start, head) in enumerate(zip(index.starts, index.heads, strict=True)):
        whole = fetch(int(start), int(start) + index.frame(number).encoded_bytes)
        if bytes(whole[: len(head)]) != head:
            raise DamagedError(f"frame {number}, at byte {start}, is not the one of the index")
        verify(whole)


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
