# SPDX-License-Identifier: Apache-2.0
"""Decode one plane of one block, whichever plain coder wrote it, and check its padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import planes, rans
from .entries import aligned
from .jit import inlined
from .spec import BAD_PADDING, BAD_SIZE, BAD_SYMBOL, CONSTANT, OK, RANS8, RANS12, RAW, ROW
from .vector import copy_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@inlined
def decode_plane(  # type: ignore[no-untyped-def]
    coder, argument, payload, n, bits, symbols, plane_scratch, where, p
):
    """Decode one plane; its address goes to `where[p, 0]`. A status."""
    if coder == RANS8 or coder == RANS12:  # noqa: SIM109, PLR1714 - a tuple search is slower to compile
        return rans.decode_plane(coder, payload, n, bits, symbols, plane_scratch)
    padded = (n + ROW - 1) // ROW * ROW
    if coder == CONSTANT:
        if argument >= 1 << bits:
            return BAD_SYMBOL
        for i in range(padded):
            symbols[i] = argument
        return OK
    if coder != RAW or argument != planes.raw_plane_bytes(n, bits):
        return BAD_SIZE
    if bits < 8:
        return planes.unpack_bits(payload, n, bits, symbols)
    if n == padded:
        where[p, 0] = payload.ctypes.data  # readable to the last row: no copy
    else:
        copy_bytes(np.uint64(symbols.ctypes.data), np.uint64(payload.ctypes.data), np.uint64(n))
    return OK


@inlined
def padding_status(payload: NDArray[np.uint8], end: int) -> int:
    """Whether the bytes from `end` to the next payload are zero."""
    for i in range(end, aligned(end)):
        if payload[i] != 0:
            return BAD_PADDING
    return OK
