# SPDX-License-Identifier: Apache-2.0
"""What one task does: some chunks of an array verified, or recompressed and verified.

A unit can be repeated at any time, on any machine: it writes the same bytes again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from zarr.storage import LocalStore

from ...durable import sync
from ...tensorfiles.tensors import as_bytes, regions
from ..errors import DamagedError
from ..stores import chunk_key
from .counted import Counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import zarr

    from ...tensorfiles.tensors import Array

UNIT_BYTES: Final = 64 << 20  # decoded; a chunk or shard that is larger is a unit alone
HELD: Final = 4  # times the decoded bytes is the most memory that a unit takes


@dataclass(frozen=True)
class Unit:
    """A box of whole chunks (shards, if sharded) of an array."""

    number: int
    """Among the units of the array."""
    source: zarr.Array[Any]
    """Its store is a `Counted`, as that of `target` is."""
    target: zarr.Array[Any] | None
    """None to verify."""
    box: tuple[slice, ...]
    complete: bool
    """The store promises that every chunk was written, so that a missing one is lost."""
    lossless: bool = True
    compare: bool = False
    """Look first whether the target has it already."""

    @property
    def path(self) -> str:
        """Of the array."""
        return self.source.path

    @property
    def nbytes(self) -> int:
        """Decoded."""
        n = self.source.dtype.itemsize
        for part in self.box:
            n *= part.stop - part.start
        return n

    def chunks(self) -> list[Unit]:
        """A unit for each chunk."""
        axes = zip(self.box, _step(self.source), strict=True)
        parts = [
            [slice(at, min(at + size, part.stop)) for at in range(part.start, part.stop, size)]
            for part, size in axes
        ]
        return [replace(self, box=box) for box in product(*parts)]

    def keys(self) -> list[str]:
        """Of its chunks, in the store of the target, or of the source if there is none."""
        array = self.source if self.target is None else self.target
        step = _step(self.source)
        return [
            chunk_key(array, tuple(p.start // n for p, n in zip(unit.box, step, strict=True)))
            for unit in self.chunks()
        ]


def _step(array: zarr.Array[Any]) -> tuple[int, ...]:
    return tuple(array.shards or array.chunks)


def units_of(
    source: zarr.Array[Any], target: zarr.Array[Any] | None, **options: Any
) -> Iterator[Unit]:
    """All of an array, in units of some `UNIT_BYTES`, in C order."""
    boxes = regions(source.shape, _step(source), source.dtype.itemsize, UNIT_BYTES)
    for number, box in enumerate(boxes):
        yield Unit(number, source, target, box, **options)


@dataclass
class Outcome:
    """What became of a unit, or of many together."""

    done: int = 0
    """Chunks verified; of a recompression, after they were written."""
    skipped: int = 0
    """Chunks that the target had already."""
    stored: int = 0
    """Chunks with a value in the target; the others hold nothing but the fill value."""
    decoded_bytes: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    findings: list[str] = field(default_factory=list)
    """A sentence for each chunk that failed."""

    def __iadd__(self, other: Outcome) -> Self:
        """Add another."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


class UnitError(Exception):
    """Chunks of a unit failed. ``args[0]`` is the `Outcome`, so that it can be tried again."""


def verify(unit: Unit) -> Outcome:
    """Decode. Raises UnitError."""
    return _whole_or_by_chunk(unit, _decode)


def recompress(unit: Unit) -> Outcome:
    """Read, write, read back and compare. Raises UnitError."""
    return _whole_or_by_chunk(unit, _copy)


def _whole_or_by_chunk(unit: Unit, work: Callable[[Unit], Outcome]) -> Outcome:
    parts = unit.chunks()
    try:
        return work(unit)
    except Exception as error:  # each codec and each store has its own
        if len(parts) == 1:
            raise UnitError(Outcome(findings=[_sentence(unit, error)])) from error
    total = Outcome()
    for part in parts:
        try:
            total += work(part)
        except Exception as error:  # noqa: BLE001
            total.findings.append(_sentence(part, error))
    if total.findings:
        raise UnitError(total)
    return total


def _sentence(chunk: Unit, error: Exception) -> str:
    [key] = chunk.keys()
    box = ", ".join(f"{axis.start}:{axis.stop}" for axis in chunk.box)
    return f"{key}, [{box}] of {chunk.path or 'the array'}: {error}"


def _decode(unit: Unit) -> Outcome:
    values = _read(unit)
    counted = _counted(unit.source)
    n = len(unit.keys())
    return Outcome(
        done=n,
        stored=n - len(counted.missing),
        decoded_bytes=values.nbytes,
        source_bytes=counted.read_bytes,
        target_bytes=counted.read_bytes,
    )


def _copy(unit: Unit) -> Outcome:
    target = unit.target
    assert target is not None, unit
    counted, keys = _counted(target), unit.keys()
    values = _read(unit)
    found = Outcome(decoded_bytes=values.nbytes, source_bytes=_counted(unit.source).read_bytes)
    if unit.compare and unit.lossless and _has(unit, values):
        found.skipped, found.target_bytes = len(keys), counted.read_bytes
        found.stored = len(keys) - len(counted.missing)
        return found
    counted.reset()
    target[unit.box] = values
    _flush(counted)
    again = np.asarray(target[unit.box])
    if unit.lossless and not _same(values, again):
        raise DamagedError("what was written reads back differently")
    found.done, found.stored = len(keys), len(counted.written)
    found.target_bytes = sum(counted.written.values())
    return found


def _read(unit: Unit) -> Array:
    """The values of the source. Raises DamagedError if a chunk is missing that was written."""
    counted = _counted(unit.source)
    counted.reset()
    values = np.asarray(unit.source[unit.box])
    if unit.complete and counted.missing:
        raise DamagedError(f"{min(counted.missing)} is missing")
    return values


def _has(unit: Unit, values: Array) -> bool:
    """Whether the target holds these values, and all chunks that it has to."""
    assert unit.target is not None, unit
    counted = _counted(unit.target)
    counted.reset()
    try:
        there = np.asarray(unit.target[unit.box])
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is written anew
        return False
    return _same(values, there) and not (unit.complete and counted.missing)


def _same(values: Array, other: Array) -> bool:
    """Bit for bit, whatever the byte order; strings of variable length by value."""
    if values.dtype.kind in "OT":
        return bool((values == other).all())
    return bool((as_bytes(values) == as_bytes(other.astype(values.dtype, copy=False))).all())


def _counted(array: zarr.Array[Any]) -> Counted:
    store = array.store
    assert isinstance(store, Counted), store
    return store


def _flush(counted: Counted) -> None:
    """Wait until what was written would survive a loss of power; object stores promise that."""
    if isinstance(counted.inner, LocalStore):
        root = counted.inner.root
        files = [root / key for key in counted.written]
        folders = {folder for file in files for folder in file.parents if root in file.parents}
        for path in (*files, *(f for f in folders if f == root or root in f.parents)):
            sync(path)
