# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint: what it consists of, down to the hash of each object.

It is written last, so a checkpoint is there when its manifest is. One line says format, size and
SHA-256 of the JSON that follows; that hash is the identity of the checkpoint. The layout is
described in `docs/checkpoints.md`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..dtypes import BY_NAME
from ..errors import MALFORMED, CorruptionError, TruncatedError, UnsupportedError
from . import codecs, grid, rounding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT: Final = "gpucodec.checkpoint"
VERSION: Final = 1
NAME: Final = "manifest.json"
METADATA: Final = "zarr.json"
_MAX_ARRAY_BYTES: Final = (1 << 63) - 1
_MAX_DIMS: Final = 64
_WORD_BYTES: Final = 8  # of the largest elements that are subtracted as integers


class Object(NamedTuple):
    """A stored object: its size, and the hash that stands in its header.

    A frame's header has a hash over header and table, and the table a hash of each decoded block:
    so these 8 bytes pin down the contents. Of metadata, it is the XXH3-64 of all bytes.
    """

    size: int
    digest: int


@dataclass(frozen=True)
class Delta:
    """How an array is stored as a difference to another one."""

    base: Array
    op: str
    """"sub": the words minus the base's, as integers that wrap; xor: the bits that differ."""
    content: str


@dataclass(frozen=True)
class Rounding:
    """Where the elements of an array come from that is not stored."""

    source: Array
    """The exact elements, in chunks of the same shape."""
    content: str


OPERATIONS: Final = ("sub", "xor")


def stored_type(op: str, itemsize: int) -> str:
    """The data type of a difference; the codec folds signed ones, so that small ones are short."""
    return f"{'int' if op == 'sub' else 'uint'}{8 * itemsize}"


@dataclass(frozen=True)
class Array:
    """A zarr array of the checkpoint."""

    path: str
    """Its folder, below the root of the checkpoint."""
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    codec: Mapping[str, Any]
    """The zarr codec, as in the array's metadata."""
    metadata: Object
    objects: tuple[Object, ...]
    """The chunks in C order."""
    delta: Delta | None = None
    """What it is a difference to, if it is one."""
    rounding: Rounding | None = None
    """What it is rounded from, if it is: then it has no objects of its own."""
    order: tuple[int, ...] | None = None
    """The axes as chunks have them, if they are transposed."""

    @property
    def content(self) -> str:
        """The path that an array of these elements has when it is stored in full."""
        reference = self.delta or self.rounding
        return self.path if reference is None else reference.content

    @property
    def chain(self) -> tuple[Array, ...]:
        """It and the arrays behind it that have to be read for it."""
        if self.rounding is not None:
            return (self, *self.rounding.source.chain)
        return (self,) if self.delta is None else (self, *self.delta.base.chain)

    @property
    def depth(self) -> int:
        """How many differences have to be added to a full array."""
        return sum(one.delta is not None for one in self.chain)

    @property
    def stored_dtype(self) -> str:
        """The data type of what is stored: of differences, an integer of that size."""
        if self.delta is None:
            return self.dtype
        return stored_type(self.delta.op, BY_NAME[self.dtype].itemsize)

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return prod(self.shape) * BY_NAME[self.dtype].itemsize

    @property
    def encoded_bytes(self) -> int:
        """Stored bytes, metadata included."""
        return self.metadata.size + sum(one.size for one in self.objects)

    def items(self) -> Iterator[tuple[str, Object]]:
        """Key and object of the metadata and of each chunk."""
        if self.rounding is not None:
            return
        yield f"{self.path}/{METADATA}", self.metadata
        keys = grid.chunk_keys(self.shape, self.chunks)
        for key, found in zip(keys, self.objects, strict=True):
            yield f"{self.path}/{key}", found


