# SPDX-License-Identifier: Apache-2.0
"""Small floats of any split into exponent and mantissa, and the narrow types of arrays.

Encoding and decoding need no case for subnormals on the way in and one select on the way out:
with `e` the exponent of |y|, at least that of the smallest normal number, |y| in units of the
last place is |y| 2^(mantissa - e). Rounded to an integer and added to the code of `e`, the carry
into the exponent comes by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .floatspec import (
    BFLOAT16,
    BIAS,
    FLOAT16,
    FLOAT32,
    HALF,
    HALF_INFINITY,
    MANTISSA,
    NOISE,
    ROUND_TO_INTEGER,
    SIGN,
)
from .lanes import INFINITY_BITS

if TYPE_CHECKING:
    from .floatspec import Minifloat
    from .lanes import Lanes


def encode_magnitude(y: Lanes, form: Minifloat, noise: Lanes | None = None) -> Lanes:
    """The code of float32 `y` >= 0, without a sign; beyond the largest value it runs on.

    Nearest, ties to even; or with `noise`, 16 random bits, up or down in proportion.
    """
    lowest = form.smallest_normal_bits >> MANTISSA
    exponent = (y.bits() >> MANTISSA).at_least(lowest)
    unit = ((2 * BIAS + form.mantissa - exponent) << MANTISSA).floats()
    scaled = y * unit
    if noise is None:
        steps = (scaled + ROUND_TO_INTEGER).bits() - (BIAS + MANTISSA << MANTISSA)
    else:
        steps = ((scaled * float(NOISE)).truncated() + noise) >> 16
    return ((exponent - lowest) << form.mantissa) + steps


def decode_magnitude(code: Lanes, form: Minifloat) -> Lanes:
    """Float32 of a code without a sign."""
    normal = (code << (MANTISSA - form.mantissa)) + ((BIAS - form.bias) << MANTISSA)
    subnormal = (normal + (1 << MANTISSA)).floats() - 2.0 ** (1 - form.bias)
    return code.compare("<", 1 << form.mantissa).where(subnormal, normal.floats())


def encode_signed(y: Lanes, x: Lanes, form: Minifloat, noise: Lanes | None = None) -> Lanes:
    """The code of float32 `y` with the sign of `x`; what is too large, or NaN, becomes the largest.

    `y` is `x` scaled: where that is NaN (infinity times 0), its sign is not the same everywhere.
    """
    magnitude = (y.bits() & (SIGN - 1)).floats().at_most(form.largest)
    sign = x.bits() >> 31 << form.sign_shift
    return encode_magnitude(magnitude, form, noise) | sign


def decode_signed(code: Lanes, form: Minifloat) -> Lanes:
    """Float32 of a code with a sign. Every code is a number, also what others read as NaN."""
    sign = code >> form.sign_shift << 31
    magnitude = decode_magnitude(code & ((1 << form.sign_shift) - 1), form)
    return (magnitude.bits() | sign).floats()


def n_bytes(dtype: int) -> int:
    """Bytes of an element of an array type."""
    return 4 if dtype == FLOAT32 else 2


def widened(pattern: Lanes, dtype: int) -> Lanes:
    """Elements of an array type, 32 or 16 bits wide, as float32."""
    if dtype == FLOAT32:
        return pattern.floats()
    pattern = pattern.resized(32)
    if dtype == BFLOAT16:
        return (pattern << 16).floats()
    magnitude = pattern & 0x7FFF
    special = magnitude.compare(">=", HALF_INFINITY)
    infinite = (magnitude << (MANTISSA - HALF.mantissa)) | INFINITY_BITS
    finite = decode_magnitude(magnitude, HALF).bits()
    return (special.where(infinite, finite) | (pattern >> 15 << 31)).floats()


def narrowed(y: Lanes, dtype: int) -> Lanes:
    """Float32 as the pattern of an array type: nearest, ties to even, too large is infinite."""
    pattern = y.bits()
    if dtype == FLOAT32:
        return pattern
    broken = y.compare("!=", y)
    if dtype == BFLOAT16:
        rounded = (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16
        return broken.where(0x7FC0, rounded).resized(16)
    magnitude = encode_magnitude((pattern & (SIGN - 1)).floats(), HALF).at_most(HALF_INFINITY)
    return broken.where(0x7E00, magnitude | (pattern >> 31 << 15)).resized(16)


def smallest_normal(dtype: int) -> int:
    """The smallest normal number of an array type as a float32 pattern."""
    return HALF.smallest_normal_bits if dtype == FLOAT16 else 1 << MANTISSA
