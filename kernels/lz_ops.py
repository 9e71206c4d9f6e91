# SPDX-License-Identifier: Apache-2.0
"""What LZ needs of the machine: unaligned loads, stores and compares of 32 bytes, by address.

Portable LLVM vectors: an AVX2 register, or two of SSE2 or NEON. Nothing here checks bounds;
callers keep `SLACK` bytes behind every buffer. Arguments are uint64: addresses and numbers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lz_spec import HASH_MULTIPLIER, WAYS
from .vector import I64, constant, load, loop, splat, store, vector

STEP = 32
SLACK = 16 * STEP  # a row of hashes reads 32 words and the bytes of one more
BYTES = vector(STEP, 8)
I1 = ir.IntType(1)


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _first(builder: Any, mask: Any) -> Any:
    """Index of the first lane set, STEP if there is none."""
    bits = builder.bitcast(mask, ir.IntType(STEP))
    index = _call(builder, f"llvm.cttz.i{STEP}", bits.type, [bits, ir.Constant(I1, 0)])
    return builder.zext(index, I64)


def _lanes_below(builder: Any, count: Any) -> Any:
    few = builder.icmp_unsigned("<", count, constant(I64, STEP))
    count = splat(builder, builder.select(few, count, constant(I64, STEP)), BYTES)
    return builder.icmp_unsigned("<", ir.Constant(BYTES, list(range(STEP))), count)


def _getter(bits: int) -> Any:
    @intrinsic
    def get(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
            value = load(builder, a[0], ir.IntType(bits))
            return value if bits == I64.width else builder.zext(value, I64)

        return types.uint64(address), generate

    return get


def _putter(bits: int) -> Any:
    @intrinsic
    def put(typing_context: Any, address: Any, value: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
            value = a[1] if bits == I64.width else builder.trunc(a[1], ir.IntType(bits))
            store(builder, value, a[0])

        return types.void(address, value), generate

    return put


get8, get16, get32, get64 = (_getter(bits) for bits in (8, 16, 32, 64))
"""The integer at an address."""
put8, put16, put32, put64 = (_putter(bits) for bits in (8, 16, 32, 64))
"""Write the low bits of an integer to an address."""


@intrinsic
def copy32(typing_context: Any, target: Any, source: Any) -> Any:  # noqa: ARG001
    """Copy 32 bytes."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        store(builder, load(builder, a[1], BYTES), a[0])

    return types.void(target, source), generate


@intrinsic
def fill32(typing_context: Any, target: Any, pattern: Any) -> Any:  # noqa: ARG001
    """Store the eight bytes of `pattern` four times."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        store(builder, splat(builder, a[1], vector(STEP // 8, 64)), a[0])

    return types.void(target, pattern), generate


@intrinsic
def clear(typing_context: Any, target: Any, n_bytes: Any) -> Any:  # noqa: ARG001
    """Fill with zeros."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        pointer = builder.inttoptr(a[0], ir.PointerType())
        cgutils.memset(builder, pointer, a[1], 0)

    return types.void(target, n_bytes), generate


@intrinsic
def unlike32(typing_context: Any, address: Any, pattern: Any) -> Any:  # noqa: ARG001
    """A bit for each of 32 bytes, whether it differs from the repeated `pattern`; above, ones."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        same = builder.bitcast(splat(builder, a[1], vector(STEP // 8, 64)), BYTES)
        mask = builder.icmp_unsigned("!=", load(builder, a[0], BYTES), same)
        bits = builder.zext(builder.bitcast(mask, ir.IntType(STEP)), I64)
        return builder.or_(bits, constant(I64, ((1 << STEP) - 1) << STEP))

    return types.uint64(address, pattern), generate


@intrinsic
def alike32(typing_context: Any, address: Any, source: Any) -> Any:  # noqa: ARG001
    """How many of the 32 bytes at both addresses are equal before the first that are not."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        here, there = (load(builder, address, BYTES) for address in a)
        return _first(builder, builder.icmp_unsigned("!=", here, there))

    return types.uint64(address, source), generate


