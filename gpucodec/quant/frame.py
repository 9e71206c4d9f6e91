# SPDX-License-Identifier: Apache-2.0
"""The container of a quantized tensor: a header, then plain frames of its arrays.

The layout is `docs/format.md`. The frames inside check themselves; the header's hash covers
their headers' hashes, so that no part can be exchanged for another's. Nothing here decodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import frame as frames
from ..config import DEFAULT_CONFIG
from ..dtypes import BY_CODE, BY_NAME, DType
from ..errors import CorruptionError, LimitError, TruncatedError, UnsupportedError
from ..kernels import quantspec as spec
from ..kernels.spec import ALIGNMENT, HASH_OFFSET, HEADER_BYTES, MAX_DIMS
from .axis import shape_of
from .config import ErrorBound, QuantizeConfig
from .cpu import layout_of
from .tensor import is_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..buffers import Bytes

_HEADER = struct.Struct(spec.HEADER_FORMAT)
_PART = struct.Struct("<QQ")
WIDE_POSITIONS = 1 << 32  # positions of more elements than this need 64 bits


@dataclass(frozen=True)
class Part:
    """One of the frames in a container."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    """None for the exceptions, whose number only their frame tells."""
    start: int
    stop: int
    digest: int
    """The hash in the frame's header, as the container has it."""

    def check(self, piece: Bytes) -> None:
        """Make sure that bytes that start like a frame are those of this part.

        Raises
        ------
        CorruptionError
            The hash in their header is another one.

        """
        found = hash_field(piece)
        if found != self.digest:
            message = (
                f"{self.name} have header hash {found:016x}, the container says {self.digest:016x}"
            )
            raise CorruptionError(message)


@dataclass(frozen=True)
class Header:
    """A validated header."""

    config: QuantizeConfig
    dtype: DType
    shape: tuple[int, ...]
    tensor_scale: float
    parts: tuple[Part, ...]

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the dequantized array."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def encoded_bytes(self) -> int:
        """Bytes of the container."""
        return self.parts[-1].stop


def join(
    config: QuantizeConfig,
    dtype: DType,
    shape: tuple[int, ...],
    tensor_scale: float,
    parts: Sequence[Bytes],
) -> Bytes:
    """A container around the frames of a quantized tensor, uint8[encoded_bytes]."""
    table = [(part.size, hash_field(part)) for part in parts]
    return np.concatenate([header(config, dtype, shape, tensor_scale, table), *parts])


def header(
    config: QuantizeConfig,
    dtype: DType,
    shape: tuple[int, ...],
    tensor_scale: float,
    parts: Sequence[tuple[int, int]],
) -> Bytes:
    """The bytes of a container before its frames, of which size and `hash_field` are given."""
    assert isinstance(config.axis, int)
    out = np.zeros(_start(len(shape), len(parts)), np.uint8)
    n_bytes = out.size + sum(size for size, _ in parts)
    bound = config.bound
    _HEADER.pack_into(
        out,
        0,
        *(spec.MAGIC, spec.VERSION, dtype.spec.code, len(shape), config.block.bit_length() - 1),
        *(prod(shape) * dtype.itemsize, n_bytes, 0),
        *(config.spec.code, config.scale_code, config.mode_code),
        *(spec.ROUNDINGS.index(config.rounding), spec.UNBOUNDED if bound is None else bound.kind),
        *(len(parts), 1 + config.axis, 0),
        *(config.seed, 0.0 if bound is None else bound.value, tensor_scale, 0),
    )
    struct.pack_into(f"<{len(shape)}Q", out, spec.HEADER_BYTES, *shape)
    for i, part in enumerate(parts):
        _PART.pack_into(out, _part_entry(len(shape), i), *part)
    struct.pack_into("<Q", out, HASH_OFFSET, frames.table_hash(out))
    return out


def max_encoded_bytes(config: QuantizeConfig, dtype: DType, shape: tuple[int, ...]) -> int:
    """The most bytes that a container can take: every value is an exception."""
    if config.axis == "auto":
        axes = (replace(config, axis=axis) for axis in (0, -1))
        return max(max_encoded_bytes(one, dtype, shape) for one in axes)
    expected = _expected(config, dtype, shape, exceptions=True)
    total = _start(len(shape), len(expected))
    for _, name, part_shape in expected:
        kind = BY_NAME[name]
        dims = (prod(shape),) if part_shape is None else part_shape
        block_log = DEFAULT_CONFIG.block_log(kind.spec.word_bytes)
        total += frames.max_encoded_bytes(kind, dims, block_log)
    return total


