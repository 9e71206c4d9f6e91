# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors as bytes: encode, decode, inspect, verify."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import buffers, codec, frame as frames
from ..dtypes import BY_NAME
from ..errors import CorruptionError
from . import frame as quantframe
from .salvage import known_steps, salvaged
from .tensor import Quantized, dequantize as dequantize_quantized, quantize, require_float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..buffers import Bytes
    from ..codec import FrameInfo
    from ..dtypes import DType
    from ..frame import Frame
    from .config import QuantizeConfig
    from .frame import Header, Part
    from .salvage import Damage


@dataclass(frozen=True)
class QuantizedInfo:
    """What a container's header and the tables of its frames say."""

    config: QuantizeConfig
    dtype: str
    shape: tuple[int, ...]
    decoded_bytes: int
    encoded_bytes: int
    n_exceptions: int
    parts: dict[str, FrameInfo]
    """The frames: codes, scales, offsets, positions, values."""

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / self.encoded_bytes

    @property
    def bits_per_value(self) -> float:
        """Encoded bits over elements."""
        return 8 * self.encoded_bytes / max(1, prod(self.shape))


def encode_quantized(array: Any, config: QuantizeConfig, *, threads: int | None = None) -> Bytes:
    """Quantize an array and encode the result as one frame.

    The codes are entropy-coded without further loss. `decode` returns the array as dequantized.

    Parameters
    ----------
    array, config, threads
        As for `quantize`.

    Returns
    -------
    The frame, uint8[encoded_bytes].

    Raises
    ------
    TypeError, UnsupportedError, ValueError
        As `quantize`.

    """
    if buffers.is_on_gpu(array):
        from .. import cuda

        return cuda.encode_quantized(array, config)  # type: ignore[no-any-return]
    return write(quantize(array, config, threads=threads), threads=threads)


def write(quantized: Quantized, *, threads: int | None = None) -> Bytes:
    """The frame of a quantized tensor, uint8[encoded_bytes]."""
    arrays = [quantized.codes, quantized.scales]
    if quantized.offsets is not None:
        arrays.append(quantized.offsets)
    if quantized.positions.size:
        gaps = np.diff(quantized.positions, prepend=-1) - 1
        wide = prod(quantized.shape) > quantframe.WIDE_POSITIONS
        arrays += [gaps.astype(np.uint64 if wide else np.uint32), quantized.values]
    return quantframe.join(
        quantized.config,
        BY_NAME[quantized.dtype],
        quantized.shape,
        quantized.tensor_scale,
        [codec.encode(array, threads=threads) for array in arrays],
    )


def decode_quantized(
    frame: Any,
    out: Any = None,
    *,
    dequantize: bool = True,
    limit: int | None = codec.DEFAULT_LIMIT,
    threads: int | None = None,
    salvage: bool = False,
) -> Any:
    """Decode the frame of a quantized tensor and check every hash.

    Parameters
    ----------
    frame
        The frame's bytes: any contiguous buffer.
    out
        Where to put the dequantized values: a writable array, tensor or buffer of exactly the
        right number of bytes.
    dequantize
        False returns the `Quantized` itself: codes and scales as they are.
    limit
        Refuse frames that decode to more bytes, before allocating; ignored with `out`, whose size
        is the limit. None accepts any size.
    threads
        The most threads to use.
    salvage
        Return `Salvaged`: zeros for what depends on a damaged block, and which ranges those are.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError, LimitError
        What is wrong with the frame.
    ValueError
        `out` has another size or is read-only; or `dequantize` is False with `out` or `salvage`.

    """
    raw = buffers.encoded(frame)
    if not dequantize and (salvage or out is not None):
        message = "out and salvage are for dequantized values, not for dequantize=False"
        raise ValueError(message)
    header = quantframe.parse(raw, limit=limit if out is None else None)
    if out is not None:
        buffers.output(out, header.decoded_bytes)  # refuse it before the work, not after
    quantized, damage = read(raw, header, threads=threads, salvage=salvage)
    if not dequantize:
        return quantized
    if salvage:
        return salvaged(quantized, damage, out, threads=threads)
    return dequantize_quantized(quantized, out, threads=threads)


def read(
    raw: Bytes, header: Header, *, threads: int | None = None, salvage: bool = False
) -> tuple[Quantized, Damage]:
    """The arrays of a parsed container; when salvaging, without what damaged blocks hold."""
    arrays: dict[str, Any] = {}
    damage: Damage = {}
    for part, piece, _ in checked_parts(raw, header):
        decoded = codec.decode(piece, limit=None, threads=threads, salvage=salvage)
        if salvage:
            decoded, damage[part.name] = decoded
        arrays[part.name] = decoded
    return assemble(header, arrays, damage), damage


