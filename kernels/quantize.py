# SPDX-License-Identifier: Apache-2.0
"""Blockwise quantization of rows: one pass over each block, or two if a value needs care.

An array is `n_rows` rows; each row is cut into blocks, the last of which may be shorter. Codes
of a row start at a byte of their own. Memory is named by 64-bit addresses; the caller guarantees
that it is large enough.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from . import codebook
from .blockwise import (
    EXTENT,
    SIGNED,
    encode_units,
    first_sign,
    flag_units,
    scan,
    scan_of,
)
from .dequantize import decode_units
from .elements import HIGH_FIRST, NIBBLES, has_negative_zero
from .jit import SOURCES, entry_point, kernel
from .lanes import LANES
from .minifloat import n_bytes
from .quantspec import DYNAMIC8, E8M0, INT4, INT4_DIVISOR, SCRATCH_BYTES, STOCHASTIC
from .scales import (
    choose_scale,
    decoding,
    extent_scale,
    float_of,
    log8_scale,
    read8,
    store_scale,
    write8,
)
from .vector import copy_bytes

_U32, _U64, _I64, _F32 = types.uint32, types.uint64, types.int64, types.float32
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_LARGE = np.array([253 << 23, 253 << 23, 141 << 23], np.uint32)  # 2^126, 2^126 and 2^14 by dtype


@kernel
def _pad(source, target, n, size):  # type: ignore[no-untyped-def]
    """Copy `n` elements of `size` bytes and fill up the unit with the first one, which changes
    no extreme.
    """
    copy_bytes(target, source, n * size)
    for i in range(n, (n + LANES - 1) // LANES * LANES):
        copy_bytes(target + np.uint64(i * size), source, size)


@kernel
def _emit(codes, target, marks, flags, n, halved, mask):  # type: ignore[no-untyped-def]
    """Copy codes and flags of `n` elements out of scratch memory; how many flags are set."""
    size = (n + halved) >> halved
    copy_bytes(target, codes, size)
    if halved and n % 2 != 0:
        last = target + np.uint64(size - 1)
        write8(last, read8(last) & mask)
    count = 0
    for i in range(np.uint64(n)):
        if read8(marks + i) != 0:
            write8(flags + i, np.uint32(1))
            count += 1
    return count


def _quantizer(sources: int, element: int, dtype: int, rounding: int) -> Any:
    kind, signed_zero = scan_of(element), int(has_negative_zero(element))
    size, halved = n_bytes(dtype), int(element in NIBBLES)
    last_nibble = 0xF0 if element in HIGH_FIRST else 0x0F

    @entry_point(
        _I64(
            *(_U64, _I64, _I64, _I64, _U64, _U64, _U64, _U64),
            *(_I64, _I64, _F32, _I64, _I64, _F32),
            *(types.boolean, _F32, _F32, _U64, _U32, _U32, _U64, _U64, _U64),
        )
    )
    def quantize_rows(
        source,
        n_rows,
        row,
        block,
        codes,
        scales,
        offsets,
        flags,
        scale_type,
        mode,
        largest,
        power,
        mantissa,
        tensor_scale,
        bounded,
        absolute,
        relative,
        index,
        key,
        other_key,
        table,
        values_table,
        scratch,
    ):
        """Quantize rows of `row` elements in blocks of `block`; how many values were flagged.

        `source`, `codes`, `scales`, `offsets` and `flags` (a byte an element, all zero) are
        addresses; `index` is the number of the first element, for stochastic rounding. At
        `scratch` is room for four blocks of float32.
        """
        assert sources
        room = np.uint64(SCRATCH_BYTES)
        decoded, padded = scratch, scratch + room
        some_codes, some_flags = scratch + np.uint64(2) * room, scratch + np.uint64(3) * room
        n_blocks = (row + block - 1) // block
        row_bytes = (row + halved) >> halved
        count = 0
        for r in range(n_rows):
            for b in range(n_blocks):
                n = min(block, row - b * block)
                n_units = np.uint64((n + LANES - 1) // LANES)
                first = np.uint64(r * row + b * block)
                place = np.uint64(r * n_blocks + b)
                values = source + first * np.uint64(size)
                target = codes + np.uint64(r * row_bytes + (b * block >> halved))
                written, marks = target, flags + first
                short = n % LANES != 0
                if short:
                    _pad(values, padded, n, size)
                    values, written, marks = padded, some_codes, some_flags
                    for i in range(LANES * n_units):
                        write8(marks + i, np.uint32(0))
                least, most, odd = scan(kind, signed_zero, dtype, values, n_units)
                low, offset, keep = np.uint32(0), np.float32(0), False
                magnitude = max(least, most)
                if kind <= SIGNED:
                    peak, divisor = float_of(magnitude), largest
                    if element == INT4 and scale_type < E8M0:
                        divisor = np.float32(INT4_DIVISOR)
                        if most > least or (
                            most == least and first_sign(dtype, values, n_units, most) != 0
                        ):
                            peak = -peak
                    stored, factor, keep = choose_scale(
                        peak, scale_type, mode, largest, power, mantissa, divisor, tensor_scale
                    )
                elif kind == EXTENT:
                    magnitude = max(least & _MAGNITUDE, most & _MAGNITUDE)
                    stored, low, factor, offset, keep = extent_scale(
                        least, most, scale_type, largest
                    )
                else:
                    stored, low, factor, offset = log8_scale(least, most)
                    magnitude = stored
                store_scale(scales, place, scale_type, stored)
                if kind > SIGNED:
                    store_scale(offsets, place, scale_type, low)
                position = np.uint32(index + first)
                encode_units(
                    element,
                    dtype,
                    rounding,
                    values,
                    n_units,
                    written,
                    factor,
                    offset,
                    table,
                    position,
                    key,
                    other_key,
                )
                if odd != 0 or keep or bounded or magnitude >= _LARGE[dtype]:
                    factor, offset = decoding(element, stored, low, scale_type, tensor_scale)
                    decode_units(
                        element, dtype, written, n_units, decoded, factor, offset, values_table
                    )
                    kept = np.uint32(0xFFFFFFFF) if keep else np.uint32(0)
                    found = flag_units(
                        element, dtype, values, decoded, n_units, marks, kept, absolute, relative
                    )
                    count += 0 if short else np.int64(found)
                if short:
                    count += _emit(
                        written, target, marks, flags + first, n, halved, np.uint32(last_nibble)
                    )
        return count

    return quantize_rows


def _measurer(sources: int, dtype: int) -> Any:
    size = n_bytes(dtype)

    @entry_point(types.UniTuple(_F32, 3)(_U64, _I64, _U64))
    def measure(source, n, padded):
        """(smallest, largest, largest magnitude) of the finite ones of `n` elements; NaN, NaN and
        0 without any. At `padded` is room for a unit.
        """
        assert sources
        n_units = np.uint64(n // LANES)
        least, most, _ = scan(EXTENT, 1, dtype, source, n_units)
        rest = n % LANES
        low, high = float_of(least), float_of(most)
        if rest:
            _pad(source + np.uint64((n - rest) * size), padded, rest, size)
            least, most, _ = scan(EXTENT, 1, dtype, padded, np.uint64(1))
            a, z = float_of(least), float_of(most)
            if not low <= high:  # NaN: none of the units before has a finite value
                low, high = a, z
            elif a <= z:
                low, high = min(low, a), max(high, z)
        peak = max(abs(low), abs(high))
        return low, high, peak if peak >= 0 else np.float32(0)

    return measure


@cache
def quantizer(element: int, dtype: int, rounding: int) -> Any:
    """`quantize_rows` for a format, an array type and a rounding; compiled when first asked for."""
    return _quantizer(SOURCES, element, dtype, rounding)


@cache
def measurer(dtype: int) -> Any:
    """`measure` for an array type."""
    return _measurer(SOURCES, dtype)


def tables(element: int, rounding: int) -> tuple[int, int]:
    """Addresses of the codebooks for encoding and decoding; 0 for formats without one."""
    if element != DYNAMIC8:
        return 0, 0
    book = codebook.BELOW if rounding == STOCHASTIC else codebook.NEAREST
    return book.ctypes.data, codebook.DECODING.ctypes.data
