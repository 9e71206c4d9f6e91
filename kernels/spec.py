# SPDX-License-Identifier: Apache-2.0
"""Every constant of the format, written once.

``docs/format.md`` explains them; nothing else in the tree repeats them. This module imports
only the standard library, so that reading a header needs neither NumPy nor Numba.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

# --- frame header -------------------------------------------------------------------------

MAGIC: Final = b"gpcf"
VERSION: Final = 1
# magic, version, dtype code, n_dims, block_log, decoded_bytes, encoded_bytes, hash, flags,
# model_bytes
HEADER_FORMAT: Final = "<4sBBBBQQQII"
HEADER_BYTES: Final = 40
HASH_OFFSET: Final = 24
DECODED_BYTES_OFFSET: Final = 8
ENCODED_BYTES_OFFSET: Final = 16
MAX_DIMS: Final = 64
STORED: Final = 1  # flag: the words as they are; no entries, no planes, no other flags
SPARSE: Final = 2  # flag: two more entries a block, of its mask and its signs
PREDICTED: Final = 4  # flag: a model of rows and columns behind the table
ALIGNMENT: Final = 16  # of the first payload and of every one after it

# --- files: sections of frames, see docs/format.md "Files" -----------------------------------

FILE_MAGIC: Final = b"\x89gpcfile"  # starts a section; no text begins like this
FOOTER_MAGIC: Final = b"gpcfile\x89"  # ends a section
FILE_VERSION: Final = 1
# index_bytes, n_frames, decoded_bytes, encoded_bytes, index hash, hash, version, reserved, magic
FOOTER_FORMAT: Final = "<QQQQQQII8s"
FOOTER_BYTES: Final = 64
FOOTER_HASH_OFFSET: Final = 40

# --- blocks -------------------------------------------------------------------------------

ROW: Final = 64  # symbols of a row: 32 lanes, two neighbouring symbols each
LANES: Final = 32
MIN_BLOCK_LOG: Final = 6
MAX_BLOCK_LOG: Final = 16  # patch positions are 16 bits
MAX_SPARSE_BLOCK_LOG: Final = 17  # of frames in which few words of a block are left
DEFAULT_BLOCK_LOG: Final = (16, 16, 16, 15)  # by log2 of the word size: 64 ... 256 KiB a block

MAX_PLANES: Final = 9  # of a type

# --- block table entry: coder << 24 | argument ----------------------------------------------

ENTRY_CODER_SHIFT: Final = 24
ENTRY_ARGUMENT_MASK: Final = (1 << 24) - 1

RAW: Final = 0  # argument: payload bytes
CONSTANT: Final = 1  # argument: the symbol; no payload
RANS8: Final = 2  # argument: payload bytes; 8-bit probabilities, two symbols a renormalisation
RANS12: Final = 3  # argument: payload bytes; 12-bit probabilities, one symbol a renormalisation
PALETTE: Final = 4  # and up to PALETTE + PALETTE_MAX_BITS; argument: payload bytes
PALETTE_MAX_BITS: Final = 4  # of a code
LZ: Final = 9  # argument: payload bytes; the symbols as bytes, see lz_spec.py
LZ_WORDS: Final = 10  # argument: payload bytes; the block's words; the other planes are constant 0
CODER_NAMES: Final = {
    RAW: "raw",
    CONSTANT: "constant",
    RANS8: "rans8",
    RANS12: "rans12",
    **{PALETTE + bits: f"palette{bits}" for bits in range(PALETTE_MAX_BITS + 1)},
    LZ: "lz",
    LZ_WORDS: "lz_words",
}

# --- rANS ---------------------------------------------------------------------------------

RANS_HEADER_BYTES: Final = 8  # n_words u32, n_patches u16, n_symbols - 1 u8, zero u8
RANS_STATES_BYTES: Final = 4 * LANES
RANS_STATE_LOW: Final = 1 << 16  # states live in [2^16, 2^32)
RANS_WORD_BITS: Final = 16
RANS8_BITS: Final = 8  # two of them fit one 16-bit renormalisation
RANS8_MAX_SYMBOLS: Final = 32  # two 16-lane registers of encoder entries
RANS12_BITS: Final = 12
RANS12_MAX_SYMBOLS: Final = 256
RANS12_BITMAP_BYTES: Final = 32  # of its table: which symbols occur
PATCH_BYTES: Final = 3  # u16 position, u8 symbol; of palettes too

# --- words and planes -----------------------------------------------------------------------

PLAIN: Final = 0  # the word as it is
ROTATE: Final = 1  # floats: rotate left by one, so that the sign is the lowest bit
ZIGZAG: Final = 2  # signed integers: small magnitudes get small codes
ROTATE_BIAS: Final = 3  # float64: ROTATE, then add FLOAT64_BIAS modulo 2^64
FLOAT64_BIAS: Final = 128 << 53  # exponents of the float32 range then share their high 3 bits


class DTypeSpec(NamedTuple):
    """One data type of the format.

    ``planes`` are bit widths from the most significant end of the transformed word down; they
    sum to ``8 * word_bytes``.
    """

    code: int
    name: str
    word_bytes: int
    words: int  # words an element: 2 for complex numbers
    transform: int
    planes: tuple[int, ...]


DTYPES: Final = (
    DTypeSpec(1, "uint8", 1, 1, PLAIN, (8,)),
    DTypeSpec(2, "int8", 1, 1, PLAIN, (8,)),
    DTypeSpec(3, "uint16", 2, 1, PLAIN, (8,) * 2),
    DTypeSpec(4, "int16", 2, 1, ZIGZAG, (8,) * 2),
    DTypeSpec(5, "uint32", 4, 1, PLAIN, (8,) * 4),
    DTypeSpec(6, "int32", 4, 1, ZIGZAG, (8,) * 4),
    DTypeSpec(7, "uint64", 8, 1, PLAIN, (8,) * 8),
    DTypeSpec(8, "int64", 8, 1, ZIGZAG, (8,) * 8),
    DTypeSpec(9, "bool", 1, 1, PLAIN, (8,)),
    DTypeSpec(10, "float16", 2, 1, ROTATE, (8, 8)),
    DTypeSpec(11, "bfloat16", 2, 1, ROTATE, (8, 8)),
    DTypeSpec(12, "float32", 4, 1, ROTATE, (8,) * 4),
    DTypeSpec(13, "float64", 8, 1, ROTATE_BIAS, (3, 8, 5, 8, 8, 8, 8, 8, 8)),
    DTypeSpec(14, "float8_e4m3fn", 1, 1, PLAIN, (8,)),
    DTypeSpec(15, "float8_e5m2", 1, 1, PLAIN, (8,)),
    DTypeSpec(16, "complex64", 4, 2, ROTATE, (8,) * 4),
    DTypeSpec(17, "complex128", 8, 2, ROTATE_BIAS, (3, 8, 5, 8, 8, 8, 8, 8, 8)),
    DTypeSpec(18, "float8_e4m3fnuz", 1, 1, PLAIN, (8,)),
    DTypeSpec(19, "float8_e5m2fnuz", 1, 1, PLAIN, (8,)),
    DTypeSpec(20, "float8_e8m0fnu", 1, 1, PLAIN, (8,)),
)

# --- sparse frames --------------------------------------------------------------------------

MASK_BITS: Final = 4  # of a symbol of the mask: one word a bit
NOT_PACKED: Final = (
    CONSTANT << ENTRY_CODER_SHIFT | (1 << MASK_BITS) - 1,
    CONSTANT << ENTRY_CODER_SHIFT,
)
"""Entries of mask and signs of a block that is not packed."""

# --- predicted frames -----------------------------------------------------------------------

# n_columns, tile_rows, base, rank, then zeros
MODEL_FORMAT: Final = "<IIhB5x"
MODEL_BYTES: Final = 16  # without the frame of the offsets
OFFSET_LOG: Final = 6  # offsets count 2^-6 octaves
OFFSET_STEP_LOG: Final = 3  # rows and columns are stored in 2^3 of these
FACTOR_LOG: Final = 1  # the sum of products in 2^-1 of these
MAX_RANK: Final = 16
MIN_COLUMNS: Final = 32
MAX_COLUMNS: Final = 1 << 15


def n_offsets(n_rows: int, n_columns: int, tile_rows: int, rank: int) -> int:
    """Offsets of a model, one byte each: rows, columns of each tile, factors."""
    return n_rows + -(-n_rows // tile_rows) * n_columns + rank * (n_rows + n_columns)


class PredictedSpec(NamedTuple):
    """A type whose frames may have a model.

    ``middle`` is the offset of an undisturbed word: those have exponents in the middle of a
    quarter of all, whose two top bits agree.
    """

    mantissa_bits: int
    middle: int
    planes: tuple[int, ...]


PREDICTED_TYPES: Final = {
    "float16": PredictedSpec(10, 16 << OFFSET_LOG, (7, 8, 1)),
    "bfloat16": PredictedSpec(7, 96 << OFFSET_LOG, (2, 8, 5, 1)),
    "float32": PredictedSpec(23, 96 << OFFSET_LOG, (2, 8, 6, 8, 7, 1)),
}

# --- encoder's choices: they decide bytes, so every encoder makes them alike -------------------

SAMPLE_MIN_ROWS: Final = 256  # fewer full rows than this: the whole plane is the sample
PROBE_STRIDE: Final = 16  # first look: every 16th row
SAMPLE_STRIDE: Final = 8  # second look, if the first promises a gain: every 8th row
PROBE_MIN_GAIN_LOG: Final = 6  # go on if the probe promises 1/64 of the raw size
RARE_LOG: Final = 11  # a symbol rarer than 2^-RARE_LOG of the sample is patched, not coded
RARE_LOG_12: Final = 14  # the same for rans12
RANS12_MIN_GAIN_LOG: Final = 6  # rans12 is slower: it must save 1/64 of rans8's size
PATCH_RETRY_LOG: Final = 6  # a sampled table that patches over 1/64 is built again in full
LOG2_BITS: Final = 12  # fixed-point fraction of the size estimates
PROFILE_RATIO: Final = 0  # rANS, and palettes where they are smaller
PROFILE_FAST: Final = 1  # palettes
PROFILE_AUTO: Final = 2  # as ratio, and palettes where they are hardly larger
PROFILES: Final = ("ratio", "fast", "auto")
AUTO_LOSS_LOG: Final = 6  # auto gives 1/64 of a plane for the speed of a palette
SPARSE_MIN_WORDS: Final = 1 << 12  # smaller arrays are never sparse
SPARSE_PROBE_ROWS: Final = 32  # of the array: may it be sparse?
SPARSE_PROBE_LOG: Final = 6  # yes, if 1/64 of their words are zero
SPARSE_STRIDE: Final = 16  # of a block: every 16th row
SPARSE_LOG: Final = 5  # is tried packed, if 1/32 of their words are zero
SPARSE_SURE_LOG: Final = 3  # floats, 1/8 of whose words are zero, are packed without a contest
SPARSE_PARTS: Final = 8  # of the array: blocks of floats are twice as large if in each of them
SPARSE_LARGE_LOG: Final = 2  # at most 1/4 of the words is not zero
LZ_PROBE_WORDS: Final = 1024  # of a window: may LZ win?
LZ_PROBES: Final = 16  # windows at most
LZ_PROBE_DISTANCE_LOG: Final = 20  # log2 of the bytes for a further window
LZ_PROBE_RUN: Final = 2  # words of a run
LZ_PROBE_RUN_OF_BYTES: Final = 4  # if a word is a byte
LZ_PROBE_LOG: Final = 4  # yes, if 1/16 of the runs are not the first of their kind
LZ_PROBE_MULTIPLIER: Final = 0x9E3779B97F4A7C15
MODEL_MIN_WORDS: Final = 1 << 16  # smaller arrays have no model
MODEL_MIN_COLUMNS: Final = 64  # trailing dimensions are joined up to here
MODEL_MEASURED_BLOCKS: Final = 4  # coded with and without the model
LOG2_STEPS_LOG: Final = 8  # log2 of the steps of its table, between which it is linear


def log2_table() -> tuple[int, ...]:
    """`log2(1 + i / 256)` with LOG2_BITS bits of fraction, for i = 0 ... 256, by squaring."""
    precision = 48
    table = []
    for i in range(1 << LOG2_STEPS_LOG):
        x = ((1 << LOG2_STEPS_LOG) + i) << (precision - LOG2_STEPS_LOG)
        bits = 0
        for _ in range(LOG2_BITS):
            x = x * x >> precision
            bits <<= 1
            if x >> (precision + 1):
                x >>= 1
                bits |= 1
        table.append(bits)
    return (*table, 1 << LOG2_BITS)


# --- checksum: XXH3-64, long inputs only --------------------------------------------------------

HASH_MIN_BYTES: Final = 256  # shorter inputs are padded with zeros, and all to a multiple of 64
HASH_STRIPE: Final = 64
HASH_STRIPES: Final = 16  # after which the accumulators are scrambled
HASH_LAST_STRIPE: Final = 121  # offset into the secret of the key of the last stripe
HASH_MERGE: Final = 11  # the same of the keys that the accumulators are merged with
HASH_SECRET: Final = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1: Final = 0x9E3779B1
PRIME32_2: Final = 0x85EBCA77
PRIME32_3: Final = 0xC2B2AE3D
PRIME64_1: Final = 0x9E3779B185EBCA87
PRIME64_2: Final = 0xC2B2AE3D27D4EB4F
PRIME64_3: Final = 0x165667B19E3779F9
PRIME64_4: Final = 0x85EBCA77C2B2AE63
PRIME64_5: Final = 0x27D4EB2F165667C5
AVALANCHE: Final = 0x165667919E3779F9
HASH_START: Final = (
    *(PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1),
)

# --- status of a decoded block; device code reports these instead of raising ---------------------

OK: Final = 0
BAD_SIZE: Final = 1
BAD_TABLE: Final = 2
BAD_STATE: Final = 3
BAD_WORDS: Final = 4
BAD_PATCH: Final = 5
BAD_SYMBOL: Final = 6
BAD_PADDING: Final = 7
BAD_HASH: Final = 8
BAD_MASK: Final = 9
STATUS_TEXT: Final = (
    "sound",
    "payload size disagrees with its header",
    "table is not valid",
    "a lane's state is not valid",
    "words left over or missing",
    "patch list is not valid",
    "symbol wider than its plane",
    "padding is not zero",
    "hash of the decoded block differs from the stored one",
    "mask has bits beyond the block",
)


# --- the same for CUDA ------------------------------------------------------------------------------


def _words(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8))


def constants(names: dict[str, Any]) -> list[str]:
    """The whole numbers of a module as C++ constants."""
    lines = []
    for name, value in names.items():
        if name.isupper() and isinstance(value, int):
            kind, suffix = ("u32", "u") if value < 1 << 32 else ("u64", "ull")
            lines.append(f"constexpr {kind} {name} = {value}{suffix};")
    return lines


def table(declared: str, values: tuple[int, ...]) -> str:
    """Whole numbers as an array that CUDA kernels read."""
    numbers = ", ".join(f"{value}ull" for value in values)
    return f"__device__ const {declared}[{len(values)}] = {{{numbers}}};"


def prelude() -> str:
    """The numbers above as C++ constants, and the tables that the CUDA kernels read."""
    lines = [
        f"constexpr u32 MAGIC_WORD = {int.from_bytes(MAGIC, 'little')}u;",
        f"constexpr u32 NOT_PACKED_MASK = {NOT_PACKED[0]}u, NOT_PACKED_SIGNS = {NOT_PACKED[1]}u;",
    ]
    lines += constants(globals())
    last = HASH_SECRET[HASH_LAST_STRIPE : HASH_LAST_STRIPE + HASH_STRIPE]
    tables = {
        "u64 HASH_KEYS": _words(HASH_SECRET),
        "u64 HASH_LAST_KEYS": _words(last),
        "u64 HASH_MERGE_KEYS": _words(HASH_SECRET[HASH_MERGE : HASH_MERGE + HASH_STRIPE]),
        "u64 HASH_FIRST": HASH_START,
        "u16 LOG2": log2_table(),
    }
    lines += [table(declared, values) for declared, values in tables.items()]
    return "\n".join(lines) + "\n"
