# SPDX-License-Identifier: Apache-2.0
"""Numbers of sequences to codes and extra bits, 16 at a time; the codes are those of format.md."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lz_ops import I1, call
from .vector import I64, constant, load, loop, store, vector

CODE_ROW = 16


@intrinsic
def code_rows(  # type: ignore[no-untyped-def]
    typing_context,  # noqa: ARG001
    sequences,
    stride,
    codes,
    room,
    values,
    n_rows,
):
    """Code rows of 16 sequences; see `lz.py` for what the codes are.

    `sequences`: u16 runs, and `stride` bytes behind them lengths, and behind them steps. Their codes
    (u8) go to `codes` and `room` bytes behind that, and behind that; the bits that follow the
    codes of a sequence to `values`, as a u64 with their number in the highest 8 bits.
    """

    def generate(_context: Any, b: Any, _signature: Any, a: Any) -> None:
        sequences, stride, codes, room, values, n_rows = a
        wide, narrow = vector(CODE_ROW, 64), vector(CODE_ROW, 16)
        bytes_, lanes = vector(CODE_ROW, 8), vector(CODE_ROW, 32)

        def coded(value: Any) -> tuple[Any, Any, Any]:
            """(code, width, the bits that follow) of numbers below 2^16."""
            name = f"llvm.ctlz.v{CODE_ROW}i32"
            most = b.or_(value, constant(lanes, 4))
            width = b.sub(constant(lanes, 29), call(b, name, lanes, [most, ir.Constant(I1, 1)]))
            high = b.lshr(value, width)
            code = b.add(high, b.shl(width, constant(lanes, 2)))
            return code, width, b.xor(value, b.shl(high, width))

        def row(i: Any, _state: Any) -> list[Any]:
            where = b.add(sequences, b.mul(i, constant(I64, 2 * CODE_ROW)))
            at = b.add(codes, b.mul(i, constant(I64, CODE_ROW)))
            total, n_bits = constant(wide, 0), constant(wide, 0)
            for k in range(3):
                value = b.zext(load(b, where, narrow), lanes)
                if k == 1:
                    value = b.sub(value, constant(lanes, 1))
                special = None
                if k == 2:
                    special = b.icmp_unsigned("<", value, constant(lanes, 2))
                    step, value = value, b.sub(value, constant(lanes, 2))
                code, width, rest = coded(value)
                if special is not None:
                    code = b.select(special, step, b.add(code, constant(lanes, 2)))
                    width = b.select(special, constant(lanes, 0), width)
                    rest = b.select(special, constant(lanes, 0), rest)
                store(b, b.trunc(code, bytes_), at)
                total = b.or_(total, b.shl(b.zext(rest, wide), n_bits))
                n_bits = b.add(n_bits, b.zext(width, wide))
                where, at = b.add(where, stride), b.add(at, room)
            total = b.or_(total, b.shl(n_bits, constant(wide, 56)))
            store(b, total, b.add(values, b.mul(i, constant(I64, 8 * CODE_ROW))))
            return []

        loop(b, n_rows, [], row)

    arguments = (sequences, stride, codes, room, values, n_rows)
    return types.void(*arguments), generate