def assemble(header: Header, arrays: dict[str, Any], damage: Damage | None = None) -> Quantized:
    """The quantized tensor of decoded parts.

    Raises
    ------
    CorruptionError
        The positions of exceptions are not ascending, or not in the tensor.

    """
    values = arrays.get("values", np.empty(0, header.dtype.numpy))
    positions = np.empty(0, np.int64)
    if "positions" in arrays:
        steps = known_steps(arrays["positions"], damage or {})
        positions, values = _positions(steps, prod(header.shape)), values[: steps.size]
    return Quantized(
        header.config,
        header.dtype.name,
        header.shape,
        arrays["codes"],
        arrays["scales"],
        arrays.get("offsets"),
        header.tensor_scale,
        positions,
        values,
    )


def _positions(steps: Any, n: int, first: int = 0) -> Any:
    """int64: the element numbers that are stored as steps from element `first` on."""
    ends = np.cumsum(steps.astype(np.uint64) + np.uint64(1), dtype=np.uint64) + np.uint64(first)
    if ends.size and (ends[0] <= first or (ends[1:] <= ends[:-1]).any() or ends[-1] > n):
        raise bad_positions(n)
    return ends.astype(np.int64) - 1


def bad_positions(n: int) -> CorruptionError:
    """The error for positions of exceptions that leave a tensor of `n` elements, or go back."""
    return CorruptionError(f"positions of exceptions are not ascending and below {n}")


def checked_parts(raw: Bytes, header: Header) -> Iterator[tuple[Part, Bytes, Frame]]:
    """Each part, its bytes and its table, before it is decoded."""
    n_exceptions: dict[str, int] = {}
    for part in header.parts:
        piece = raw[part.start : part.stop]
        parsed = frames.parse(piece)
        check_part(part, parsed, prod(header.shape), n_exceptions)
        yield part, piece, parsed


def check_part(part: Part, parsed: Frame, n: int, n_exceptions: dict[str, int]) -> None:
    """Refuse a frame that is not what the header makes it, before it is decoded.

    `n` is the number of the tensor's elements. `n_exceptions` must be empty for the first part
    and the same for all, as there are as many values as positions.

    Raises
    ------
    CorruptionError
        It has another size, data type or shape.

    """
    if parsed.encoded_bytes != part.stop - part.start:
        message = (
            f"{part.name} have {part.stop - part.start} bytes, their frame {parsed.encoded_bytes}"
        )
        raise CorruptionError(message)
    shape = part.shape
    if shape is None:
        if len(parsed.shape) != 1 or not 0 < parsed.shape[0] <= n:
            message = f"{part.name} have shape {parsed.shape}, for {n} elements"
            raise CorruptionError(message)
        shape = (n_exceptions.setdefault("positions", parsed.shape[0]),)
    if (parsed.dtype.name, parsed.shape) != (part.dtype, shape):
        message = (
            f"{part.name} are {parsed.dtype.name} {parsed.shape}, "
            f"the header makes them {part.dtype} {shape}"
        )
        raise CorruptionError(message)


def inspect(frame: Any) -> QuantizedInfo:
    """What a container's header and the tables of its frames say; nothing is decoded."""
    raw = buffers.encoded(frame)
    header = quantframe.parse(raw)
    parts = {part.name: codec.describe(parsed) for part, _, parsed in checked_parts(raw, header)}
    n_exceptions = parts["values"].shape[0] if "values" in parts else 0
    return QuantizedInfo(
        header.config,
        header.dtype.name,
        header.shape,
        header.decoded_bytes,
        raw.size,
        n_exceptions,
        parts,
    )


def verify(frame: Any, *, threads: int | None = None) -> None:
    """Decode every frame in a container, check every hash, and keep nothing.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError
        What is wrong with it.

    """
    raw = buffers.encoded(frame)
    header = quantframe.parse(raw)
    n = prod(header.shape)
    for part, piece, parsed in checked_parts(raw, header):
        end = 0
        for decoded in codec.decoded_pieces(piece, threads=threads):
            if part.name == "positions":
                end = int(_positions(decoded.view(parsed.dtype.numpy), n, end)[-1]) + 1


def max_encoded_bytes(dtype: DType, shape: tuple[int, ...], config: QuantizeConfig) -> int:
    """The most bytes that the frame of a tensor can have: when every value is an exception.

    Raises
    ------
    UnsupportedError
        Not a float type.

    """
    require_float(dtype)
    return quantframe.max_encoded_bytes(config, dtype, shape)