def prefix_bytes(n_dims: int) -> int:
    """Bytes that surely hold the header of a container with so many dimensions."""
    return _start(n_dims, spec.MAX_PARTS)


def parse(
    raw: Bytes, *, limit: int | None = None, whole: bool = True, n_bytes: int | None = None
) -> Header:
    """Read and check a container's header.

    Parameters
    ----------
    raw
        The container; with ``whole=False`` at least the first `prefix_bytes` of it. Then its
        frames are not looked at, which is left to `Part.check`.
    limit
        The most decoded bytes to accept.
    n_bytes
        Of the container, if it is elsewhere and `raw` has only the first `prefix_bytes`. Its
        frames are not looked at then, either.

    Raises
    ------
    TruncatedError, UnsupportedError, CorruptionError, LimitError
        As `gpucodec.frame.parse`.

    """
    if raw.size < spec.HEADER_BYTES:
        if not spec.MAGIC.startswith(raw[: len(spec.MAGIC)].tobytes()):
            message = f"not a quantized frame: starts with {raw[:4].tobytes().hex(' ')}"
            raise UnsupportedError(message)
        message = f"frame ends after {raw.size} bytes, its header has {spec.HEADER_BYTES}"
        raise TruncatedError(message)
    magic, version, code, n_dims, block_log, decoded, encoded, digest, *numbers = (
        _HEADER.unpack_from(raw)
    )
    if magic != spec.MAGIC:
        message = f"not a quantized frame: starts with {magic.hex(' ')}"
        raise UnsupportedError(message)
    if version != spec.VERSION:
        message = f"quantized frame has version {version}, this gpucodec reads {spec.VERSION}"
        raise UnsupportedError(message)
    n_parts = numbers[5]
    start = _start(n_dims, n_parts)
    if n_dims > MAX_DIMS:
        message = f"frame has {n_dims} dimensions, the format allows {MAX_DIMS}"
        raise CorruptionError(message)
    if start > encoded:
        message = f"header of {start} bytes is longer than the frame of {encoded}"
        raise CorruptionError(message)
    given = raw.size if n_bytes is None else n_bytes
    if given < (encoded if whole else start):
        message = f"frame ends after {given} of {encoded} bytes"
        raise TruncatedError(message)
    if whole and given != encoded:
        message = f"frame has {encoded} bytes, but {given} were given"
        raise CorruptionError(message)
    computed = frames.table_hash(raw[:start])
    if digest != computed:
        message = f"header has hash {computed:016x}, stored is {digest:016x}"
        raise CorruptionError(message)
    if raw[_part_entry(n_dims, n_parts) : start].any():
        message = "padding of the header is not zero"
        raise CorruptionError(message)
    shape = struct.unpack_from(f"<{n_dims}Q", raw, spec.HEADER_BYTES)
    dtype = BY_CODE.get(code)
    if dtype is None or not is_float(dtype):
        message = f"quantized frame has data type code {code}, which is no float type here"
        raise UnsupportedError(message)
    config = _config(block_log, n_dims, numbers)
    if prod(shape) * dtype.itemsize != decoded:
        message = f"shape {shape} of {dtype.name} disagrees with {decoded} decoded bytes"
        raise CorruptionError(message)
    if prod(filter(None, shape)) * dtype.itemsize >= 1 << 63:
        message = f"no array can have the shape {shape} of the frame"
        raise CorruptionError(message)
    if limit is not None and decoded > limit:
        message = f"frame decodes to {decoded} bytes, the limit is {limit}"
        raise LimitError(message)
    exceptions = n_parts > len(_expected(config, dtype, shape, exceptions=False))
    expected = _expected(config, dtype, shape, exceptions=exceptions)
    if n_parts != len(expected):
        message = f"a frame of {config.format} has {len(expected)} parts, the header says {n_parts}"
        raise CorruptionError(message)
    parts = _locate(raw, expected, len(shape), encoded)
    if whole and n_bytes is None:
        for part in parts:
            part.check(raw[part.start : part.stop])
    tensor_scale = numbers[10]
    return Header(config, dtype, shape, tensor_scale, parts)


