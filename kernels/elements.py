# SPDX-License-Identifier: Apache-2.0
"""What the codes of each format mean: 16 float32 values to codes, and back.

Values may be infinite: they saturate. They must not be NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import codebook, floatspec, minifloat, quantspec as spec
from .floatspec import NOISE, SIGN
from .lanes import INFINITY_BITS, gathered
from .vector import I64, constant

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lanes import Lanes

MINIFLOATS = {
    spec.E4M3: floatspec.E4M3,
    spec.E5M2: floatspec.E5M2,
    spec.E2M3: floatspec.E2M3,
    spec.E3M2: floatspec.E3M2,
    spec.E2M1: floatspec.E2M1,
}
NIBBLES = {spec.INT4, spec.INT4_ASYM, spec.NF4, spec.E2M1}
HIGH_FIRST = {spec.NF4}  # the nibble of the even element is the high one, as in bitsandbytes


class Block(NamedTuple):
    """What the elements of a block share."""

    scale: Lanes
    """The factor of encoding, or that of decoding."""
    offset: Lanes
    """The second parameter."""
    noise: Lanes | None = None
    """16 random bits for each element, for stochastic rounding."""
    table: Any = None
    """Address of the codebook of dynamic8."""


def has_negative_zero(element: int) -> bool:
    """Whether codes tell -0 from +0."""
    return element in MINIFLOATS


def _fixed(y: Lanes, noise: Lanes) -> Lanes:
    """Signed integers from |y| < 2^15: up or down in proportion to the fraction."""
    return ((y * float(NOISE)).truncated() + noise).shift_signed(16)


def _passes(part: Lanes, whole: Lanes, noise: Lanes) -> Lanes:
    """1 with probability part / whole, which may be 0 / 0."""
    return (part * float(NOISE)).compare(">", noise.to_float() * whole).resized(32)


def _encode_int8(x: Lanes, block: Block) -> Lanes:
    y = (x * block.scale).at_least(-127.0).at_most(127.0)
    if block.noise is not None:
        return _fixed(y, block.noise) & 255
    halves = (y * 2.0).truncated()  # half away from zero, as in GGUF
    return (halves + 1 + halves.shift_signed(31)).shift_signed(1) & 255


def _decode_int8(code: Lanes, block: Block) -> Lanes:
    return (code << 24).shift_signed(24).to_float() * block.scale


def _encode_int4(x: Lanes, block: Block) -> Lanes:
    y = x * block.scale
    if block.noise is not None:
        return _fixed(y.at_least(-8.0).at_most(7.0), block.noise) + 8
    return (y + 8.5).at_least(0.0).at_most(15.0).truncated()


def _decode_int4(code: Lanes, block: Block) -> Lanes:
    return (code - 8).to_float() * block.scale + 0.0  # zero times a negative scale is -0


def _encode_int4_asym(x: Lanes, block: Block) -> Lanes:
    y = (x - block.offset) * block.scale
    if block.noise is not None:
        return _fixed(y.at_least(0.0).at_most(15.0), block.noise)
    return (y + 0.5).at_least(0.0).at_most(15.0).truncated()


def _decode_int4_asym(code: Lanes, block: Block) -> Lanes:
    return code.to_float() * block.scale + block.offset


def _nf4_value(code: Lanes) -> Lanes:
    """The codebook as a tree of selects: it stays in registers on every machine."""
    kind = code.floats()
    level = [kind.filled(float(value)) for value in codebook.NF4]
    for bit in range(4):
        high = (code & (1 << bit)).compare("!=", 0)
        level = [high.where(b, a) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _encode_nf4(x: Lanes, block: Block) -> Lanes:
    y = (x * block.scale).at_least(-1.0).at_most(1.0)
    code = x.bits().filled(0)
    if block.noise is None:
        for bound in codebook.NF4_BOUNDS:
            code += y.compare(">", float(bound)).resized(32)
        return code
    for value in codebook.NF4[1:]:
        code += y.compare(">=", float(value)).resized(32)
    low, high = _nf4_value(code), _nf4_value((code + 1).at_most(15))
    return code + _passes(y - low, high - low, block.noise)


def _decode_nf4(code: Lanes, block: Block) -> Lanes:
    return _nf4_value(code) * block.scale


def _encode_dynamic8(x: Lanes, block: Block) -> Lanes:
    y = (x * block.scale).at_least(-1.0).at_most(1.0)
    magnitude, negative = y.bits() & (SIGN - 1), y.bits() >> 31
    bucket = (magnitude >> codebook.BUCKET_SHIFT).at_least(codebook.BUCKET_FIRST)
    entry = gathered(x.builder, bucket - codebook.BUCKET_FIRST, block.table, 64)
    boundary, step = entry.resized(32), (entry >> 32).resized(32)
    if block.noise is None:  # a tie goes to the lower value
        step += (magnitude + negative).compare(">", boundary).resized(32)
    else:
        step += (magnitude + 1).compare(">", boundary).resized(32)
        values = x.builder.add(block.table, constant(I64, 8 * codebook.N_BUCKETS))
        low, high = (gathered(x.builder, step + i, values, 32).floats() for i in (0, 1))
        step += _passes(magnitude.floats() - low, high - low, block.noise)
    step = step.at_most(128 - negative)  # -1 is no entry
    below = codebook.ZERO_CODE - step
    return negative.compare("!=", 0).where(below, step + codebook.ZERO_CODE)


def _decode_dynamic8(code: Lanes, block: Block) -> Lanes:
    return gathered(code.builder, code, block.table, 32).floats() * block.scale


def _encode_log8(x: Lanes, block: Block) -> Lanes:
    pattern = x.bits()
    positive = (pattern - (1 << 23)).compare("<=", INFINITY_BITS - (1 << 23))
    above = pattern - block.offset.bits()
    y = positive.where(above, 0).to_float() * block.scale
    y = y.at_least(0.0).at_most(float(spec.LOG8_STEPS))
    step = (y + 0.5).truncated() if block.noise is None else _fixed(y, block.noise)
    return positive.where(step + 1, 0)


def _decode_log8(code: Lanes, block: Block) -> Lanes:
    above = ((code - 1).to_float() * block.scale).truncated()
    pattern = above + block.offset.bits()
    return code.compare("!=", 0).where(pattern, 0).floats()


def _encode_minifloat(element: int) -> Callable[[Lanes, Block], Lanes]:
    form = MINIFLOATS[element]
    return lambda x, block: minifloat.encode_signed(x * block.scale, x, form, block.noise)


def _decode_minifloat(element: int) -> Callable[[Lanes, Block], Lanes]:
    form = MINIFLOATS[element]
    return lambda code, block: minifloat.decode_signed(code, form) * block.scale


ENCODE: dict[int, Callable[[Lanes, Block], Lanes]] = {
    spec.INT8: _encode_int8,
    spec.INT4: _encode_int4,
    spec.INT4_ASYM: _encode_int4_asym,
    spec.NF4: _encode_nf4,
    spec.DYNAMIC8: _encode_dynamic8,
    spec.LOG8: _encode_log8,
    **{element: _encode_minifloat(element) for element in MINIFLOATS},
}
DECODE: dict[int, Callable[[Lanes, Block], Lanes]] = {
    spec.INT8: _decode_int8,
    spec.INT4: _decode_int4,
    spec.INT4_ASYM: _decode_int4_asym,
    spec.NF4: _decode_nf4,
    spec.DYNAMIC8: _decode_dynamic8,
    spec.LOG8: _decode_log8,
    **{element: _decode_minifloat(element) for element in MINIFLOATS},
}
