# SPDX-License-Identifier: Apache-2.0
"""The scale of a block: from its largest value to what is stored, and the factors that follow.

All in float32, each operation rounded once, so that every machine finds the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .floatspec import BFLOAT16, E4M3, FLOAT16
from .jit import kernel
from .lanes import INFINITY_BITS, Lanes
from .minifloat import decode_magnitude, encode_magnitude, narrowed, widened
from .quantspec import (
    BF16,
    CEIL,
    E4M3_LARGEST,
    E4M3_SCALE,
    E4M3_SMALLEST,
    E8M0,
    EVEN,
    F16,
    F32,
    FLOOR,
    INT4_ASYM,
    LOG8,
    LOG8_STEPS,
)
from .vector import load, store


def _scalar(result: Any, argument: Any, build: Any) -> Any:
    """A function of one number, from an expression over `Lanes` and its LLVM value."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(typing_context: Any, x: Any) -> Any:  # noqa: ARG001 - Numba passes it
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return build(Lanes(builder, arguments[0])).value

        return result(argument), generate

    return function


_U32, _F32 = types.uint32, types.float32
bits_of = _scalar(_U32, _F32, lambda x: x.bits())
float_of = _scalar(_F32, _U32, lambda x: x.floats())
to_bf16 = _scalar(_U32, _F32, lambda x: narrowed(x, BFLOAT16).resized(32))
to_f16 = _scalar(_U32, _F32, lambda x: narrowed(x, FLOAT16).resized(32))
of_bf16 = _scalar(_F32, _U32, lambda x: widened(x.resized(16), BFLOAT16))
of_f16 = _scalar(_F32, _U32, lambda x: widened(x.resized(16), FLOAT16))
to_e4m3 = _scalar(_U32, _F32, lambda x: encode_magnitude(x, E4M3))
of_e4m3 = _scalar(_F32, _U32, lambda x: decode_magnitude(x & 127, E4M3))


