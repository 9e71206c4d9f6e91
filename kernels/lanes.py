# SPDX-License-Identifier: Apache-2.0
"""Expressions over LLVM vectors, written like NumPy's, for intrinsics that work on 16 elements.

The same expression on a scalar gives scalar code. Floats are strict IEEE float32: no flag allows
LLVM to fuse, reorder or approximate, so every machine gives the same bits. Integers are unsigned.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .vector import I64, constant, load, store

LANES = 16
F32 = ir.FloatType()
INFINITY_BITS = 0x7F800000


class Lanes:
    """A value of LLVM, scalar or vector, with the builder that computes on it."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    @property
    def element(self) -> Any:
        """The LLVM type of one lane."""
        return getattr(self.value.type, "element", self.value.type)

    def kind(self, element: Any) -> Any:
        """The type with as many lanes as this value has, each of type `element`."""
        count = getattr(self.value.type, "count", 0)
        return ir.VectorType(element, count) if count else element

    def new(self, value: Any) -> Lanes:
        """Wrap an LLVM value."""
        return Lanes(self.builder, value)

    def like(self, other: Any) -> Any:
        """`other` as an LLVM value of this type: a number goes to every lane."""
        if isinstance(other, Lanes):
            return other.value
        return constant(self.value.type, other)

    def filled(self, number: Any) -> Lanes:
        """A number in every lane of this type."""
        return self.new(constant(self.value.type, number))

    def listed(self, numbers: list[int]) -> Lanes:
        """A constant of this type, lane by lane."""
        return self.new(ir.Constant(self.value.type, numbers))

    def _binary(self, other: Any, for_integers: str, for_floats: str) -> Lanes:
        name = for_floats if self.element == F32 else for_integers
        return self.new(getattr(self.builder, name)(self.value, self.like(other)))

    def __add__(self, other: Any) -> Lanes:
        return self._binary(other, "add", "fadd")

    def __sub__(self, other: Any) -> Lanes:
        return self._binary(other, "sub", "fsub")

    def __rsub__(self, other: Any) -> Lanes:
        return self.filled(other) - self

    def __mul__(self, other: Any) -> Lanes:
        return self._binary(other, "mul", "fmul")

    def __and__(self, other: Any) -> Lanes:
        return self.new(self.builder.and_(self.value, self.like(other)))

    def __or__(self, other: Any) -> Lanes:
        return self.new(self.builder.or_(self.value, self.like(other)))

    def __xor__(self, other: Any) -> Lanes:
        return self.new(self.builder.xor(self.value, self.like(other)))

    def __invert__(self) -> Lanes:
        return self.new(self.builder.not_(self.value))

    def __lshift__(self, other: Any) -> Lanes:
        return self.new(self.builder.shl(self.value, self.like(other)))

    def __rshift__(self, other: Any) -> Lanes:
        return self.new(self.builder.lshr(self.value, self.like(other)))

    def shift_signed(self, other: Any) -> Lanes:
        """Arithmetic shift right."""
        return self.new(self.builder.ashr(self.value, self.like(other)))

    def compare(self, operator: str, other: Any) -> Lanes:
        """A lane of 1 bit each; false where a float is NaN, except for ``!=``."""
        if self.element == F32:
            choose = self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
            return self.new(choose(operator, self.value, self.like(other)))
        return self.new(self.builder.icmp_unsigned(operator, self.value, self.like(other)))

    def where(self, yes: Any, no: Any) -> Lanes:
        """With lanes of 1 bit: `yes` where set, else `no`; one of them must be `Lanes`."""
        like = yes if isinstance(yes, Lanes) else no
        return like.new(self.builder.select(self.value, like.like(yes), like.like(no)))

    def at_least(self, low: Any) -> Lanes:
        """The larger one; `low` where this is NaN."""
        return self.compare(">", low).where(self, low)

    def at_most(self, high: Any) -> Lanes:
        """The smaller one; `high` where this is NaN."""
        return self.compare("<", high).where(self, high)

    def bits(self) -> Lanes:
        """The bit pattern of float32 lanes."""
        return self.new(self.builder.bitcast(self.value, self.kind(ir.IntType(32))))

    def floats(self) -> Lanes:
        """32-bit patterns as float32."""
        return self.new(self.builder.bitcast(self.value, self.kind(F32)))

    def truncated(self) -> Lanes:
        """Float32, which must lie between -2^31 and 2^31, to 32 bits, rounded towards zero."""
        return self.new(self.builder.fptosi(self.value, self.kind(ir.IntType(32))))

    def to_float(self) -> Lanes:
        """Signed 32-bit integers, rounded to nearest float32, ties to even."""
        return self.new(self.builder.sitofp(self.value, self.kind(F32)))

    def resized(self, bits: int) -> Lanes:
        """Integers of another width: cut off or filled up with zeros."""
        if self.element.width == bits:
            return self
        change = self.builder.trunc if self.element.width > bits else self.builder.zext
        return self.new(change(self.value, self.kind(ir.IntType(bits))))

    def shuffled(self, other: Lanes, order: list[int]) -> Lanes:
        """Lanes in `order`, which numbers those of `other` after those of this."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
        return self.new(self.builder.shuffle_vector(self.value, other.value, mask))

    def reduced(self, name: str) -> Lanes:
        """Integers joined by LLVM's reduction `name`, such as "umax"."""
        kind = self.value.type
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind.element, [kind]),
            f"llvm.vector.reduce.{name}.v{kind.count}i{kind.element.width}",
        )
        return self.new(self.builder.call(function, [self.value]))

    def counted(self) -> Lanes:
        """How many lanes of 1 bit are set, as a 64-bit scalar."""
        packed = self.builder.bitcast(self.value, ir.IntType(LANES))
        return self.new(self.builder.zext(self.builder.ctpop(packed), I64))


def load_lanes(builder: Any, address: Any, bits: int, lanes: int = LANES) -> Lanes:
    """Integers of `bits` bits at a 64-bit address."""
    return Lanes(builder, load(builder, address, ir.VectorType(ir.IntType(bits), lanes)))


def store_lanes(lanes: Lanes, address: Any) -> None:
    """Write to a 64-bit address."""
    store(lanes.builder, lanes.value, address)


def advanced(builder: Any, address: Any, index: Any, size: int) -> Any:
    """`address + index * size` bytes."""
    return builder.add(address, builder.mul(index, constant(I64, size)))


def spread(builder: Any, scalar: Any) -> Lanes:
    """A run-time 32-bit integer or float32 in every lane."""
    kind = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, constant(I64, 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return Lanes(builder, builder.shuffle_vector(first, first, order))


def gathered(builder: Any, index: Lanes, address: Any, bits: int) -> Lanes:
    """Integers of `bits` bits of a table at `address`, one for each 32-bit index."""
    kind = ir.VectorType(ir.IntType(bits), LANES)
    result = ir.Constant(kind, ir.Undefined)
    for lane in range(LANES):
        where = constant(I64, lane)
        entry = builder.zext(builder.extract_element(index.value, where), I64)
        item = load(builder, advanced(builder, address, entry, bits // 8), kind.element)
        result = builder.insert_element(result, item, where)
    return Lanes(builder, result)


def numbered(builder: Any) -> Lanes:
    """The number of each lane, in 32 bits."""
    return Lanes(builder, ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES))))
