# SPDX-License-Identifier: Apache-2.0
"""Every number about float formats, written once: those of codes and those of arrays."""

from __future__ import annotations

from typing import Final, NamedTuple

FLOAT32: Final = 0  # types of arrays
BFLOAT16: Final = 1
FLOAT16: Final = 2

MANTISSA: Final = 23  # of float32
BIAS: Final = 127
SIGN: Final = 1 << 31
ROUND_TO_INTEGER: Final = 8388608.0  # 2^23: float32 has no fraction there
NOISE: Final = 65536  # stochastic rounding adds 16 random bits below the last place
NOISE_FACTORS: Final = (0x7FEB352D, 0x846CA68B)  # of the hash that makes them


class Minifloat(NamedTuple):
    """A float format: bits of exponent and mantissa, exponent bias, largest finite value."""

    exponent: int
    mantissa: int
    bias: int
    largest: float

    @property
    def sign_shift(self) -> int:
        """Where the sign bit of a code stands."""
        return self.exponent + self.mantissa

    @property
    def largest_power(self) -> int:
        """Exponent of the largest power of two."""
        return int(self.largest).bit_length() - 1

    @property
    def smallest_normal_bits(self) -> int:
        """The smallest normal number as float32."""
        return (BIAS + 1 - self.bias) << MANTISSA


E4M3: Final = Minifloat(4, 3, 7, 448.0)
E5M2: Final = Minifloat(5, 2, 15, 57344.0)
E2M3: Final = Minifloat(2, 3, 1, 7.5)
E3M2: Final = Minifloat(3, 2, 3, 28.0)
E2M1: Final = Minifloat(2, 1, 1, 6.0)
HALF: Final = Minifloat(5, 10, 15, 65504.0)
HALF_INFINITY: Final = 0x7C00
