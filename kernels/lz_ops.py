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

from .vector import I64, constant, load, splat, store, vector

STEP = 32
SLACK = 16 * STEP  # a row of hashes reads 32 words and the bytes of one more
BYTES = vector(STEP, 8)
I1 = ir.IntType(1)


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def first_of(builder: Any, mask: Any) -> Any:
    """Index of the first lane set, STEP if there is none."""
    bits = builder.bitcast(mask, ir.IntType(STEP))
    index = call(builder, f"llvm.cttz.i{STEP}", bits.type, [bits, ir.Constant(I1, 0)])
    return builder.zext(index, I64)


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
        return first_of(builder, builder.icmp_unsigned("!=", here, there))

    return types.uint64(address, source), generate


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
            zeros = call(builder, name, I64, [a[0], ir.Constant(I1, 1)])
            return builder.xor(zeros, constant(I64, flip))

        return types.uint64(value), generate

    return index


@intrinsic
def count_ones(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    """How many bits are set."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        return call(builder, "llvm.ctpop.i64", I64, [a[0]])

    return types.uint64(value), generate


lowest_bit, highest_bit = _bit_index("llvm.cttz.i64", 0), _bit_index("llvm.ctlz.i64", 63)
"""Index of a bit that is set, of a value that is not 0."""
