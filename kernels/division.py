# SPDX-License-Identifier: Apache-2.0
"""Exact division by a frequency with 32-bit reciprocals, for the vector encoders.

`floor(x / f) = (x + more) * reciprocal >> 32 + shift` for 1 <= x < f * 2^(32-P), and `2^shift <= f`.
Rounded up, `more` is 0, and the quotient exact while `f * (-2^k mod f) <= 2^(shift + P)`; rounded
down, `more` is 1, and it is exact while `f * (2^k mod f) <= 2^(shift + P)`; k is 32 + shift. For
f < 2^(P-1) and powers of two both hold. For others at least one does, as the two remainders sum
to f < 2^P, and a table has only one such f, as its frequencies sum to 2^P. So `more` is the same
for a whole table.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel


@kernel
def most_frequent(frequencies, n_symbols):  # type: ignore[no-untyped-def]
    """Index of the first largest of the frequencies."""
    most = 0
    for i in range(n_symbols):
        if frequencies[i] > frequencies[most]:
            most = i
    return most


@kernel
def rounds_up(f, bits):  # type: ignore[no-untyped-def]
    """Whether a table whose largest frequency is `f` must round its reciprocals up."""
    remainder = (np.int64(1) << (31 + bits)) % f
    return f > 1 << (bits - 1) and f * remainder > 1 << (2 * bits - 1)


@kernel
def reciprocal(f, up):  # type: ignore[no-untyped-def]
    """(reciprocal, shift, what the quotient lacks: 1 if f is 1 and it was rounded up)."""
    shift = np.int64(0)
    while (2 << shift) <= f:
        shift += 1
    if up and f == 1:
        return (np.int64(1) << 32) - 1, shift, 1  # 2^32 is too large, so x gives x - 1
    power = np.int64(1) << (32 + shift)
    if up:
        if f == 1 << shift:
            return np.int64(1) << 31, shift - 1, 0
        return (power + f - 1) // f, shift, 0
    if f == 1 << shift:
        return (np.int64(1) << 32) - 1, shift, 0
    return power // f, shift, 0
