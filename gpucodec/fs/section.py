# SPDX-License-Identifier: Apache-2.0
"""Files on disk: sections of frames, each with an index and a footer at its end.

The layout is `docs/format.md`, "Files". Nothing here reads or writes by itself: `read_index` says
which bytes it wants, so that files, object stores and event loops can all serve it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import frame as frames
from ..errors import CorruptionError, TruncatedError, UnsupportedError
from ..kernels import spec

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ..buffers import Bytes
    from ..frame import Frame

TAIL_BYTES = 64 << 10  # the first read of a file: its footer, and mostly its index as well
_FOOTER = struct.Struct(spec.FOOTER_FORMAT)
_SIZES = struct.Struct("<QQ")  # decoded and encoded bytes in a frame's header
_MAGIC_BYTES = len(spec.FILE_MAGIC)
_MOST_BYTES = (1 << 63) - 1

assert _FOOTER.size == spec.FOOTER_BYTES, _FOOTER.size


@cache
def _hash_bytes() -> Any:
    """Numba is imported on first use."""
    from ..kernels.checksum import hash_bytes

    return hash_bytes


def _hash(data: bytes) -> int:
    return int(_hash_bytes()(np.frombuffer(data, np.uint8).copy()))  # it takes writable arrays


def head_of(frame: Bytes) -> bytes:
    """A frame's header, shape and table: what the index keeps of it."""
    return frame[: frames.table_bytes(frame[: spec.HEADER_BYTES])].tobytes()


def end_of_section(heads: Sequence[bytes]) -> bytes:
    """The index and the footer behind frames with these heads."""
    sizes = [_SIZES.unpack_from(head, spec.DECODED_BYTES_OFFSET) for head in heads]
    index = b"".join(heads)
    decoded = sum(size for size, _ in sizes)
    frame_bytes = sum(size for _, size in sizes)
    encoded = _MAGIC_BYTES + frame_bytes + len(index) + spec.FOOTER_BYTES
    fields = (len(index), len(heads), decoded, encoded, _hash(index))
    rest = (spec.FILE_VERSION, 0, spec.FOOTER_MAGIC)
    digest = _hash(_FOOTER.pack(*fields, 0, *rest))
    return index + _FOOTER.pack(*fields, digest, *rest)


@dataclass(frozen=True)
class Footer:
    """The end of a section."""

    index_bytes: int
    n_frames: int
    decoded_bytes: int
    encoded_bytes: int
    index_hash: int


def parse_footer(raw: bytes, end: int) -> Footer:
    """Read and check the footer that ends at byte `end` of a file.

    Raises
    ------
    UnsupportedError
        A section of another version.
    TruncatedError
        The file is shorter than its last section.
    CorruptionError
        Its hash or sizes do not hold.

    """
    *fields, stored, version, reserved, magic = _FOOTER.unpack(raw)
    assert magic == spec.FOOTER_MAGIC, magic
    at = spec.FOOTER_HASH_OFFSET
    computed = _hash(raw[:at] + bytes(8) + raw[at + 8 :])
    if stored != computed:
        message = f"footer at byte {end - len(raw)} has hash {computed:016x}, stored {stored:016x}"
        raise CorruptionError(message)
    if version != spec.FILE_VERSION or reserved:
        message = (
            f"file has format version {version} and reserved field {reserved}, "
            f"this gpucodec reads {spec.FILE_VERSION} and 0"
        )
        raise UnsupportedError(message)
    footer = Footer(*fields)
    if footer.encoded_bytes > end:
        message = f"section of {footer.encoded_bytes} bytes ends at byte {end} of the file"
        raise TruncatedError(message)
    if footer.encoded_bytes < _MAGIC_BYTES + footer.index_bytes + spec.FOOTER_BYTES:
        message = f"footer at byte {end - len(raw)} contradicts itself: {footer}"
        raise CorruptionError(message)
    return footer