def _config(block_log: int, n_dims: int, numbers: list[Any]) -> QuantizeConfig:
    """The configuration in a header; what is not allowed raises."""
    code, scale, mode, rounding, kind, _, axis, zero, seed, bound, tensor_scale, zeros = numbers
    row = spec.BY_CODE.get(code)
    if row is None:
        message = f"quantized frame has format code {code}, known are 1 to {max(spec.BY_CODE)}"
        raise UnsupportedError(message)
    tables = (
        ("scale type", scale, spec.SCALE_TYPES),
        ("scaling mode", mode, spec.SCALING_MODES),
        ("rounding", rounding, spec.ROUNDINGS),
        ("bound kind", kind, spec.BOUND_KINDS),
    )
    for name, value, table in tables:
        if value >= len(table):
            message = f"quantized frame has {name} {value}, known are 0 to {len(table) - 1}"
            raise UnsupportedError(message)
    if zero or zeros or not (kind or not bound):
        message = f"reserved header fields are {zero}, {zeros} and bound {bound}, not zero"
        raise UnsupportedError(message)
    exact = 0 <= tensor_scale < float("inf") if scale == spec.E4M3_SCALE else tensor_scale == 1.0
    if axis > n_dims or not exact:
        message = f"axis {axis} of {n_dims} or tensor scale {tensor_scale} is not valid"
        raise CorruptionError(message)
    try:
        return QuantizeConfig(
            row.name,
            1 << block_log,
            spec.SCALE_TYPES[scale],
            spec.SCALING_MODES[mode] if scale == spec.E8M0 or mode else None,
            "stochastic" if rounding else "nearest",
            seed,
            axis - 1 if axis else -1,
            ErrorBound(**{spec.BOUND_KINDS[kind] or "": bound}) if kind else None,
        )
    except ValueError as error:
        message = f"the header's configuration is not valid: {error}"
        raise CorruptionError(message) from error


def _expected(
    config: QuantizeConfig, dtype: DType, shape: tuple[int, ...], *, exceptions: bool
) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """Name, data type and shape of each part; no shape for exceptions."""
    assert isinstance(config.axis, int)
    layout = layout_of(shape_of(shape, config.axis), config)
    kind = spec.SCALE_DTYPES[config.scale_code]
    expected: list[tuple[str, str, tuple[int, ...] | None]] = [
        ("codes", "uint8", layout.codes_shape),
        ("scales", kind, layout.scales_shape),
    ]
    if config.spec.has_offsets:
        expected.append(("offsets", kind, layout.scales_shape))
    if exceptions:
        wide = "uint64" if layout.size > WIDE_POSITIONS else "uint32"
        expected += [("positions", wide, None), ("values", dtype.name, None)]
    return expected


def _locate(
    raw: Bytes, expected: Sequence[tuple[str, str, Any]], n_dims: int, encoded: int
) -> tuple[Part, ...]:
    """Where the parts are in a container of `encoded` bytes, of which `raw` has the header."""
    parts, at = [], _start(n_dims, len(expected))
    for i, one in enumerate(expected):
        size, digest = _PART.unpack_from(raw, _part_entry(n_dims, i))
        if size > encoded - at or size < HEADER_BYTES:
            message = f"{one[0]} have {size} bytes, {encoded - at} are left of the frame"
            raise CorruptionError(message)
        parts.append(Part(*one, at, at + size, digest))
        at += size
    if at != encoded:
        message = f"parts end at {at}, the frame has {encoded} bytes"
        raise CorruptionError(message)
    return tuple(parts)


def _start(n_dims: int, n_parts: int) -> int:
    """Bytes of header, shape and table of parts, up to where the first frame starts."""
    size = spec.HEADER_BYTES + 8 * n_dims + _PART.size * n_parts
    return -(-size // ALIGNMENT) * ALIGNMENT


def _part_entry(n_dims: int, i: int) -> int:
    """Where the table's entry of part `i` stands."""
    return spec.HEADER_BYTES + 8 * n_dims + i * _PART.size


def hash_field(part: Bytes) -> int:
    """The hash in a plain frame's header."""
    return int.from_bytes(part[HASH_OFFSET : HASH_OFFSET + 8].tobytes(), "little")
