# SPDX-License-Identifier: Apache-2.0
"""Vector operations on rows of 16-bit numbers, of which `predictor_fit.py` is made.

A row is padded to a multiple of 32. Its **logs** are the magnitudes of its words shifted
down to `OFFSET_LOG` bits of mantissa: log2 in 1/64 octaves, 0 for a word that is missing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .predictor import LANES
from .predictor_spec import CLIP
from .spec import FACTOR_LOG, OFFSET_STEP_LOG
from .vector import I64, constant, load, loop, splat, store, vector

SHORT, LONG, PAIRS = vector(LANES, 16), vector(LANES, 32), vector(LANES // 2, 32)
ZERO = constant(SHORT, 0)


def _row_operation(body: Any, *, reduce: bool = False) -> Any:
    """An intrinsic over a row's vectors of 32: `(n_vectors, a, b, c, d)`, addresses or numbers.

    `body(builder, i, arguments)` handles vector `i`. With `reduce` it returns sums of pairs of lanes,
    and the intrinsic the sum of them all.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def operation(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001 - Numba passes it
        n_vectors,
        a,
        b,
        c,
        d,
    ):
        def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            count, *arguments = values

            def one_vector(i: Any, state: Any) -> Any:
                result = body(builder, i, arguments)
                return [builder.add(state[0], result)] if reduce else []

            total = loop(builder, count, [constant(PAIRS, 0)] if reduce else [], one_vector)
            if not reduce:
                return None
            wide = builder.sext(total[0], vector(LANES // 2, 64))
            kind = ir.FunctionType(I64, [wide.type])
            name = f"llvm.vector.reduce.add.v{LANES // 2}i64"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [wide])

        result = types.int64 if reduce else types.void
        return result(n_vectors, a, b, c, d), generate

    return operation


def _at(builder: Any, row: Any, i: Any, n_bytes: int) -> Any:
    """The address of vector `i` in a row of numbers of `n_bytes`."""
    return builder.add(row, builder.mul(i, constant(I64, LANES * n_bytes)))


def _load(builder: Any, row: Any, i: Any) -> Any:
    return load(builder, _at(builder, row, i, 2), SHORT)


def _present(builder: Any, logs: Any, i: Any) -> Any:
    return builder.icmp_signed("!=", _load(builder, logs, i), ZERO)


def _clip(builder: Any, x: Any) -> Any:
    """`x` limited to -CLIP ... CLIP."""
    most, least = constant(SHORT, CLIP), constant(SHORT, -CLIP)
    x = builder.select(builder.icmp_signed("<", x, most), x, most)
    return builder.select(builder.icmp_signed(">", x, least), x, least)


def _logs(word_bytes: int) -> Any:
    """(words, logs out, shift, n): the logs of `n` words, 0 beyond them."""
    wide = vector(LANES, 8 * word_bytes)
    magnitude = constant(wide, (1 << (8 * word_bytes - 1)) - 1)
    numbers = ir.Constant(LONG, list(range(LANES)))

    def body(builder: Any, i: Any, arguments: Any) -> None:
        words, logs, shift, n = arguments
        x = builder.and_(load(builder, _at(builder, words, i, word_bytes), wide), magnitude)
        x = builder.lshr(x, splat(builder, shift, wide))
        x = x if word_bytes == 2 else builder.trunc(x, SHORT)
        left = builder.sub(n, builder.mul(i, constant(I64, LANES)))
        inside = builder.icmp_unsigned("<", numbers, splat(builder, left, LONG))
        store(builder, builder.select(inside, x, ZERO), _at(builder, logs, i, 2))

    return body


def _pairs(builder: Any, x: Any, y: Any) -> Any:
    """Products of two vectors, those of neighbours added: one instruction on most machines."""
    products = builder.mul(builder.sext(x, LONG), builder.sext(y, LONG))
    halves = [ir.Constant(PAIRS, list(range(odd, LANES, 2))) for odd in (0, 1)]
    even, odd = (builder.shuffle_vector(products, products, pick) for pick in halves)
    return builder.add(even, odd)


def _sum(builder: Any, i: Any, arguments: Any) -> Any:
    """(row, -, -, -): its sum."""
    return _pairs(builder, _load(builder, arguments[0], i), constant(SHORT, 1))


def _count(builder: Any, i: Any, arguments: Any) -> Any:
    """(logs, -, -, -): how many words there are."""
    one = builder.zext(_present(builder, arguments[0], i), SHORT)
    return _pairs(builder, one, one)


def _dot(builder: Any, i: Any, arguments: Any) -> Any:
    """(row, row, -, -): the sum of their products."""
    return _pairs(builder, *(_load(builder, row, i) for row in arguments[:2]))


def _norm(builder: Any, i: Any, arguments: Any) -> Any:
    """(logs, b, -, -): the sum of `b^2` where there are words."""
    y = builder.select(_present(builder, arguments[0], i), _load(builder, arguments[1], i), ZERO)
    return _pairs(builder, y, y)


def _residual(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, columns i8, offset, u out): `u = clip(l - offset - 8 columns)`, 0 if there is no word."""
    logs, columns, offset, u = arguments
    offset = splat(builder, offset, SHORT)
    column = builder.sext(load(builder, _at(builder, columns, i, 1), vector(LANES, 8)), SHORT)
    column = builder.shl(column, constant(SHORT, OFFSET_STEP_LOG))
    y = builder.sub(builder.sub(_load(builder, logs, i), offset), column)
    y = builder.select(_present(builder, logs, i), _clip(builder, y), ZERO)
    store(builder, y, _at(builder, u, i, 2))


def _add(builder: Any, i: Any, arguments: Any) -> None:
    """(u, sums i32, factor, -): `sums += factor u`."""
    u, sums, factor, _ = arguments
    at = _at(builder, sums, i, 4)
    x = builder.mul(builder.sext(_load(builder, u, i), LONG), splat(builder, factor, LONG))
    store(builder, builder.add(load(builder, at, LONG), x), at)


def _add_present(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, counts i32, -, -): `counts += 1` where there are words."""
    at = _at(builder, arguments[1], i, 4)
    one = builder.zext(_present(builder, arguments[0], i), LONG)
    store(builder, builder.add(load(builder, at, LONG), one), at)


def _subtract(builder: Any, i: Any, arguments: Any) -> None:
    """(logs, b, u, a): `u = clip(u - (a b >> FACTOR_LOG))` where there are words."""
    logs, b, u, a = arguments
    y = builder.mul(_load(builder, b, i), splat(builder, a, SHORT))
    y = builder.ashr(y, constant(SHORT, FACTOR_LOG))
    y = builder.select(_present(builder, logs, i), y, ZERO)
    y = builder.sub(_load(builder, u, i), y)
    store(builder, _clip(builder, y), _at(builder, u, i, 2))


logs_2, logs_4 = _row_operation(_logs(2)), _row_operation(_logs(4))
total, count = _row_operation(_sum, reduce=True), _row_operation(_count, reduce=True)
dot, norm = _row_operation(_dot, reduce=True), _row_operation(_norm, reduce=True)
residual, subtract = _row_operation(_residual), _row_operation(_subtract)
add, add_present = _row_operation(_add), _row_operation(_add_present)
