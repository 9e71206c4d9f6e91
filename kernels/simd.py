# SPDX-License-Identifier: Apache-2.0
"""Binds the row kernels to the processor that Numba compiles for.

The level follows the features that Numba hands to LLVM, which are part of its cache's key:
``NUMBA_CPU_NAME=generic`` gives the plain path on any machine. All levels write the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import config

from . import rows_plain
from .arrays import stack_array
from .jit import kernel
from .rows import ARGUMENTS, decoder, encoder

AVX512 = {"+avx512f", "+avx512bw", "+avx512vl", "+avx512vbmi", "+avx512vbmi2"}
AVX2 = {"+avx2", "+popcnt"}


def _features() -> set[str]:
    named = config.CPU_FEATURES
    return set((get_host_cpu_features().flatten() if named is None else named).split(","))


rows8: Any = rows_plain
rows12: Any = rows_plain
tables12: Any = rows_plain
LEVEL = "plain"
if _features() >= AVX512:
    from . import (
        rows_rans8_avx512 as rows8,
        rows_rans12_avx512 as rows12,
        rows_rans12_tables as tables12,
    )

    LEVEL = "avx512"
elif _features() >= AVX2:
    from . import (
        rows_rans8_avx2 as rows8,
        rows_rans12_avx2 as rows12,
        rows_rans12_tables as tables12,
    )

    LEVEL = "avx2"

DECODE_TABLE_BYTES = max(rows8.DECODE8_TABLE_BYTES, tables12.DECODE12_TABLE_BYTES)
ENCODE_TABLE_BYTES = max(rows8.ENCODE8_TABLE_BYTES, tables12.ENCODE12_TABLE_BYTES)

decode_table8, encode_table8 = rows8.decode_table8, rows8.encode_table8
decode_table12, encode_table12 = tables12.decode_table12, tables12.encode_table12

_decode8, _encode8 = decoder(rows8.Machine8, 1), encoder(rows8.Machine8)
_decode12, _encode12 = decoder(rows12.Machine12, 1), encoder(rows12.Machine12)

_arguments = stack_array(types.uint64, ARGUMENTS)
_two_arguments = stack_array(types.uint64, 2, ARGUMENTS)


@kernel
def _decode_arguments(arguments, words, n_words, table, states, out):  # type: ignore[no-untyped-def]
    arguments[0] = words.ctypes.data
    arguments[1] = n_words
    arguments[2] = table.ctypes.data
    arguments[3] = states.ctypes.data
    arguments[4] = out.ctypes.data


@kernel
def decode_rows8(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    """Decode rows from `states` (uint32[32]), which are changed; how many words they asked for.

    `words` (uint8) holds `n_words` 16-bit words and 128 bytes more, `out` (uint8) has room for the
    rows: neither is exceeded, whatever the words are. `table` is what `decode_table8` fills.
    """
    arguments = _arguments()
    _decode_arguments(arguments, words, n_words, table, states, out)
    _decode8(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(arguments[1])


if LEVEL == "plain":

    @kernel
    def _decode8_both(arguments, n_rows):  # type: ignore[no-untyped-def]
        """One after the other: lanes of one plane already keep a scalar processor busy."""
        _decode8(arguments, n_rows)
        _decode8(arguments + np.uint64(8 * ARGUMENTS), n_rows)

else:
    _decode8_both = decoder(rows8.Machine8, 2)


@kernel
def decode_rows8_pair(  # type: ignore[no-untyped-def]
    words_a,
    n_words_a,
    table_a,
    states_a,
    out_a,
    words_b,
    n_words_b,
    table_b,
    states_b,
    out_b,
    n_rows,
):
    """As `decode_rows8` for two planes, in turn where that is faster. Words asked for by each."""
    arguments = _two_arguments()
    _decode_arguments(arguments[0], words_a, n_words_a, table_a, states_a, out_a)
    _decode_arguments(arguments[1], words_b, n_words_b, table_b, states_b, out_b)
    _decode8_both(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(arguments[0, 1]), np.int64(arguments[1, 1])


@kernel
def decode_rows12(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    """As `decode_rows8`, for rans12."""
    arguments = _arguments()
    _decode_arguments(arguments, words, n_words, table, states, out)
    _decode12(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(arguments[1])


@kernel
def _encode_arguments(arguments, symbols, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    end = np.uint64(words.ctypes.data) + np.uint64(2 * words.size)
    arguments[0] = symbols.ctypes.data
    arguments[1] = table.ctypes.data
    arguments[2] = states.ctypes.data
    arguments[3] = end
    arguments[4] = row_flags.ctypes.data
    return end


@kernel
def encode_rows8(symbols, n_rows, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    """Encode rows into the last of `words` (uint16); how many. Changes `states` (uint32[32]).

    `words` has room for a word a lane and row, and 8 more. `row_flags` (uint8[n_rows]) becomes
    nonzero for rows with a symbol that the table (`encode_table8`) lacks.
    """
    arguments = _arguments()
    end = _encode_arguments(arguments, symbols, table, states, words, row_flags)
    _encode8(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(end - arguments[3]) >> 1


@kernel
def encode_rows12(symbols, n_rows, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    """As `encode_rows8`, for rans12, with two words a lane and row."""
    arguments = _arguments()
    end = _encode_arguments(arguments, symbols, table, states, words, row_flags)
    _encode12(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(end - arguments[3]) >> 1
