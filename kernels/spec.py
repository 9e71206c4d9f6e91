# SPDX-License-Identifier: Apache-2.0
"""Every constant of the format, written once.

``docs/format.md`` explains them; nothing else in the tree repeats them. This module imports
only the standard library, so that reading a header needs neither NumPy nor Numba.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# --- frame header -------------------------------------------------------------------------

MAGIC: Final = b"gpcf"
VERSION: Final = 1
# magic, version, dtype code, n_dims, block_log, decoded_bytes, encoded_bytes, hash, flags, reserved
HEADER_FORMAT: Final = "<4sBBBBQQQII"
HEADER_BYTES: Final = 40
HASH_OFFSET: Final = 24
DECODED_BYTES_OFFSET: Final = 8
MAX_DIMS: Final = 64
STORED: Final = 1  # flag: the words as they are; no entries, no planes
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
DEFAULT_BLOCK_LOG: Final = (16, 16, 16, 15)  # by log2 of the word size: 64 ... 256 KiB a block

# --- block table entry: coder << 24 | argument ----------------------------------------------

ENTRY_CODER_SHIFT: Final = 24
ENTRY_ARGUMENT_MASK: Final = (1 << 24) - 1

RAW: Final = 0  # argument: payload bytes
CONSTANT: Final = 1  # argument: the symbol; no payload
RANS8: Final = 2  # argument: payload bytes; 8-bit probabilities, two symbols a renormalisation
RANS12: Final = 3  # argument: payload bytes; 12-bit probabilities, one symbol a renormalisation
LZ: Final = 9  # argument: payload bytes; the symbols as bytes, see lz_spec.py
LZ_WORDS: Final = 10  # argument: payload bytes; the block's words; the other planes are constant 0
CODER_NAMES: Final = {
    RAW: "raw",
    CONSTANT: "constant",
    RANS8: "rans8",
    RANS12: "rans12",
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
PATCH_BYTES: Final = 3  # u16 position, u8 symbol

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
LOG2_STEPS_LOG: Final = 8  # log2 of the steps of its table, between which it is linear

# --- checksum: XXH3-64, long inputs only --------------------------------------------------------

HASH_MIN_BYTES: Final = 256  # shorter inputs are padded with zeros, and all to a multiple of 64
HASH_STRIPE: Final = 64

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
)
