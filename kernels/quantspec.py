# SPDX-License-Identifier: Apache-2.0
"""Every constant of the quantized container, written once; see `docs/format.md`."""

from __future__ import annotations

from typing import Final, NamedTuple

MAGIC: Final = b"gpcq"
VERSION: Final = 1
# magic, version, dtype code, n_dims, block_log, decoded_bytes, encoded_bytes, hash (as in a plain
# frame); format, scale type, scaling mode, rounding, bound kind, n_parts, axis, zero; seed, bound,
# tensor scale, zero
HEADER_FORMAT: Final = "<4sBBBBQQQBBBBBBBBQdfI"
HEADER_BYTES: Final = 64
MAX_PARTS: Final = 5  # codes, scales, offsets, positions, values
MIN_BLOCK_LOG: Final = 4
MAX_BLOCK_LOG: Final = 12
SCRATCH_BYTES: Final = 4 << MAX_BLOCK_LOG  # of the largest block of float32

# --- elements: what a code means -----------------------------------------------------------

INT8: Final = 0
INT4: Final = 1
INT4_ASYM: Final = 2
NF4: Final = 3
DYNAMIC8: Final = 4
E4M3: Final = 5
E5M2: Final = 6
E2M3: Final = 7
E3M2: Final = 8
E2M1: Final = 9
LOG8: Final = 10

# --- scales ----------------------------------------------------------------------------------

F32: Final = 0
BF16: Final = 1
F16: Final = 2
E8M0: Final = 3
E4M3_SCALE: Final = 4  # times a float32 for the whole tensor
SCALE_TYPES: Final = ("f32", "bf16", "f16", "e8m0", "e4m3")
SCALE_DTYPES: Final = ("float32", "bfloat16", "float16", "float8_e8m0fnu", "float8_e4m3fn")
E4M3_LARGEST: Final = 448.0
E4M3_SMALLEST: Final = 2.0**-6  # of a block scale: smaller ones lose their precision

FLOOR: Final = 0
EVEN: Final = 1
RCEIL: Final = 2
CEIL: Final = 3
SCALING_MODES: Final = ("floor", "even", "rceil", "ceil")

NEAREST: Final = 0
STOCHASTIC: Final = 1
ROUNDINGS: Final = ("nearest", "stochastic")

# --- error bounds -----------------------------------------------------------------------------

UNBOUNDED: Final = 0
ABS: Final = 1
REL: Final = 2
RANGE: Final = 3
BOUND_KINDS: Final = (None, "abs", "rel", "range")


class QuantSpec(NamedTuple):
    """One quantized format."""

    code: int
    name: str
    element: int
    bits: int  # of a code in memory
    largest: float  # magnitude that a block's largest value is scaled to
    power: int  # exponent of the largest power of two not above it
    mantissa: int  # bits of mantissa around it, for mode "even"
    block_size: int  # defaults
    scale_type: int
    scale_types: tuple[int, ...]  # allowed

    @property
    def has_offsets(self) -> bool:
        """Whether a block has a second parameter."""
        return self.element in {INT4_ASYM, LOG8}


_ANY: Final = (F32, BF16, F16, E8M0, E4M3_SCALE)

FORMATS: Final = (
    QuantSpec(1, "int8", INT8, 8, 127.0, 6, 6, 64, F32, _ANY),
    QuantSpec(2, "int4", INT4, 4, 7.0, 2, 2, 32, F32, _ANY),
    QuantSpec(3, "int4_asym", INT4_ASYM, 4, 15.0, 3, 3, 32, F32, (F32, BF16, F16)),
    QuantSpec(4, "nf4", NF4, 4, 1.0, 0, 0, 64, F32, _ANY),
    QuantSpec(5, "dynamic8", DYNAMIC8, 8, 1.0, 0, 0, 256, F32, _ANY),
    QuantSpec(6, "mxfp8_e4m3", E4M3, 8, 448.0, 8, 3, 32, E8M0, _ANY),
    QuantSpec(7, "mxfp8_e5m2", E5M2, 8, 57344.0, 15, 2, 32, E8M0, _ANY),
    QuantSpec(8, "mxfp6_e2m3", E2M3, 8, 7.5, 2, 3, 32, E8M0, _ANY),
    QuantSpec(9, "mxfp6_e3m2", E3M2, 8, 28.0, 4, 2, 32, E8M0, _ANY),
    QuantSpec(10, "mxfp4", E2M1, 4, 6.0, 2, 1, 32, E8M0, _ANY),
    QuantSpec(11, "nvfp4", E2M1, 4, 6.0, 2, 1, 16, E4M3_SCALE, (E4M3_SCALE,)),
    QuantSpec(12, "log8", LOG8, 8, 0.0, 0, 0, 256, F32, (F32,)),
)
BY_NAME: Final = {row.name: row for row in FORMATS}
BY_CODE: Final = {row.code: row for row in FORMATS}

INT4_DIVISOR: Final = -8.0  # of the value with the largest magnitude, unless scales have no sign
LOG8_STEPS: Final = 254  # codes 1 ... 255; 0 is zero
