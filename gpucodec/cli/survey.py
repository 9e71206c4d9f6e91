# SPDX-License-Identifier: Apache-2.0
"""What is stored and how: read from headers and tables, nothing is decoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import frame as frames
from ..codec import describe, inspect
from ..kernels import quantspec, spec
from ..quant import QuantizeConfig, QuantizedInfo
from . import lossy
from .errors import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..tensorfiles.tensors import Contents
    from .stores import Store

PREFIX_BYTES = 1 << 16  # most tables are smaller, so that one read is enough


@dataclass
class Row:
    """One tensor of a store, or one frame."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    decoded_bytes: int
    encoded_bytes: int = 0
    planes: dict[tuple[tuple[str, int], ...], list[Counter[str]]] = field(default_factory=dict)
    """Coders of each plane, by what planes a frame has: their role and width."""
    packed: int = 0
    """Blocks of which the zeros are left out."""
    model_bytes: int = 0
    codec: str = ""

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / max(1, self.encoded_bytes)

    @property
    def coders(self) -> str:
        """Coders by plane, as ``rans8 raw``; where blocks differ, ``raw/rans8``, most first.

        Frames with other planes follow, after a semicolon; then what was done with zeros, and the
        size of models of rows and columns.
        """
        parts = ["; ".join(map(_layout, self.planes, self.planes.values()))]
        if self.packed:
            parts.append(f"{self.packed} blocks without zeros")
        if self.model_bytes:
            parts.append(f"model {self.model_bytes} B")
        return ", ".join(filter(None, parts)) or self.codec

    def add(self, frame: frames.Frame) -> None:
        """Count the coders of a frame."""
        info = describe(frame)
        layout = tuple((plane.role, plane.bits) for plane in info.planes)
        counters = self.planes.setdefault(layout, [Counter() for _ in layout])
        for counts, plane in zip(counters, info.planes, strict=True):
            counts.update(plane.coders)
        self.packed += info.packed_blocks
        self.model_bytes += info.model.encoded_bytes if info.model else 0


def of_file(contents: Contents) -> list[Row]:
    """The tensors of a file that is not compressed."""
    return [
        Row(t.name, t.dtype.name, t.shape, t.nbytes, t.nbytes, codec="not compressed")
        for t in contents.tensors
    ]


def of_frame(path: Path) -> Row:
    """A file that is one frame. Raises GpucodecError if it is not a sound one."""
    with path.open("rb") as file:
        prefix = file.read(spec.HEADER_BYTES)
        if prefix.startswith(quantspec.MAGIC):
            return _of_container(path)
        prefix += file.read(frames.table_bytes(prefix) - len(prefix))
        size = file.seek(0, 2)
    frame = frames.parse(prefix, whole=False)
    if size != frame.encoded_bytes:
        raise DamagedError(f"{path} has {size} bytes, its frame {frame.encoded_bytes}")
    row = Row(path.name, frame.dtype.name, frame.shape, frame.decoded_bytes, size)
    row.add(frame)
    return row


def _of_container(path: Path) -> Row:
    info = inspect(path.read_bytes())
    assert isinstance(info, QuantizedInfo)
    row = Row(path.name, info.dtype, info.shape, info.decoded_bytes, info.encoded_bytes)
    row.codec = f"{lossy.describe(info.config)}, {info.n_exceptions} exceptions"
    return row


def of_store(store: Store) -> Iterator[Row]:
    """Every array of a store. Raises DamagedError if a chunk that was written is missing."""
    from .stores import chunk_keys

    names = {path: name for name, path in (store.note or {}).get("tensors", {}).items()}
    for path, array in store.arrays.items():
        shape, dtype = array.shape, array.dtype
        name = names.get(path, path or "array")
        row = Row(name, getattr(dtype, "name", str(dtype)), shape, array.nbytes)
        missing = store.missing(array)
        if missing:
            raise DamagedError(f"{store.path}: chunk {missing[0]} is missing")
        ours = _one_frame_a_chunk(array)
        row.codec = _codec_name(array)
        keys = [key for key in chunk_keys(array) if key in store.keys]
        row.encoded_bytes = sum(store.sizes(keys))
        for key in keys if ours else ():
            row.add(_table(store, key))
        yield row


def _table(store: Store, key: str) -> frames.Frame:
    prefix = store.fetch(key, PREFIX_BYTES)
    needed = frames.table_bytes(prefix)
    if needed > len(prefix):
        prefix = store.fetch(key, needed)
    return frames.parse(prefix, whole=False)


def _one_frame_a_chunk(array: Any) -> bool:
    """Whether the value of a key is a frame as it is: our codec comes last, without shards."""
    return not array.shards and _last_codec(array) == "gpucodec.tensor"


def _codec_name(array: Any) -> str:
    name = _last_codec(array)
    return f"{name}, in shards" if array.shards else name


def _last_codec(array: Any) -> str:
    last = (array.compressors or (array.serializer,))[-1]
    config = getattr(last, "config", None)
    if isinstance(config, QuantizeConfig):
        return lossy.describe(config)
    return str(getattr(last, "codec_id", None) or last.to_dict()["name"] if last else "none")


def _layout(layout: tuple[tuple[str, int], ...], planes: list[Counter[str]]) -> str:
    """The coders of frames with the same planes; mask and signs are named."""
    named = zip(layout, planes, strict=True)
    return " ".join(
        _mixture(plane) if role == "words" else f"{role} {_mixture(plane)}"
        for (role, _), plane in named
    )


def _mixture(plane: Counter[str]) -> str:
    return "/".join(name for name, _ in plane.most_common()) or "-"
