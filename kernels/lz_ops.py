# SPDX-License-Identifier: Apache-2.0
"""What LZ needs of the machine: unaligned loads, stores and compares of 32 bytes, by address.

Portable LLVM vectors: an AVX2 register, or two of SSE2 or NEON. Nothing here checks bounds;
callers keep `SLACK` bytes behind every buffer. All arguments are uint64: addresses and counts.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vector import I64, constant, load, loop, splat, store, vector

STEP = 32
SLACK = 16 * STEP
BYTES = vector(STEP, 8)


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _bits(builder: Any, mask: Any) -> Any:
    """One bit of a 64-bit integer for each lane of `mask`."""
    return builder.zext(builder.bitcast(mask, ir.IntType(STEP)), I64)


def _first(builder: Any, mask: Any) -> Any:
    """Index of the first lane set, STEP if there is none."""
    bits = builder.bitcast(mask, ir.IntType(STEP))
    name = f"llvm.cttz.i{STEP}"
    index = _call(builder, name, ir.IntType(STEP), [bits, ir.Constant(ir.IntType(1), 0)])
    return builder.zext(index, I64)


@intrinsic
def load64(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        return load(builder, a[0], I64)

    return types.uint64(address), generate


@intrinsic
def store64(typing_context: Any, address: Any, value: Any) -> Any:  # noqa: ARG001
    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        store(builder, a[1], a[0])

    return types.void(address, value), generate


@intrinsic
def copy32(typing_context: Any, target: Any, source: Any) -> Any:  # noqa: ARG001
    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        store(builder, load(builder, a[1], BYTES), a[0])

    return types.void(target, source), generate


@intrinsic
def fill32(typing_context: Any, target: Any, pattern: Any) -> Any:  # noqa: ARG001
    """Store the eight bytes of `pattern` four times."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        store(builder, splat(builder, a[1], vector(STEP // 8, 64)), a[0])

    return types.void(target, pattern), generate


@intrinsic
def unlike32(typing_context: Any, address: Any, pattern: Any) -> Any:  # noqa: ARG001
    """A bit for each of 32 bytes: whether it differs from the repeated `pattern`."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        same = builder.bitcast(splat(builder, a[1], vector(STEP // 8, 64)), BYTES)
        return _bits(builder, builder.icmp_unsigned("!=", load(builder, a[0], BYTES), same))

    return types.uint64(address, pattern), generate


@intrinsic
def usable32(  # type: ignore[no-untyped-def]
    typing_context, address, source, depths, limit  # noqa: ARG001
):
    """How many of the 32 bytes at `source` equal those at `address` and are less than `limit` deep."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        address, source, depths, limit = a
        here, there = load(builder, address, BYTES), load(builder, source, BYTES)
        deep = load(builder, depths, BYTES)
        deep = builder.icmp_unsigned(">=", deep, splat(builder, limit, BYTES))
        return _first(builder, builder.or_(builder.icmp_unsigned("!=", here, there), deep))

    return types.uint64(address, source, depths, limit), generate


def _lanes_below(builder: Any, count: Any) -> Any:
    few = builder.icmp_unsigned("<", count, constant(I64, STEP))
    count = builder.select(few, count, constant(I64, STEP))
    return builder.icmp_unsigned("<", ir.Constant(BYTES, list(range(STEP))), splat(builder, count, BYTES))


