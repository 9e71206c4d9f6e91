# SPDX-License-Identifier: Apache-2.0
"""Binds the row kernels to the processor that Numba compiles for."""

from __future__ import annotations

from . import rows_plain

LEVEL = "plain"

DECODE_TABLE_BYTES = rows_plain.DECODE_TABLE_BYTES
ENCODE_TABLE_BYTES = rows_plain.ENCODE_TABLE_BYTES
decode_table8 = rows_plain.decode_table8
decode_table12 = rows_plain.decode_table12
decode_rows8 = rows_plain.decode_rows8
decode_rows12 = rows_plain.decode_rows12
encode_table8 = rows_plain.encode_table8
encode_table12 = rows_plain.encode_table12
encode_rows8 = rows_plain.encode_rows8
encode_rows12 = rows_plain.encode_rows12