@intrinsic
def usable32(  # type: ignore[no-untyped-def]
    typing_context,  # noqa: ARG001
    address,
    source,
    depths,
    limit,
):
    """How many of the 32 bytes at `source` equal those at `address` and are less than `limit` deep."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        here, there, depths = (load(builder, address, BYTES) for address in a[:3])
        deep = builder.icmp_unsigned(">=", depths, splat(builder, a[3], BYTES))
        return _first(builder, builder.or_(builder.icmp_unsigned("!=", here, there), deep))

    return types.uint64(address, source, depths, limit), generate


@intrinsic
def deepen32(typing_context: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """Store the depths at `source`, one more each, for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        deeper = builder.add(load(builder, a[1], BYTES), constant(BYTES, 1))
        inside = _lanes_below(builder, a[2])
        store(builder, builder.select(inside, deeper, constant(BYTES, 0)), a[0])

    return types.void(target, source, count), generate


@intrinsic
def mark32(typing_context: Any, target: Any, depth: Any, count: Any) -> Any:  # noqa: ARG001
    """Store `depth` for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        depth = splat(builder, a[1], BYTES)
        inside = _lanes_below(builder, a[2])
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
def all_repeat(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
    """Whether each of 32 u16 equals the one before it."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        kind = vector(STEP, 16)
        before = builder.sub(a[0], constant(I64, 2))
        same = builder.icmp_unsigned("==", load(builder, a[0], kind), load(builder, before, kind))
        bits = builder.bitcast(same, ir.IntType(STEP))
        return builder.icmp_unsigned("==", bits, constant(bits.type, (1 << STEP) - 1))

    return types.boolean(address), generate


