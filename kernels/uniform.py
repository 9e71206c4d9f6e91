# SPDX-License-Identifier: Apache-2.0
"""Whether all symbols of a plane are the same one, at the speed of reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .jit import kernel
from .spec import ROW
from .vector import I64, constant, load, loop, splat, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 16  # compared before the first difference ends the search


@intrinsic  # type: ignore[untyped-decorator]
def _rows_differ(typing_context: Any, symbols: Any, n_rows: Any, symbol: Any) -> Any:  # noqa: ARG001
    """Nonzero if one of the rows at the address `symbols` has another symbol than `symbol`."""

    def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        address, count, first = arguments
        row = vector(ROW, 8)
        same = splat(b, first, row)

        def one_row(i: Any, state: list[Any]) -> list[Any]:
            x = load(b, b.add(address, b.mul(i, constant(I64, ROW))), row)
            return [b.or_(state[0], b.xor(x, same))]

        [different] = loop(b, count, [constant(row, 0)], one_row)
        return b.bitcast(b.icmp_unsigned("!=", different, constant(row, 0)), I64)

    return types.uint64(symbols, n_rows, symbol), generate


@kernel
def is_constant(symbols: NDArray[np.uint8], n: int) -> bool:
    """Whether the first `n` symbols are equal."""
    first = np.uint64(symbols[0])
    n_rows = n // ROW
    for row in range(0, n_rows, ROWS):
        at = np.uint64(symbols[row * ROW :].ctypes.data)
        if _rows_differ(at, np.uint64(min(ROWS, n_rows - row)), first) != np.uint64(0):
            return False
    different = np.uint8(0)
    for i in range(n_rows * ROW, n):
        different |= symbols[i] ^ symbols[0]
    return different == 0
