# SPDX-License-Identifier: Apache-2.0
"""The steps of encoding a block as intrinsics over units of 16 elements.

Addresses are 64-bit integers. `element` and `dtype` are literals: each pair is code of its own.
A unit is always read and written whole, so the last one of a row goes through scratch memory.
"""

# ruff: noqa: ARG001 - an intrinsic's arguments are types here; their values come to `generate`

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import quantspec as spec
from .elements import ENCODE, HIGH_FIRST, NIBBLES, Block
from .floatspec import NOISE_FACTORS, SIGN
from .lanes import (
    INFINITY_BITS,
    LANES,
    Lanes,
    advanced,
    load_lanes,
    numbered,
    spread,
    store_lanes,
)
from .minifloat import n_bytes, smallest_normal, widened
from .vector import I64, constant, loop

ABSOLUTE = 0  # 0 and the largest magnitude
SIGNED = 1  # largest magnitudes of the positive and of the negative values
EXTENT = 2  # smallest and largest value
POSITIVE = 3  # smallest and largest value above 0

_U32, _U64, _F32 = types.uint32, types.uint64, types.float32


def scan_of(element: int) -> int:
    """What the scale of a format is made from."""
    if element == spec.INT4_ASYM:
        return EXTENT
    if element == spec.INT4:
        return SIGNED
    return POSITIVE if element == spec.LOG8 else ABSOLUTE


def _load(builder: Any, address: Any, unit: Any, dtype: int) -> Lanes:
    """Unit number `unit` of an array as float32."""
    size = n_bytes(dtype)
    where = advanced(builder, address, unit, LANES * size)
    return widened(load_lanes(builder, where, 8 * size), dtype)


