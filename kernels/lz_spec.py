# SPDX-License-Identifier: Apache-2.0
"""Every constant of LZ payloads, written once; `docs/format.md` explains them.

Like `spec.py` it imports only the standard library.
"""

from __future__ import annotations

from typing import Final

from .spec import LANES

# --- payload ----------------------------------------------------------------------------------

MAX_WORDS: Final = 1 << 16  # of a block
MAX_WORD_BYTES: Final = 8
# check u32, flags u8, modes u24, n_sequences u16, n_literals u16, n_words u32
HEADER_BYTES: Final = 16
FLAGS_AT: Final = 4
MODES_AT: Final = 5
SEQUENCES_AT: Final = 8
LITERALS_AT: Final = 10
WORDS_AT: Final = 12
ROTATED: Final = 4  # flags; below them log2 of the word size
FILLED: Final = 8
ODD_SHIFT: Final = 4
NARROWED_SHIFT: Final = 30  # in the u32 that starts with the flags: log2 of full by coded word size
RAW_STREAM, CONSTANT_STREAM, CODED_STREAM = 0, 1, 2  # how a stream is stored
MAX_CODE: Final = 59  # of 65,535
FILL_CODE, REPEAT_CODE, DISTANCE_CODE = 0, 1, 2
RIDERS: Final = 2 * LANES  # bytes of the extras that ride in the states' spare bits
EXTRA_BYTES: Final = 5  # at most 13 bits for each of a sequence's three numbers
MAX_DEPTH: Final = 64  # copies between a word and a literal: six rounds of pointer jumping
RAW_OVERHEAD: Final = (
    HEADER_BYTES + 3
)  # of literals alone, raw: the sequences' streams are constant

# --- encoder's choices: they decide bytes, so every encoder makes them alike ----------------------

# search and parse, see lz_match.py
HASH_MULTIPLIER: Final = 0x9E35
HASH_BITS: Final = 14
WAYS: Final = 4  # candidates of a word
LOOKED_AT: Final = ((3, 2, 2), (4, 4, 4))  # by level: candidates tried of the words of a window
WINDOW: Final = 3
GROUP: Final = 32
LEAST: Final = (
    6,
    3,
    2,
)  # words of a match, by their cost as literals: below 6, below 12 bits, more
LEAST_BITS: Final = (6, 12)
LEAST_OF_8: Final = 4  # instead of 6, as lengths are compared up to 32 bytes
FILL_LEAST: Final = (4, 4, 4, 8)  # bytes, by log2 of the word size

# what comes before and around the parse, see lz_choose.py
SAMPLE_ROWS: Final = 64
SAMPLE_ROW: Final = 16
SAMPLE: Final = SAMPLE_ROWS * SAMPLE_ROW
SPREAD: Final = 40503  # 2^16 over the golden ratio
TRIED: Final = 256
WORTH_BITS: Final = 24  # about what a match costs
NEAR: Final = 8  # groups of 32 words
PLANES_GAIN_LOG: Final = 3  # words that save an eighth by LZ as a whole are not tried by planes
UNIFORM: Final = 250  # symbols that collide no more often than this many equal ones are not coded