@intrinsic
def deepen32(typing_context: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """Store the depths at `source`, one more each, for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        deeper = builder.add(load(builder, a[1], BYTES), constant(BYTES, 1))
        inside = _lanes_below(builder, a[2])
        store(builder, builder.select(inside, deeper, constant(BYTES, 0)), a[0])

    return types.void(target, source, count), generate


@intrinsic
def mark32(typing_context: Any, target: Any, depth: Any, count: Any) -> Any:  # noqa: ARG001
    """Store `depth` for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        inside = _lanes_below(builder, a[2])
        depth = splat(builder, a[1], BYTES)
        store(builder, builder.select(inside, depth, constant(BYTES, 0)), a[0])

    return types.void(target, depth, count), generate


@intrinsic
def deepest32(typing_context: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """The largest of `count` (at most 32) depths."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        inside = _lanes_below(builder, a[1])
        depths = builder.select(inside, load(builder, a[0], BYTES), constant(BYTES, 0))
        name = f"llvm.vector.reduce.umax.v{STEP}i8"
        return builder.zext(_call(builder, name, ir.IntType(8), [depths]), I64)

    return types.uint64(source, count), generate


@intrinsic
def highest_bit(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    """Index of the highest bit set of a `value` that is not 0."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        zeros = _call(builder, "llvm.ctlz.i64", I64, [a[0], ir.Constant(ir.IntType(1), 1)])
        return builder.xor(zeros, constant(I64, 63))

    return types.uint64(value), generate


@intrinsic
def lowest_bit(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    """Index of the lowest bit set of a `value` that is not 0."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        return _call(builder, "llvm.cttz.i64", I64, [a[0], ir.Constant(ir.IntType(1), 1)])

    return types.uint64(value), generate


WAYS = 4
WINDOW = 3


@intrinsic
def best_in_window(  # type: ignore[no-untyped-def]
    typing_context, text, at, slots, repeat, word_log  # noqa: ARG001
):
    """The longest match in the WINDOW words from offset `at` on: (word, length, source).

    `slots` is the address of these words' candidates, WAYS positions of 16 bits, the nearest first.
    Lengths are counted up to 32 bytes. Of equals wins the first word, of that the repeated
    distance, then the nearest.
    """

    def generate(context: Any, b: Any, signature: Any, a: Any) -> Any:
        text, at, slots, repeat, word_log = a
        short = ir.IntType(16)

        def longer(x: Any, y: Any) -> Any:
            wins = b.icmp_unsigned(">", y[0], x[0])
            return tuple(b.select(wins, j, i) for i, j in zip(x, y, strict=True))

        def match(here: Any, source: Any) -> Any:
            there = load(b, b.add(text, source), BYTES)
            return _first(b, b.icmp_unsigned("!=", here, there)), source

        best: Any = None
        for i in range(WINDOW):
            where = b.add(at, b.shl(constant(I64, i), word_log))
            here = load(b, b.add(text, where), BYTES)
            found = [match(here, b.sub(where, repeat))]
            for way in range(WAYS):
                index = load(b, b.add(slots, constant(I64, 2 * (WAYS * i + way))), short)
                found.append(match(here, b.shl(b.zext(index, I64), word_log)))
            while len(found) > 1:  # a tree: the shortest chain of dependent selects
                pairs = zip(found[::2], found[1::2], strict=False)
                found = [longer(x, y) for x, y in pairs] + found[len(found) & ~1 :]
            match_here = (*found[0], constant(I64, i))
            best = match_here if best is None else longer(best, match_here)
        return context.make_tuple(b, signature.return_type, [best[2], best[0], best[1]])

    arguments = (text, at, slots, repeat, word_log)
    return types.UniTuple(types.uint64, 3)(*arguments), generate


def hash_rows(word_bytes: int, n_bytes: int, multipliers: list[int], bits: int) -> Any:
    """`(text, target, n_rows)`: 32 hashes (u16) a row, of the `n_bytes` bytes at each word.

    A hash is the sum of the 16-bit units times their multipliers, modulo 2^16, of which the
    highest `bits` are kept.
    """
    unit, lanes = vector(STEP, 16), STEP

    @intrinsic
    def rows(typing_context: Any, text: Any, target: Any, n_rows: Any) -> Any:  # noqa: ARG001
        def emit_row(b: Any, at: Any) -> Any:
            total = constant(unit, 0)
            for i in range((n_bytes + 1) // 2):
                where = b.add(at, constant(I64, 2 * i))
                if word_bytes == 1:
                    value = b.zext(load(b, where, BYTES), unit)
                    if 2 * i + 1 < n_bytes:
                        high = b.zext(load(b, b.add(where, constant(I64, 1)), BYTES), unit)
                        value = b.or_(value, b.shl(high, constant(unit, 8)))
                else:
                    units = vector(lanes * word_bytes // 2, 16)
                    value = load(b, where, units)
                    pick = [j * word_bytes // 2 for j in range(lanes)]
                    if word_bytes > 2:
                        value = b.shuffle_vector(value, value, ir.Constant(vector(lanes, 32), pick))
                total = b.add(total, b.mul(value, constant(unit, multipliers[i])))
            return b.lshr(total, constant(unit, 16 - bits))

        def generate(_context: Any, b: Any, _signature: Any, a: Any) -> Any:
            text, target, n_rows = a

            def row(i: Any, _state: Any) -> Any:
                at = b.add(text, b.mul(i, constant(I64, lanes * word_bytes)))
                store(b, emit_row(b, at), b.add(target, b.mul(i, constant(I64, 2 * lanes))))
                return []

            loop(b, n_rows, [], row)

        return types.void(text, target, n_rows), generate

    return rows
