# SPDX-License-Identifier: Apache-2.0
"""The constants by which an encoder looks for models; `predictor_fit.py` explains them.

They decide bytes. Like `spec.py` this imports only the standard library.
"""

from __future__ import annotations

from typing import Final

from .spec import LOG2_BITS, OFFSET_LOG, constants, table

CLIP: Final = 1023  # 1/64 octaves; the energy of MAX_COLUMNS of them fits the lanes of a sum
PROBE_ROWS: Final = 16
PROBE_COLUMNS: Final = 64
GROUP: Final = 32  # the smallest tile: sums are kept for these
TILES: Final = (256, 128, 64, 32)
COLUMN_COST: Final = 6 << LOG2_BITS
FACTOR_COST: Final = 5 << LOG2_BITS
SAMPLE_ROWS: Final = 256
ITERATIONS: Final = 3
LEVELS: Final = 127  # of the coefficients of a factor
FACTOR_LEVELS: Final = 15  # of the factor itself, at last
CHECK_ROWS: Final = 64
MIN_GAIN: Final = 1 << (LOG2_BITS - 4)  # bits a word
QUARTER_LOG: Final = OFFSET_LOG - 2


def prelude() -> str:
    """The numbers above as C++, in a namespace, as their names are short."""
    return "\n".join(
        ["namespace fitting {", *constants(globals()), table("u32 TILES", TILES), "}\n"]
    )