def _special(x: Lanes, dtype: int) -> tuple[Lanes, Lanes, Lanes]:
    """Magnitude bits; lanes that are finite; lanes that are zero or normal in their own type."""
    magnitude = x.bits() & (SIGN - 1)
    normal = smallest_normal(dtype)
    finite = magnitude.compare("<", INFINITY_BITS)
    ordinary = (magnitude - normal).compare("<", INFINITY_BITS - normal)
    return magnitude, finite, ordinary | magnitude.compare("==", 0)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def scan(
    typing_context: Any, kind: Any, signed_zero: Any, dtype: Any, source: Any, n_units: Any
) -> Any:
    """Two extremes of the finite values as float32 bits, and whether a value needs a closer look.

    That is one which is not finite, subnormal, -0 unless `signed_zero`, below 0 for POSITIVE, or
    0 for EXTENT. Without values the extremes are 0 and 0 (EXTENT, POSITIVE: NaN and NaN).
    """
    wanted, number = kind.literal_value, dtype.literal_value
    keeps_zero = bool(signed_zero.literal_value)
    result = types.UniTuple(_U32, 3)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *_, address, count = arguments
        zero = Lanes(builder, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

        def unit(i: Any, state: Any) -> list[Any]:
            low, high, odd = (Lanes(builder, value) for value in state)
            x = _load(builder, address, i, number)
            pattern = x.bits()
            magnitude, finite, plain = _special(x, number)
            negative = pattern.compare(">=", SIGN)
            if wanted <= SIGNED:
                value = finite.where(magnitude, 0)
                if wanted == SIGNED:
                    low = _larger(low, negative.where(0, value))
                    value = negative.where(value, 0)
                high = _larger(high, value)
                if not keeps_zero:
                    plain &= pattern.compare("!=", SIGN)
            else:
                # A float's order as an unsigned integer: flip all bits, or the sign alone.
                order = pattern ^ (pattern.shift_signed(31) | SIGN)
                if wanted == POSITIVE:
                    finite &= (pattern - (1 << 23)).compare("<", INFINITY_BITS - (1 << 23))
                    plain &= ~negative
                else:
                    plain &= magnitude.compare("!=", 0)
                low = _smaller(low, finite.where(order, 0xFFFFFFFF))
                high = _larger(high, finite.where(order, 0))
            return [low.value, high.value, (odd | ~plain).value]

        low = zero if wanted <= SIGNED else ~zero
        start = [low.value, zero.value, zero.compare("!=", 0).value]
        low, high, odd = (Lanes(builder, value) for value in loop(builder, count, start, unit))
        most = high.reduced("umax")
        least = most.filled(0)
        if wanted != ABSOLUTE:
            least = low.reduced("umax" if wanted == SIGNED else "umin")
        if wanted > SIGNED:
            least, most = (_unordered(bound) for bound in (least, most))
        marks = Lanes(builder, builder.bitcast(odd.value, ir.IntType(LANES))).resized(32)
        return context.make_tuple(builder, result, [least.value, most.value, marks.value])

    return result(kind, signed_zero, dtype, _U64, _U64), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def first_sign(typing_context: Any, dtype: Any, source: Any, n_units: Any, peak: Any) -> Any:
    """1 if the first value whose magnitude has the bits `peak` is negative, else 0."""
    number = dtype.literal_value

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *_, address, count, magnitude = arguments
        wanted = spread(builder, magnitude)
        twice = ir.Constant(wanted.value.type, list(range(0, 2 * LANES, 2)))

        def unit(i: Any, state: Any) -> list[Any]:
            pattern = _load(builder, address, i, number).bits()
            place = wanted.new(twice) + (spread(builder, builder.trunc(i, ir.IntType(32))) << 5)
            found = (pattern & (SIGN - 1)).compare("==", wanted)
            place = found.where(place | pattern >> 31, 0xFFFFFFFF)
            return [_smaller(wanted.new(state[0]), place).value]

        [least] = loop(builder, count, [wanted.filled(0xFFFFFFFF).value], unit)
        return (Lanes(builder, least).reduced("umin") & 1).value

    return _U32(dtype, _U64, _U64, _U32), generate


def _larger(a: Lanes, b: Lanes) -> Lanes:
    return a.compare(">", b).where(a, b)


def _smaller(a: Lanes, b: Lanes) -> Lanes:
    return a.compare("<", b).where(a, b)


def _unordered(order: Lanes) -> Lanes:
    """Back from the order of floats to their bits."""
    return order ^ ((~order).shift_signed(31) | SIGN)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def encode_units(
    typing_context: Any,
    element: Any,
    dtype: Any,
    rounding: Any,
    source: Any,
    n_units: Any,
    codes: Any,
    factor: Any,
    offset: Any,
    table: Any,
    index: Any,
    key: Any,
    other_key: Any,
) -> Any:
    """Codes of a block. `index` is the first element's number, for the random bits."""
    form, number = element.literal_value, dtype.literal_value
    stochastic = rounding.literal_value == spec.STOCHASTIC

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
        *_, address, count, target, scale, low, book, position, key, other = arguments
        shared = Block(spread(builder, scale), spread(builder, low), None, book)
        lane = numbered(builder)
        keys = spread(builder, key), spread(builder, other)
        first = spread(builder, position) + lane

        def unit(i: Any, _state: Any) -> list[Any]:
            x = _load(builder, address, i, number)
            if form != spec.LOG8:
                x = x.compare("!=", x).where(0.0, x)
            block = shared
            if stochastic:
                here = first + (spread(builder, builder.trunc(i, ir.IntType(32))) << 4)
                block = shared._replace(noise=noise(here, *keys))
            _store_codes(builder, ENCODE[form](x, block), target, i, form)
            return []

        loop(builder, count, [], unit)

    signature = types.void(
        element, dtype, rounding, _U64, _U64, _U64, _F32, _F32, _U64, _U32, _U32, _U32
    )
    return signature, generate


def noise(index: Lanes, key: Lanes, other_key: Lanes) -> Lanes:
    """16 random bits for each element number: a hash that is the same wherever it is computed."""
    x = index + key
    x = (x ^ x >> 16) * NOISE_FACTORS[0]
    x = (x ^ x >> 15 ^ other_key) * NOISE_FACTORS[1]
    return (x ^ x >> 16) >> 16


def _store_codes(builder: Any, code: Lanes, target: Any, unit: Any, element: int) -> None:
    if element not in NIBBLES:
        store_lanes(code.resized(8), advanced(builder, target, unit, LANES))
        return
    even, odd = (code.shuffled(code, list(range(i, LANES, 2))) for i in (0, 1))
    low, high = (odd, even) if element in HIGH_FIRST else (even, odd)
    store_lanes((low | high << 4).resized(8), advanced(builder, target, unit, LANES // 2))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def flag_units(
    typing_context: Any,
    element: Any,
    dtype: Any,
    source: Any,
    decoded: Any,
    n_units: Any,
    flags: Any,
    keep: Any,
    absolute: Any,
    relative: Any,
) -> Any:
    """Set a byte in `flags` for each value that must be kept as it is; how many there are.

    Those are values that are not finite, subnormal in their own type, zero but not decoded as
    that zero, decoded to what is not finite, below 0 in log8, not zero where `keep` is all ones,
    or outside their bound: the error must be 0 or less than `absolute` or than `relative` times
    the magnitude, whichever is larger.
    """
    form, number = element.literal_value, dtype.literal_value

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *_, address, other, count, target, all_ones, limit, share = arguments
        kept, allowed, slope = (spread(builder, value) for value in (all_ones, limit, share))

        def unit(i: Any, state: Any) -> list[Any]:
            x, y = (_load(builder, where, i, number) for where in (address, other))
            magnitude, _, plain = _special(x, number)
            pattern, decoded = x.bits(), y.bits()
            zero = magnitude.compare("==", 0)
            bad = ~plain | (zero & pattern.compare("!=", decoded))
            bad |= (decoded & (SIGN - 1)).compare(">=", INFINITY_BITS)
            bad |= (magnitude & kept).compare("!=", 0)
            if form == spec.LOG8:
                bad |= pattern.compare(">=", SIGN)
            error = ((x - y).bits() & (SIGN - 1)).floats()
            scaled = slope * magnitude.floats()  # exact enough only if it is normal
            bound = scaled.compare(">=", 2.0**-126).where(scaled, 0.0).at_least(allowed)
            bad |= ~(error.compare("<", bound) | error.compare("==", 0.0))
            number_bad = bad.counted()
            with builder.if_then(builder.icmp_unsigned("!=", number_bad.value, constant(I64, 0))):
                store_lanes(bad.resized(8), advanced(builder, target, i, LANES))
            return [builder.add(state[0], number_bad.value)]

        return loop(builder, count, [constant(I64, 0)], unit)[0]

    signature = types.uint64(element, dtype, _U64, _U64, _U64, _U64, _U32, _F32, _F32)
    return signature, generate
