# SPDX-License-Identifier: Apache-2.0
"""AVX-512 (F, BW, VL, VBMI, VBMI2) for rows of rANS: 64 bytes, 32 words or 16 states a register."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .rows import I32, Machine
from .vector import I64, constant, load, store, vector

B64, W32, D16, Q8 = vector(64, 8), vector(32, 16), vector(16, 32), vector(8, 64)
M16, M32, M64 = vector(16, 1), vector(32, 1), vector(64, 1)


def order(*lanes: int) -> Any:
    """The lanes of a shuffle."""
    return ir.Constant(vector(len(lanes), 32), lanes)


ODD_WORDS = ir.Constant(M32, [lane % 2 for lane in range(32)])


class Avx512(Machine):
    """The instructions used here, by name, and 32-bit states: even lanes, odd lanes."""

    def _bytes(self, x: Any) -> Any:
        return self.builder.bitcast(x, B64)

    def _words(self, x: Any) -> Any:
        return self.builder.bitcast(x, W32)

    def _dwords(self, x: Any) -> Any:
        return self.builder.bitcast(x, D16)

    def _lookup64(self, table: Any, i: Any) -> Any:
        """A byte of `table` for each byte of `i`, whose low 6 bits count."""
        return self.call("llvm.x86.avx512.permvar.qi.512", B64, table, self._bytes(i))

    def _lookup256(self, table: list[Any], i: Any) -> Any:
        """A byte of four registers for each byte of `i`."""
        i = self._bytes(i)
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        low = self.call(name, B64, table[0], i, table[1])
        high = self.call(name, B64, table[2], i, table[3])
        upper = self.builder.icmp_signed("<", i, constant(B64, 0))
        return self.builder.select(upper, high, low)

    def _lookup_words(self, table: Any, i: Any) -> Any:
        """A word of `table` for each word of `i`, whose low 5 bits count."""
        return self.call("llvm.x86.avx512.permvar.hi.512", W32, table, self._words(i))

    def _lookup_dwords(self, table: list[Any], i: Any) -> Any:
        """A dword of two registers for each dword of `i`, whose low 5 bits count."""
        return self.call("llvm.x86.avx512.vpermi2var.d.512", D16, table[0], i, table[1])

    def _tables(self, address: Any, offset: int, n: int, kind: Any) -> list[Any]:
        return [load(self.builder, self.offset(address, offset + 64 * i), kind) for i in range(n)]

    def _count(self, mask: Any) -> Any:
        return self.popcount(self.builder.bitcast(mask, I32))

    def _load_pairs(self, states: Any, kind: Any) -> tuple[Any, Any]:
        """Even and odd elements of two registers."""
        halves = self._tables(states, 0, 2, kind)
        even, odd = (
            self.builder.shuffle_vector(*halves, order(*range(j, 2 * kind.count, 2)))
            for j in (0, 1)
        )
        return even, odd

    def _store_pairs(self, even: Any, odd: Any, states: Any) -> None:
        n = even.type.count
        for half in (0, 1):
            lanes = order(*(n // 2 * half + i // 2 + n * (i % 2) for i in range(n)))
            both = self.builder.shuffle_vector(even, odd, lanes)
            store(self.builder, both, self.offset(states, 64 * half))

    def _shift_right(self, x: Any, n: Any) -> Any:
        """`x >> n % 32`, which needs no other bits of `n` to be cleared."""
        return self.call("llvm.fshr.v16i32", D16, constant(D16, 0), x, n)

    def _high_words(self, even: Any, odd: Any) -> Any:
        """Of 32-bit states, in lane order."""
        b = self.builder
        shifted = self._words(b.lshr(even, constant(D16, 16)))
        return b.select(ODD_WORDS, self._words(odd), shifted)

    def _spill(self, even: Any, odd: Any, full: Any, end: Any, sixteen: Any) -> Any:
        """Put out the low words of lanes in the mask `full`, below `end`: states, new end."""
        b = self.builder
        low = b.select(ODD_WORDS, self._words(b.shl(odd, constant(D16, 16))), self._words(even))
        n = self._count(full)
        end = b.sub(end, b.shl(n, constant(I64, 1)))
        name = "llvm.x86.avx512.mask.compress.v32i16"
        spilled = self.call(name, W32, low, constant(W32, 0), full)
        first = b.lshr(constant(I64, (1 << 32) - 1), b.sub(constant(I64, 32), n))
        first = b.bitcast(b.trunc(first, I32), M32)  # a whole register would destroy later rows
        pointer = b.inttoptr(end, ir.PointerType())
        name = "llvm.masked.store.v32i16.p0"
        self.call(name, ir.VoidType(), spilled, pointer, constant(I32, 1), first)
        shift = self._dwords(b.select(full, sixteen, constant(W32, 0)))
        even = self._shift_right(even, shift)
        return even, b.lshr(odd, b.lshr(shift, constant(D16, 16))), end

    def _quotient(self, x: Any, more: Any, even_r: Any, odd_r: Any, fields: Any, odd: Any) -> Any:
        """`(x + more) * reciprocal >> 32 + fields % 32`; reciprocals in the low halves of qwords."""
        b = self.builder
        half, full = constant(Q8, 32), constant(Q8, 0xFFFFFFFF)
        n = b.bitcast(b.add(x, more), Q8)
        low = b.lshr(b.mul(b.and_(n, full), b.and_(even_r, full)), half)
        high = b.mul(b.lshr(n, half), b.and_(odd_r, full))
        return self._shift_right(b.select(odd, self._dwords(high), self._dwords(low)), fields)
