# SPDX-License-Identifier: Apache-2.0
"""The model section of predicted frames: written, and read with every check of the format."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from . import frame as frames
from .errors import CorruptionError, GpucodecError
from .kernels import spec

if TYPE_CHECKING:
    from .buffers import Bytes
    from .frame import Frame

_FIELDS = struct.Struct(spec.MODEL_FORMAT)


class Section(NamedTuple):
    """A model of which the offsets are still encoded."""

    n_columns: int
    tile_rows: int
    base: int
    rank: int
    offsets: Frame
    """The table of the frame that holds the offsets."""
    encoded: Bytes
    """That frame."""


def pack(n_columns: int, tile_rows: int, base: int, rank: int, encoded: Bytes) -> bytes:
    """The section, padded; `encoded` is the frame of the offsets."""
    section = _FIELDS.pack(n_columns, tile_rows, base, rank) + encoded.tobytes()
    return section + bytes(-len(section) % spec.ALIGNMENT)


def parse(frame: Frame) -> Section:
    """The section of a predicted frame.

    Raises
    ------
    CorruptionError
        It is not one, or not of a matrix of the frame's words.

    """
    raw = frame.model
    fixed = raw[: spec.MODEL_BYTES].tobytes()
    n_columns, tile_rows, base, rank = _FIELDS.unpack(fixed)
    if fixed != _FIELDS.pack(n_columns, tile_rows, base, rank):
        message = f"reserved bytes of the model are not zero: {fixed.hex(' ')}"
        raise CorruptionError(message)
    if not spec.MIN_COLUMNS <= n_columns <= spec.MAX_COLUMNS or frame.n_words % n_columns:
        message = f"model has {n_columns} columns, the frame {frame.n_words} words"
        raise CorruptionError(message)
    n_rows = frame.n_words // n_columns
    if not 1 <= tile_rows <= n_rows or rank > spec.MAX_RANK:
        message = f"model has tiles of {tile_rows} rows and rank {rank}, the frame {n_rows} rows"
        raise CorruptionError(message)
    size = spec.n_offsets(n_rows, n_columns, tile_rows, rank)
    if size > frame.n_words:
        message = f"model has {size} offsets, the frame only {frame.n_words} words"
        raise CorruptionError(message)
    nested = raw[spec.MODEL_BYTES :]
    at = spec.ENCODED_BYTES_OFFSET
    length = int.from_bytes(nested[at : at + 8].tobytes(), "little")
    padding = nested.size - length
    if not 0 <= padding < spec.ALIGNMENT or nested[length:].any():
        message = (
            f"offsets of the model take {length} of {nested.size} bytes, or padding is not zero"
        )
        raise CorruptionError(message)
    encoded = nested[:length]
    try:
        offsets = frames.parse(encoded)
    except GpucodecError as error:
        message = f"offsets of the model: {error}"
        raise CorruptionError(message) from error
    if (offsets.dtype.name, offsets.shape) != ("uint8", (size,)):
        message = f"model has {size} offsets, its frame is {offsets.dtype.name} {offsets.shape}"
        raise CorruptionError(message)
    return Section(n_columns, tile_rows, base, rank, offsets, encoded)