@dataclass(frozen=True)
class Tensor:
    """A tensor of the checkpoint, by the name that it has there."""

    array: str
    """Path of the array that holds it; equal tensors share one."""
    kind: str
    library: str
    """What it was and will be again: "torch" or "numpy"."""
    same_as: str | None = None
    """The tensor whose memory it shares (tied weights)."""

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """A checkpoint."""

    structure: Any
    tensors: Mapping[str, Tensor]
    arrays: Mapping[str, Array]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def body(self) -> bytes:
        """The JSON."""
        return json.dumps(
            {
                "structure": self.structure,
                "tensors": {name: one.to_json() for name, one in self.tensors.items()},
                "arrays": {path: _array_to_json(one) for path, one in self.arrays.items()},
                "extra": self.extra,
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode()

    @property
    def id(self) -> str:
        """What identifies the checkpoint: the hash of its contents and of all that it names."""
        return sha256(self.body).hexdigest()

    def to_bytes(self) -> bytes:
        """As it is stored."""
        head = {"format": FORMAT, "version": VERSION, "bytes": len(self.body), "sha256": self.id}
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.body

    def keys(self) -> set[str]:
        """All objects that it names."""
        return {key for array in self.arrays.values() for key, _ in array.items()}


def _array_to_json(array: Array) -> dict[str, Any]:
    def pair(one: Object) -> list[Any]:
        return [one.size, f"{one.digest:016x}"]

    said: dict[str, Any] = {}
    if delta := array.delta:
        said["delta"] = {"base": delta.base.path, "op": delta.op, "content": delta.content}
    if origin := array.rounding:
        said["rounding"] = {"source": origin.source.path, "content": origin.content}
    said |= {
        "dtype": array.dtype,
        "shape": array.shape,
        "chunks": array.chunks,
        "codec": array.codec,
    }
    if array.order is not None:
        said["order"] = array.order
    if array.rounding is None:
        said["metadata"] = pair(array.metadata)
        said["objects"] = [pair(one) for one in array.objects]
    return said


def parse(data: bytes, where: str) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    TruncatedError, CorruptionError
        It is cut, or its hash or structure does not hold.
    UnsupportedError
        Not a manifest, or one of a later version.

    """
    line, newline, body = data.partition(b"\n")
    head = _head(line, where, complete=bool(newline))
    if len(body) != head["bytes"]:
        cut = len(body) < head["bytes"]
        message = f"{where} has {len(body)} bytes behind its first line, not {head['bytes']}"
        raise (TruncatedError if cut else CorruptionError)(message)
    found = sha256(body).hexdigest()
    if found != head["sha256"]:
        raise CorruptionError(f"{where} has SHA-256 {found}, its first line says {head['sha256']}")
    try:
        content = json.loads(body)
        arrays = _arrays(content["arrays"])
        tensors = {name: _tensor(name, one) for name, one in content["tensors"].items()}
        manifest = Manifest(content["structure"], tensors, arrays, dict(content["extra"]))
    except MALFORMED as error:
        if isinstance(error, (CorruptionError, UnsupportedError)):
            raise
        raise CorruptionError(f"{where} is not as manifests are: {error!r}") from error
    lost = sorted({one.array for one in tensors.values()} - arrays.keys())
    lost += sorted({one.same_as or name for name, one in tensors.items()} - tensors.keys())
    if lost:
        raise CorruptionError(f"{where} names {lost[0]}, which it does not describe")
    return manifest


def _tensor(name: str, one: Mapping[str, Any]) -> Tensor:
    match one:
        case {"array": str(array), "kind": str(kind), "library": "torch" | "numpy" as library}:
            same_as = one.get("same_as")
            if same_as is None or isinstance(same_as, str):
                return Tensor(array, kind, library, same_as)
    raise CorruptionError(f"{name} is described as {one}")


def _head(line: bytes, where: str, *, complete: bool) -> dict[str, Any]:
    start = f'{{"format":"{FORMAT}"'.encode()
    if not line.startswith(start):
        if line and start.startswith(line):
            raise TruncatedError(f"{where} ends after {len(line)} bytes")
        raise UnsupportedError(f"{where} is no manifest of a checkpoint: starts with {line[:24]!r}")
    if not complete:
        raise TruncatedError(f"{where} ends within its first line, after {len(line)} bytes")
    try:
        head = json.loads(line)
    except ValueError as error:
        raise CorruptionError(f"{where}: its first line is not JSON: {error}") from error
    match head:
        case {"version": int(version)} if version != VERSION:
            message = f"{where} has version {version}, this gpucodec reads {VERSION}"
            raise UnsupportedError(message)
        case {"version": int(), "bytes": int(), "sha256": str()}:
            return dict(head)
    raise CorruptionError(f"{where}: its first line is not as manifests have it")


def _arrays(described: Mapping[str, Any]) -> dict[str, Array]:
    """All arrays; each behind what has to be read for it."""
    arrays: dict[str, Array] = {}

    def add(path: str, above: tuple[str, ...]) -> Array:
        if path in above:
            raise CorruptionError(f"{path} refers to itself")
        if path not in arrays:
            one = described[path]
            behind = [one[kind][name] for kind, name in _REFERENCES if kind in one]
            if len(behind) > 1:
                raise CorruptionError(f"{path} is both a difference and a rounding")
            reference = add(behind[0], (*above, path)) if behind else None
            arrays[path] = _array(path, one, reference)
        return arrays[path]

    for path in described:
        add(path, ())
    return {path: arrays[path] for path in described}


_REFERENCES: Final = (("delta", "base"), ("rounding", "source"))


def _array(path: str, one: Mapping[str, Any], behind: Array | None) -> Array:
    def pair(item: Any) -> Object:
        size, digest = item
        found = Object(int(size), int(digest, 16))
        if found.size < 0:
            raise CorruptionError(f"{path}: an object of {found.size} bytes")
        return found

    if not path or path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise CorruptionError(f"{path!r} is no path of an array")
    shape, chunks = tuple(map(int, one["shape"])), tuple(map(int, one["chunks"]))
    if one["dtype"] not in BY_NAME:
        raise UnsupportedError(f"{path} has the data type {one['dtype']}, which is not known")
    if len(shape) != len(chunks) or len(shape) > _MAX_DIMS or min((0, *shape)) < 0:
        raise CorruptionError(f"{path} has shape {shape} and chunks {chunks}")
    itemsize = BY_NAME[one["dtype"]].itemsize
    largest = max(prod(filter(None, shape)), prod(chunks)) * itemsize
    if min((1, *chunks)) < 1 or largest > _MAX_ARRAY_BYTES:
        raise CorruptionError(f"{path} has shape {shape} and chunks {chunks}")
    order = tuple(map(int, one["order"])) if "order" in one else None
    is_order = order is None or (sorted(order) == list(range(len(shape))) and behind is None)
    if not is_order:
        raise CorruptionError(f"{path} cannot have its {len(shape)} axes in the order {order}")
    codec = dict(one["codec"])
    if behind is not None and behind.rounding is not None:
        raise CorruptionError(f"{path} refers to {behind.path}, which is not stored")
    if behind is not None and "rounding" in one:
        fits = (behind.dtype, behind.shape, behind.chunks) == (rounding.EXACT, shape, chunks)
        is_exact = behind.chain[-1].codec["name"] == codecs.LOSSLESS
        if one["dtype"] not in rounding.ROUNDED or not fits or not is_exact:
            raise CorruptionError(f"{path} cannot be a rounding of {behind.path}")
        origin = Rounding(behind, str(one["rounding"]["content"]))
        nothing = Object(0, 0)
        return Array(path, one["dtype"], shape, chunks, codec, nothing, (), None, origin)
    objects = tuple(map(pair, one["objects"]))
    expected = prod(grid.counts(shape, chunks))
    if len(objects) != expected:
        raise CorruptionError(f"{path} lists {len(objects)} chunks, its shape has {expected}")
    delta = None
    if behind is not None:
        op = one["delta"]["op"]
        like = (behind.dtype, behind.shape, behind.chunks)
        if op not in OPERATIONS or like != (one["dtype"], shape, chunks) or itemsize > _WORD_BYTES:
            raise CorruptionError(f"{path} cannot be a difference {op!r} to {behind.path}")
        delta = Delta(behind, op, str(one["delta"]["content"]))
    metadata = pair(one["metadata"])
    return Array(path, one["dtype"], shape, chunks, codec, metadata, objects, delta, None, order)
