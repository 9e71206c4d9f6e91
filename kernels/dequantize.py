# SPDX-License-Identifier: Apache-2.0
"""From codes back to values: a block at a time, in units of 16 elements.

Memory is named by 64-bit addresses; the caller guarantees that it is large enough.
"""

# ruff: noqa: ARG001 - an intrinsic's arguments are types here; their values come to `generate`

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .blockwise import SIGNED, scan_of
from .elements import DECODE, HIGH_FIRST, NIBBLES, Block
from .jit import SOURCES, entry_point
from .lanes import LANES, Lanes, advanced, load_lanes, numbered, spread, store_lanes
from .lookups import HAS_LOOKUP256, WIDE, lookup16, lookup256, table256
from .minifloat import n_bytes, narrowed
from .quantspec import DYNAMIC8, SCRATCH_BYTES
from .scales import decoding, load_scale
from .vector import I64, constant, copy_bytes, loop

if TYPE_CHECKING:
    from collections.abc import Callable

_U64, _I64, _F32 = types.uint64, types.int64, types.float32


def _load_codes(builder: Any, source: Any, unit: Any, element: int) -> Lanes:
    if element not in NIBBLES:
        return load_lanes(builder, advanced(builder, source, unit, LANES), 8).resized(32)
    half = LANES // 2
    pair = load_lanes(builder, advanced(builder, source, unit, half), 8, half)
    twice = pair.shuffled(pair, [lane // 2 for lane in range(LANES)]).resized(32)
    shifts = [4, 0] if element in HIGH_FIRST else [0, 4]
    return (twice >> twice.listed(shifts * half)) & 15


def _decoder(builder: Any, element: int, dtype: int, block: Block) -> Callable[[Lanes], Lanes]:
    """From 16 codes to elements of the array. Of four-bit codes all are decoded once for the block."""

    def decode(code: Lanes) -> Lanes:
        return narrowed(DECODE[element](code, block), dtype)

    if element not in NIBBLES:
        return decode
    table = decode(numbered(builder)).resized(32)
    return lambda code: lookup16(table, code).resized(8 * n_bytes(dtype))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def decode_units(
    typing_context: Any,
    element: Any,
    dtype: Any,
    codes: Any,
    n_units: Any,
    out: Any,
    factor: Any,
    offset: Any,
    table: Any,
) -> Any:
    """Values of a block's codes, rounded to the array's type."""
    form, number = element.literal_value, dtype.literal_value
    size = LANES * n_bytes(number)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
        *_, source, count, target, scale, low, book = arguments
        block = Block(spread(builder, scale), spread(builder, low), None, book)
        decode = _decoder(builder, form, number, block)
        done = constant(I64, 0)

        def unit(i: Any, _state: Any) -> list[Any]:
            i = builder.add(done, i)
            values = decode(_load_codes(builder, source, i, form))
            store_lanes(values, advanced(builder, target, i, size))
            return []

        if form == DYNAMIC8 and HAS_LOOKUP256:
            entries = table256(builder, builder.add(book, constant(I64, 4 * 256)))

            def units(i: Any, _state: Any) -> list[Any]:
                group = load_lanes(
                    builder, advanced(builder, source, i, WIDE * LANES), 8, WIDE * LANES
                )
                place = advanced(builder, target, i, WIDE * size)
                for item in lookup256(entries, group):
                    store_lanes(narrowed(item.floats() * block.scale, number), place)
                    place = builder.add(place, constant(I64, size))
                return []

            n_groups = builder.udiv(count, constant(I64, WIDE))
            loop(builder, n_groups, [], units)
            done = builder.mul(n_groups, constant(I64, WIDE))
        loop(builder, builder.sub(count, done), [], unit)

    return types.void(element, dtype, _U64, _U64, _U64, _F32, _F32, _U64), generate


def _dequantizer(sources: int, element: int, dtype: int) -> Any:
    size, halved = n_bytes(dtype), int(element in NIBBLES)
    has_offsets = scan_of(element) > SIGNED

    @entry_point(types.void(*(_U64, _I64, _I64, _I64, _U64, _U64, _U64), *(_I64, _F32, _U64, _U64)))
    def dequantize_rows(
        codes, n_rows, row, block, scales, offsets, out, scale_type, tensor_scale, table, scratch
    ):
        """Inverse of `quantize_rows`, but for the flagged values. At `scratch` is room for two
        blocks of float32.
        """
        assert sources
        some_codes, decoded = scratch, scratch + np.uint64(SCRATCH_BYTES)
        n_blocks = (row + block - 1) // block
        row_bytes = (row + halved) >> halved
        for r in range(n_rows):
            for b in range(n_blocks):
                n = min(block, row - b * block)
                n_units = np.uint64((n + LANES - 1) // LANES)
                place = np.uint64(r * n_blocks + b)
                source = codes + np.uint64(r * row_bytes + (b * block >> halved))
                values = out + np.uint64((r * row + b * block) * size)
                target = values
                short = n % LANES != 0
                if short:
                    copy_bytes(some_codes, source, (n + halved) >> halved)
                    source, target = some_codes, decoded
                stored, low = load_scale(scales, place, scale_type), np.uint32(0)
                if has_offsets:
                    low = load_scale(offsets, place, scale_type)
                factor, offset = decoding(element, stored, low, scale_type, tensor_scale)
                decode_units(element, dtype, source, n_units, target, factor, offset, table)
                if short:
                    copy_bytes(values, decoded, n * size)

    return dequantize_rows


@cache
def dequantizer(element: int, dtype: int) -> Any:
    """`dequantize_rows` for a format and an array type; compiled when first asked for."""
    return _dequantizer(SOURCES, element, dtype)
