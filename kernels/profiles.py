# SPDX-License-Identifier: Apache-2.0
"""Palettes beside the coders of `choose.py`: what a profile makes of a plane.

The encoder's choices
---------------------
In profile ratio only frames that are sparse or predicted have palettes: the planes of all others
are coded as `choose.py` says. In profiles fast and auto all frames may have them.

1. All symbols equal: constant. No full row of 64 symbols: as in step 4.
2. The full rows divisible by `PROBE_STRIDE` are counted, all of them if there are fewer than
   `SAMPLE_MIN_ROWS`. `palette.py` says which palette is best, and estimates its size.
3. The palette must stay below a limit, both by the estimate and in the end. The limit is raw's size
   less `2^-PROBE_MIN_GAIN_LOG` of it, rounded down; but in profile ratio no more than what rANS needs at
   least: the order-0 entropy of the counted symbols, scaled to `n`, with rANS's header and states. In
   profile auto, `2^-AUTO_LOSS_LOG` of that is added, as a palette is decoded faster.
4. Otherwise: raw in profile fast, in the others what `choose.py` says.
"""

from __future__ import annotations

import numpy as np

from . import choose, palette
from .jit import inlined
from .planes import pack_bits, raw_plane_bytes
from .spec import (
    AUTO_LOSS_LOG,
    CONSTANT,
    ENTRY_CODER_SHIFT,
    LOG2_BITS,
    MAX_BLOCK_LOG,
    PALETTE,
    PROBE_MIN_GAIN_LOG,
    PROBE_STRIDE,
    PROFILE_AUTO,
    PROFILE_FAST,
    RANS_HEADER_BYTES,
    RANS_STATES_BYTES,
    RAW,
    ROW,
    SAMPLE_MIN_ROWS,
)
from .uniform import is_constant
from .vector import copy_bytes


@inlined
def _rans_bytes(counts, n_counted, n):  # type: ignore[no-untyped-def]
    """What rANS needs at least for `n` symbols like those counted."""
    bits = n_counted * choose.log2_fixed(n_counted)
    for s in range(256):
        if counts[s] != 0:
            bits -= np.int64(counts[s]) * choose.log2_fixed(np.int64(counts[s]))
    return (bits // n_counted * n >> (LOG2_BITS + 3)) + RANS_HEADER_BYTES + RANS_STATES_BYTES


@inlined
def _palette(symbols, n, bits, profile, raw_bytes, out, scratch, flags):  # type: ignore[no-untyped-def]
    """Code the plane with the best palette if steps 2 and 3 say so: (coder, bytes), or (RAW, 0)."""
    n_rows = n // ROW
    if n_rows == 0 or n > 1 << MAX_BLOCK_LOG:
        return RAW, 0
    stride = np.int64(PROBE_STRIDE if n_rows >= SAMPLE_MIN_ROWS else 1)
    n_counted = choose.histogram(symbols, n_rows, stride, scratch.counts)
    counts = scratch.counts[0]
    code_bits, base, size = palette.plan(counts, n_counted, n, bits)
    limit = raw_bytes - (raw_bytes >> PROBE_MIN_GAIN_LOG)
    if profile != PROFILE_FAST:
        rans_bytes = _rans_bytes(counts, n_counted, n)
        if profile == PROFILE_AUTO:
            rans_bytes += rans_bytes >> AUTO_LOSS_LOG
        limit = min(limit, rans_bytes)
    if size >= limit:
        return RAW, 0
    size = palette.encode(symbols, n, bits, code_bits, base, out[:limit], flags)
    return PALETTE + code_bits if size > 0 else RAW, size


@inlined
def encode_plane(symbols, n, bits, profile, out, scratch, flags):  # type: ignore[no-untyped-def]
    """As `choose.encode_plane`, in a profile; `flags` is uint64[ceil(n / 64)] of work space."""
    if is_constant(symbols, n):
        return CONSTANT << ENTRY_CODER_SHIFT | np.int64(symbols[0])
    raw_bytes = raw_plane_bytes(n, bits)
    coder, size = _palette(symbols, n, bits, profile, raw_bytes, out, scratch, flags)
    if coder != RAW:
        return coder << ENTRY_CODER_SHIFT | size
    if profile != PROFILE_FAST:
        return choose.encode_plane(symbols, n, bits, out, scratch)
    if bits < 8:
        pack_bits(symbols, n, bits, out)
    else:
        assert out.size >= n
        copy_bytes(np.uint64(out.ctypes.data), np.uint64(symbols.ctypes.data), np.uint64(n))
    return RAW << ENTRY_CODER_SHIFT | raw_bytes
