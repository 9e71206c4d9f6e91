# SPDX-License-Identifier: Apache-2.0
"""The loops over rows of interleaved rANS, whatever the instruction set.

A `Machine` codes one row; `decoder` and `encoder` make Numba intrinsics of it that code all rows
of a plane, or of two planes in turn. They take the address of u64 arguments:

* decode, for each plane: words, their number, decode table, states, symbols to write. The number
  of words is replaced by how many were asked for, which may be more than there are.
* encode: symbols, encode table, states, end of the words, a byte to write for each row: whether
  it holds a symbol that must be patched. The end of the words is replaced by their begin.

All but the numbers are addresses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .spec import ROW
from .vector import I64, constant, load, loop, store

I8, I16, I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
ARGUMENTS = 5  # u64 for each plane


class Machine(ABC):
    """Writes the LLVM code of one row. States are a list of values carried from row to row."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call an LLVM intrinsic."""
        signature = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, arguments)

    def offset(self, address: Any, n_bytes: int) -> Any:
        """`address + n_bytes`."""
        return self.builder.add(address, constant(I64, n_bytes))

    def scaled(self, address: Any, i: Any, shift: int) -> Any:
        """`address + (i << shift)`."""
        return self.builder.add(address, self.builder.shl(i, constant(I64, shift)))

    def popcount(self, mask: Any) -> Any:
        """Ones of an i32, as i64."""
        return self.builder.zext(self.call("llvm.ctpop.i32", I32, mask), I64)

    def static_table(self, name: str, values: bytes) -> Any:
        """The address of constant bytes in the compiled code."""
        data = ir.Constant(ir.ArrayType(I8, len(values)), bytearray(values))
        pointer = cgutils.global_constant(self.builder.module, name, data)
        return self.builder.ptrtoint(pointer, I64)

    @abstractmethod
    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        """What stays the same over the rows, and the states at address `states`."""

    @abstractmethod
    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        """Decode 64 symbols to address `out`; the new states and the number of words used."""

    @abstractmethod
    def decode_end(self, lanes: list[Any], states: Any) -> None:
        """Write the states to address `states`."""

    @abstractmethod
    def encode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        """What stays the same over the rows, and the states at address `states`."""

    @abstractmethod
    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        """Encode 64 symbols, words downwards from `end`; states, begin of the words, i8 flag."""

    @abstractmethod
    def encode_end(self, lanes: list[Any], states: Any) -> None:
        """Write the states to address `states`."""


def _arguments(m: Machine, base: Any, plane: int) -> list[Any]:
    at = m.offset(base, 8 * ARGUMENTS * plane)
    return [load(m.builder, m.offset(at, 8 * i), I64) for i in range(ARGUMENTS)]


def decoder(machine: type[Machine], n_planes: int) -> Any:
    """An intrinsic `(arguments, n_rows)` that decodes `n_planes` planes row by row in turn."""

    @intrinsic  # type: ignore[untyped-decorator]
    def decode_rows(typing_context: Any, arguments: Any, n_rows: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
            m = machine(b)
            base, count = values
            planes = [_arguments(m, base, p) for p in range(n_planes)]
            begun = [m.decode_begin(table, states) for _, _, table, states, _ in planes]
            initial: list[Any] = []
            for _, lanes in begun:
                initial += [*lanes, constant(I64, 0)]
            width = len(initial) // n_planes

            def one_row(i: Any, state: list[Any]) -> list[Any]:
                following = []
                for p, (words, n_words, _, _, out) in enumerate(planes):
                    *lanes, used = state[p * width : (p + 1) * width]
                    # Hostile streams run dry: they read the states behind the words, no further.
                    inside = b.icmp_unsigned("<", used, n_words)
                    at = m.scaled(words, b.select(inside, used, n_words), 1)
                    to = b.add(out, b.mul(i, constant(I64, ROW)))
                    lanes, n = m.decode_row(begun[p][0], lanes, at, to)
                    following += [*lanes, b.add(used, n)]
                return following

            final = loop(b, count, initial, one_row)
            for p, (_, _, _, states, _) in enumerate(planes):
                *lanes, used = final[p * width : (p + 1) * width]
                m.decode_end(lanes, states)
                store(b, used, m.offset(base, 8 * (ARGUMENTS * p + 1)))

        return types.void(arguments, n_rows), generate

    return decode_rows


def encoder(machine: type[Machine]) -> Any:
    """An intrinsic `(arguments, n_rows)` that encodes a plane from its last row to its first."""

    @intrinsic  # type: ignore[untyped-decorator]
    def encode_rows(typing_context: Any, arguments: Any, n_rows: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
            m = machine(b)
            base, count = values
            symbols, table, states, end, flags = _arguments(m, base, 0)
            fixed, lanes = m.encode_begin(table, states)

            def one_row(i: Any, state: list[Any]) -> list[Any]:
                *lanes, at = state
                row = b.sub(b.sub(count, constant(I64, 1)), i)
                source = b.add(symbols, b.mul(row, constant(I64, ROW)))
                lanes, at, flag = m.encode_row(fixed, lanes, source, at)
                store(b, flag, b.add(flags, row))
                return [*lanes, at]

            *lanes, at = loop(b, count, [*lanes, end], one_row)
            m.encode_end(lanes, states)
            store(b, at, m.offset(base, 24))

        return types.void(arguments, n_rows), generate

    return encode_rows