@dataclass
class Index:
    """Where everything is in a file that gpucodec wrote."""

    physical_size: int
    begins: list[int]
    """Where each section begins."""
    heads: list[bytes]
    """Header and table of each frame, in order."""
    starts: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Physical offset of each frame, int64[n_frames]."""
    logical: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Decoded bytes before each frame, int64[n_frames + 1]."""
    _parsed: dict[int, Frame] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Decoded bytes of the file."""
        return int(self.logical[-1])

    @property
    def nbytes(self) -> int:
        """Memory that this object takes, roughly."""
        return 512 + sum(len(head) + 64 for head in self.heads)

    def frame(self, number: int) -> Frame:
        """A frame's table, parsed and checked on first use. Raises GpucodecError."""
        found = self._parsed.get(number)
        if found is None:
            found = self._parsed[number] = frames.parse(self.heads[number], whole=False)
        return found


def read_index(size: int) -> Generator[tuple[int, int], bytes, Index | None]:
    """Find the frames of a file of `size` bytes.

    A generator that yields ranges (start, stop) of the file and is sent their bytes; it returns
    the index, or None for a file that gpucodec did not write.

    Raises
    ------
    TruncatedError
        The file begins like one of gpucodec's but ends otherwise, or is shorter than it says.
    CorruptionError, UnsupportedError
        What is wrong with an index or footer.

    """
    if size < _MAGIC_BYTES:
        return None
    held_at = max(0, size - TAIL_BYTES)
    held = yield held_at, size
    _must_have(held, held_at, size)

    def take(start: int, stop: int) -> Generator[tuple[int, int], bytes, bytes]:
        nonlocal held, held_at
        if start < held_at:
            at = max(0, min(start, stop - TAIL_BYTES))
            held = yield at, stop
            held_at = at
            _must_have(held, at, stop)
        return held[start - held_at : stop - held_at]

    sections: list[tuple[int, Footer, bytes]] = []
    end = size
    while end:
        footer_at = end - spec.FOOTER_BYTES
        raw = b"" if footer_at < 0 else (yield from take(footer_at, end))
        if not raw.endswith(spec.FOOTER_MAGIC):
            if sections:
                message = f"{end} bytes before the section at byte {end} are not gpucodec's"
                raise CorruptionError(message)
            if (yield from take(0, _MAGIC_BYTES)) != spec.FILE_MAGIC:
                return None
            message = f"file begins as gpucodec's but its {size} bytes do not end so: it was cut"
            raise TruncatedError(message)
        footer = parse_footer(raw, end)
        index = yield from take(footer_at - footer.index_bytes, footer_at)
        computed = _hash(index)
        if computed != footer.index_hash:
            message = (
                f"index at byte {footer_at - footer.index_bytes} has hash {computed:016x}, "
                f"stored is {footer.index_hash:016x}"
            )
            raise CorruptionError(message)
        end -= footer.encoded_bytes
        sections.append((end, footer, bytes(index)))
    return _joined(size, sections[::-1])


def _must_have(piece: bytes, start: int, stop: int) -> None:
    if len(piece) != stop - start:
        message = f"bytes {start} to {stop} of the file were asked for, {len(piece)} came"
        raise TruncatedError(message)


def _joined(size: int, sections: Sequence[tuple[int, Footer, bytes]]) -> Index:
    """The frames of all sections (start, footer, index) as one list."""
    heads: list[bytes] = []
    starts, logical = [], [0]
    for begin, footer, index in sections:
        at, n_before, decoded_before, taken = begin + _MAGIC_BYTES, len(heads), logical[-1], 0
        while taken < len(index):
            stop = taken + frames.table_bytes(index[taken : taken + spec.HEADER_BYTES])
            decoded, encoded = _SIZES.unpack_from(index, taken + spec.DECODED_BYTES_OFFSET)
            heads.append(index[taken:stop])
            starts.append(at)
            logical.append(logical[-1] + decoded)
            at += encoded
            taken = stop
        end = at + footer.index_bytes + spec.FOOTER_BYTES
        found = (taken, len(heads) - n_before, logical[-1] - decoded_before, end - begin)
        told = (footer.index_bytes, footer.n_frames, footer.decoded_bytes, footer.encoded_bytes)
        if found != told:
            message = f"index of the section at byte {begin} gives {found}, its footer says {told}"
            raise CorruptionError(message)
    if logical[-1] > _MOST_BYTES:
        message = f"file decodes to {logical[-1]} bytes, more than any file has"
        raise CorruptionError(message)
    begins = [begin for begin, _, _ in sections]
    return Index(size, begins, heads, np.array(starts, np.int64), np.array(logical, np.int64))