def _memory(bits: int) -> tuple[Any, Any]:
    """Read and write an integer of `bits` bits at an address; in registers it is a uint32."""
    kind = ir.IntType(bits)

    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any, address: Any) -> Any:  # noqa: ARG001 - Numba passes it
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return Lanes(builder, load(builder, arguments[0], kind)).resized(32).value

        return _U32(types.uint64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def write(typing_context: Any, address: Any, number: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            store(builder, Lanes(builder, arguments[1]).resized(bits).value, arguments[0])

        return types.void(types.uint64, _U32), generate

    return read, write


read8, write8 = _memory(8)
_read16, _write16 = _memory(16)
_read32, _write32 = _memory(32)


@kernel
def store_scale(address, index, scale_type, stored):  # type: ignore[no-untyped-def]
    """Write a stored scale (uint32) as item `index` (uint64) of the array at `address`."""
    if scale_type == F32:
        _write32(address + index * np.uint64(4), stored)
    elif scale_type >= E8M0:
        write8(address + index, stored)
    else:
        _write16(address + index * np.uint64(2), stored)


@kernel
def load_scale(address, index, scale_type):  # type: ignore[no-untyped-def]
    """Inverse of `store_scale`."""
    if scale_type == F32:
        return _read32(address + index * np.uint64(4))
    if scale_type >= E8M0:
        return read8(address + index)
    return _read16(address + index * np.uint64(2))


@kernel
def scale_value(stored, scale_type, tensor_scale):  # type: ignore[no-untyped-def]
    """The factor of decoding that a stored scale (uint32) means: float32."""
    if scale_type == F32:
        return float_of(stored)
    if scale_type == BF16:
        return of_bf16(stored)
    if scale_type == F16:
        return of_f16(stored)
    if scale_type == E8M0:
        return _power(stored)
    return tensor_scale * of_e4m3(stored)


@kernel
def _stored_real(x, scale_type):  # type: ignore[no-untyped-def]
    """A float32 in the type that scales are stored in."""
    if scale_type == BF16:
        return to_bf16(x)
    if scale_type == F16:
        return to_f16(x)
    return bits_of(x)


@kernel
def _power(exponent):  # type: ignore[no-untyped-def]
    """2^(exponent - 127); the smallest one is subnormal, 255 is NaN."""
    if exponent == np.uint32(0):
        return float_of(np.uint32(1 << 22))
    if exponent == np.uint32(255):
        return float_of(np.uint32(0x7FC00000))
    return float_of(exponent << np.uint32(23))


@kernel
def _e8m0(peak, mode, largest, power, mantissa):  # type: ignore[no-untyped-def]
    """The shared exponent for a largest magnitude `peak`, in the modes of OCP MX and NVIDIA."""
    pattern = np.int64(bits_of(peak))
    if mode == FLOOR:
        exponent = (pattern >> 23) - power
    elif mode == EVEN:  # floor, after `peak` is rounded to the format's mantissa
        exponent = ((pattern + (1 << (22 - mantissa))) >> 23) - power
    elif mode == CEIL:
        exponent = ((pattern + 0x7FFFFF) >> 23) - power
    else:  # the smallest power of two that takes `peak` without saturation
        quotient = np.int64(bits_of(peak / largest))
        exponent = (quotient + 0x7FFFFF) >> 23
        if quotient <= 1 << 22:
            exponent = np.int64(0)
    return np.uint32(min(max(exponent, 0), 254))


@kernel
def choose_scale(peak, scale_type, mode, largest, power, mantissa, divisor, tensor_scale):  # type: ignore[no-untyped-def]
    """(stored, factor of encoding, whether no factor will do), for a block's largest value.

    `peak` is a float32; for scales of real types it may be negative. If no factor will do, what
    is not zero must be kept as it is.
    """
    one, none = np.float32(1), np.float32(0)
    limit = float_of(np.uint32(INFINITY_BITS))
    if scale_type == E8M0:
        stored = _e8m0(peak, mode, largest, power, mantissa)
        return stored, _power(np.uint32(254) - stored), False
    if scale_type == E4M3_SCALE:
        target = np.float32(E4M3_SMALLEST)
        if tensor_scale > none:
            target = max(target, (peak / largest) / tensor_scale)
        stored = to_e4m3(min(target, np.float32(E4M3_LARGEST)))
        factor = (one / tensor_scale) / of_e4m3(stored)
        if factor < limit:
            return stored, factor, False
        return stored, none, peak != none
    stored = _stored_real(peak / divisor, scale_type)
    value = scale_value(stored, scale_type, one)
    if float_of(np.uint32(1 << 23)) <= abs(value) < limit:
        return stored, one / value, False
    return np.uint32(0), none, peak != none


@kernel
def extent_scale(least, most, scale_type, largest):  # type: ignore[no-untyped-def]
    """(stored scale, stored offset, factor and offset of encoding, whether none will do), for the
    bits of a block's smallest and largest value.
    """
    smallest, biggest = float_of(least) + np.float32(0), float_of(most)
    if smallest != smallest:  # noqa: PLR0124 - NaN: there are no finite values
        smallest = biggest = np.float32(0)
    stored, factor, keep = choose_scale(
        biggest - smallest, scale_type, 0, largest, 0, 0, largest, np.float32(1)
    )
    low = _stored_real(smallest, scale_type)
    offset = scale_value(low, scale_type, np.float32(1))
    if not abs(offset) < float_of(np.uint32(INFINITY_BITS)):
        return np.uint32(0), np.uint32(0), np.float32(0), np.float32(0), True
    return stored, low, factor, offset, keep


@kernel
def log8_scale(least, most):  # type: ignore[no-untyped-def]
    """(stored scale, stored offset, factor and offset of encoding), for the bits of a block's
    smallest and largest value above 0: both are stored as they are.
    """
    if not float_of(least) <= float_of(most):  # NaN: there are no values above 0
        least = most = np.uint32(0)
    factor = np.float32(0)
    if most > least:
        factor = np.float32(LOG8_STEPS) / np.float32(most - least)
    return most, least, factor, float_of(least)


@kernel
def decoding(element, stored, low, scale_type, tensor_scale):  # type: ignore[no-untyped-def]
    """(factor, offset) of decoding, for the stored scale and offset of a block."""
    offset = np.float32(0)
    if element == LOG8:  # distance of neighbouring codes, in units of the last place
        span = min(stored - low, np.uint32(INFINITY_BITS)) if low < stored else np.uint32(0)
        return np.float32(span) / np.float32(LOG8_STEPS), float_of(low)
    if element == INT4_ASYM:
        offset = scale_value(low, scale_type, tensor_scale)
    return scale_value(stored, scale_type, tensor_scale), offset
