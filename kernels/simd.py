# SPDX-License-Identifier: Apache-2.0
"""Binds the row kernels to the processor that Numba compiles for.

The level follows the features that Numba hands to LLVM, which are part of its cache's key:
``NUMBA_CPU_NAME=generic`` gives the plain path on any machine. All levels write the same bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite.binding import get_host_cpu_features
from numba.core import config

from . import rows_plain

AVX512 = {"+avx512f", "+avx512bw", "+avx512vl", "+avx512vbmi", "+avx512vbmi2"}


def _features() -> set[str]:
    named = config.CPU_FEATURES
    return set((get_host_cpu_features().flatten() if named is None else named).split(","))


rows8: Any = rows_plain
LEVEL = "plain"
if _features() >= AVX512:
    from . import rows_avx512 as rows8

    LEVEL = "avx512"

DECODE_TABLE_BYTES = rows_plain.DECODE_TABLE_BYTES
ENCODE_TABLE_BYTES = rows_plain.ENCODE_TABLE_BYTES
decode_table8 = rows8.decode_table8
decode_rows8 = rows8.decode_rows8
decode_rows8_pair = rows8.decode_rows8_pair
encode_table8 = rows8.encode_table8
encode_rows8 = rows8.encode_rows8
decode_table12 = rows_plain.decode_table12
decode_rows12 = rows_plain.decode_rows12
encode_table12 = rows_plain.encode_table12
encode_rows12 = rows_plain.encode_rows12