def _mask_of(emit: Any) -> Any:
    """An intrinsic of two integers that gives a bit for each of STEP lanes."""

    @intrinsic
    def mask(typing_context: Any, first: Any, second: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
            return builder.zext(builder.bitcast(emit(builder, *a), ir.IntType(STEP)), I64)

        return types.uint64(first, second), generate

    return mask


UNITS = vector(STEP, 16)


def _unlike_each(b: Any, address: Any, other: Any) -> Any:
    return b.icmp_unsigned("!=", load(b, address, BYTES), load(b, other, BYTES))


def _equal_to(b: Any, address: Any, value: Any) -> Any:
    return b.icmp_unsigned("==", load(b, address, UNITS), splat(b, value, UNITS))


def _fresh_below(b: Any, address: Any, below: Any) -> Any:
    here = load(b, address, UNITS)
    fresh = b.icmp_unsigned("!=", here, load(b, b.sub(address, constant(I64, 2)), UNITS))
    return b.and_(fresh, b.icmp_unsigned("<", here, splat(b, below, UNITS)))


unlike_each32 = _mask_of(_unlike_each)
"""Which of the 32 bytes at two addresses differ."""
equal_to32 = _mask_of(_equal_to)
"""Which of 32 u16 at an address equal a value."""
fresh_below32 = _mask_of(_fresh_below)
"""Which of 32 u16 at an address are below a value and not equal to the one before them."""


def _bit_index(name: str, flip: int) -> Any:
    @intrinsic
    def index(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
            zeros = _call(builder, name, I64, [a[0], ir.Constant(I1, 1)])
            return builder.xor(zeros, constant(I64, flip))

        return types.uint64(value), generate

    return index


@intrinsic
def count_ones(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    """How many bits are set."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        return _call(builder, "llvm.ctpop.i64", I64, [a[0]])

    return types.uint64(value), generate


lowest_bit, highest_bit = _bit_index("llvm.cttz.i64", 0), _bit_index("llvm.ctlz.i64", 63)
"""Index of a bit that is set, of a value that is not 0."""


def best_in_window(looked_at: tuple[int, ...]) -> Any:
    """An intrinsic for windows of `len(looked_at)` words, of whose candidates so many are tried."""

    @intrinsic
    def best(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001
        text,
        at,
        slots,
        repeat,
        word_log,
    ):
        """The longest match in the window from offset `at` on: (word, length, source).

        `slots` is the address of these words' candidates, WAYS positions of 16 bits, the nearest first.
        Lengths are counted up to 32 bytes. Of equals wins the first word, of that the repeated
        distance, then the nearest.
        """

        def generate(context: Any, b: Any, signature: Any, a: Any) -> Any:
            text, at, slots, repeat, word_log = a

            def longer(x: Any, y: Any) -> Any:
                wins = b.icmp_unsigned(">", y[0], x[0])
                return tuple(b.select(wins, j, i) for i, j in zip(x, y, strict=True))

            def match(here: Any, source: Any) -> Any:
                there = load(b, b.add(text, source), BYTES)
                return _first(b, b.icmp_unsigned("!=", here, there)), source

            best: Any = None
            for i, ways in enumerate(looked_at):
                where = b.add(at, b.shl(constant(I64, i), word_log))
                here = load(b, b.add(text, where), BYTES)
                found = [match(here, b.sub(where, repeat))]
                for way in range(ways):
                    slot = b.add(slots, constant(I64, 2 * (WAYS * i + way)))
                    index = b.zext(load(b, slot, ir.IntType(16)), I64)
                    found.append(match(here, b.shl(index, word_log)))
                while len(found) > 1:  # a tree: the shortest chain of dependent selects
                    pairs = zip(found[::2], found[1::2], strict=False)
                    found = [longer(x, y) for x, y in pairs] + found[len(found) & ~1 :]
                found_here = (*found[0], constant(I64, i))
                best = found_here if best is None else longer(best, found_here)
            return context.make_tuple(b, signature.return_type, [best[2], best[0], best[1]])

        arguments = (text, at, slots, repeat, word_log)
        return types.UniTuple(types.uint64, 3)(*arguments), generate

    return best


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
            width = b.sub(constant(lanes, 29), _call(b, name, lanes, [most, ir.Constant(I1, 1)]))
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


def hash_rows(word_bytes: int, n_words: int, bits: int) -> Any:
    """`(text, target, n_rows)`: 32 hashes (u16) a row, of the `n_words` words from each word on.

    A hash is the sum of the 16-bit units times `HASH_MULTIPLIER^(i + 1)`, modulo 2^16, of which the highest
    `bits` are kept.
    """
    unit, n_units = vector(STEP, 16), word_bytes // 2
    n_bytes = word_bytes * n_words

    def units(b: Any, at: Any) -> Any:
        if word_bytes > 1:
            pick = ir.Constant(vector(STEP, 32), [j * n_units for j in range(STEP)])
            value = load(b, at, vector(STEP * n_units, 16))
            return b.shuffle_vector(value, value, pick)
        low, high = (b.zext(load(b, b.add(at, constant(I64, i)), BYTES), unit) for i in range(2))
        return b.or_(low, b.shl(high, constant(unit, 8)))

    @intrinsic
    def rows(typing_context: Any, text: Any, target: Any, n_rows: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, b: Any, _signature: Any, a: Any) -> None:
            text, target, n_rows = a

            def row(i: Any, _state: Any) -> list[Any]:
                at = b.add(text, b.mul(i, constant(I64, STEP * word_bytes)))
                total = constant(unit, 0)
                factor = 1
                for k in range(0, n_bytes, 2):
                    factor = factor * HASH_MULTIPLIER & 0xFFFF
                    value = units(b, b.add(at, constant(I64, k)))
                    total = b.add(total, b.mul(value, constant(unit, factor)))
                total = b.lshr(total, constant(unit, 16 - bits))
                store(b, total, b.add(target, b.mul(i, constant(I64, 2 * STEP))))
                return []

            loop(b, n_rows, [], row)

        return types.void(text, target, n_rows), generate

    return rows
