# SPDX-License-Identifier: Apache-2.0
"""Rows of rans8 with AVX-512 (F, BW, VL, VBMI, VBMI2).

Decoding keeps the 32 states as two registers of 32 words, their high and low halves: then one
table lookup, one multiplication and one expansion serve all lanes. `f * (x >> 8)` is the 16-bit
product of f with the middle word of x, and f times its highest byte on top.

Encoding divides, for which 16 bits are too narrow: one register holds the even lanes, one the odd
ones. As the halves of both interleave into lane order with a shift and a blend, a row's words
are still put out by one compression.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .division import most_frequent, reciprocal, rounds_up
from .jit import kernel
from .rows import I8, I32, Machine
from .vector import I64, constant, load, store, vector

B64, W32, D16, Q8 = vector(64, 8), vector(32, 16), vector(16, 32), vector(8, 64)
M16, M32, M64 = vector(16, 1), vector(32, 1), vector(64, 1)

# decode table: index of the symbol of each slot; by index u16 frequency, u16 start, u8 symbol
OWNER, D_FREQUENCY, D_START, D_SYMBOL = 0, 256, 320, 384
DECODE8_TABLE_BYTES = 448
# encode table: index of each symbol, 128 more if it is patched; by index u8 frequency,
# u32 reciprocal, u32 shift | bias << 8 | (256 - frequency) << 24; then 16 dwords `more` and the
# constants of `_sixteen` and `_odd`
INDEX, E_FREQUENCY, RECIPROCAL, FIELDS, MORE, SIXTEEN, ODD = 0, 256, 320, 448, 576, 640, 704
ENCODE8_TABLE_BYTES = 768
PATCHED = 128


class Machine8(Machine):
    """The instructions used here by name, and rows of them."""

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

    # --- decode

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        fixed = (
            self._tables(table, OWNER, 4, B64),
            load(b, self.offset(table, D_FREQUENCY), W32),
            load(b, self.offset(table, D_START), W32),
            load(b, self.offset(table, D_SYMBOL), B64),
        )
        halves = self._tables(states, 0, 2, W32)
        pick = (ir.Constant(vector(32, 32), [2 * i + j for i in range(32)]) for j in (1, 0))
        return fixed, [b.shuffle_vector(*halves, p) for p in pick]

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        owners, frequency, start, symbol = fixed
        high, low = states
        eight, byte = constant(W32, 8), constant(W32, 255)
        owner = []
        for _ in range(2):
            i = self._lookup256(owners, low)
            owner.append(i)
            f, first = self._lookup_words(frequency, i), self._lookup_words(start, i)
            middle = self.call("llvm.fshl.v32i16", W32, high, low, eight)
            rest = b.sub(b.and_(low, byte), first)
            top = b.mul(b.lshr(high, eight), f)
            high = b.add(top, self.call("llvm.x86.avx512.pmulhu.w.512", W32, middle, f))
            low = b.add(b.mul(middle, f), rest)
            carry = b.icmp_unsigned("<", low, rest)
            high = b.select(carry, b.add(high, constant(W32, 1)), high)
        odd = ir.Constant(M64, [i % 2 for i in range(64)])
        pair = b.select(odd, self._bytes(b.shl(self._words(owner[1]), eight)), owner[0])
        store(b, self._lookup64(symbol, pair), out)
        short = b.icmp_unsigned("==", high, constant(W32, 0))
        high = b.select(short, low, high)
        name = "llvm.x86.avx512.mask.expand.v32i16"
        low = self.call(name, W32, load(b, words, W32), low, short)
        return [high, low], self._count(short)

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        high, low = lanes
        self._store_pairs(low, high, 32, states)

    def _store_pairs(self, even: Any, odd: Any, n: int, states: Any) -> None:
        for half in (0, 1):
            order = [n // 2 * half + i // 2 + n * (i % 2) for i in range(n)]
            both = self.builder.shuffle_vector(even, odd, ir.Constant(vector(n, 32), order))
            store(self.builder, both, self.offset(states, 64 * half))

    # --- encode

    def encode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        fixed = (
            self._tables(table, INDEX, 4, B64),
            load(b, self.offset(table, E_FREQUENCY), B64),
            self._tables(table, RECIPROCAL, 2, D16),
            self._tables(table, FIELDS, 2, D16),
            load(b, self.offset(table, MORE), D16),
            # Were they constants, LLVM would load, or permute, what is a blend of registers.
            load(b, self.offset(table, SIXTEEN), W32),
            load(b, self.offset(table, ODD), M16),
        )
        halves = self._tables(states, 0, 2, D16)
        pick = (ir.Constant(vector(16, 32), [2 * i + j for i in range(16)]) for j in (0, 1))
        return fixed, [b.shuffle_vector(*halves, p) for p in pick]

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        index, frequency, _, _, _, sixteen, _ = fixed
        even, odd = states
        i = self._lookup256(index, load(b, symbols, B64))
        patched = b.bitcast(b.icmp_signed("<", i, constant(B64, 0)), I64)
        flag = b.zext(b.icmp_unsigned("!=", patched, constant(I64, 0)), I8)

        f = self._words(self._lookup64(frequency, i))
        limit = b.mul(b.and_(f, constant(W32, 255)), b.lshr(f, constant(W32, 8)))
        odd_words = ir.Constant(M32, [lane % 2 for lane in range(32)])
        half = constant(D16, 16)
        high = b.select(odd_words, self._words(odd), self._words(b.lshr(even, half)))
        low = b.select(odd_words, self._words(b.shl(odd, half)), self._words(even))
        full = b.icmp_unsigned(">=", high, limit)
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
        odd = b.lshr(odd, b.lshr(shift, half))

        code = [b.lshr(self._dwords(i), constant(D16, 8 * j)) for j in range(4)]
        even = self._push(fixed, self._push(fixed, even, code[1]), code[0])
        odd = self._push(fixed, self._push(fixed, odd, code[3]), code[2])
        return [even, odd], end, flag

    def _shift_right(self, x: Any, n: Any) -> Any:
        """`x >> n % 32`, which needs no other bits of `n` to be cleared."""
        return self.call("llvm.fshr.v16i32", D16, constant(D16, 0), x, n)

    def _push(self, fixed: Any, x: Any, i: Any) -> Any:
        """The inverse of a decode step for the symbols of index `i`."""
        b = self.builder
        _, _, reciprocals, fields, more, _, odd_dwords = fixed
        half, full = constant(Q8, 32), constant(Q8, 0xFFFFFFFF)
        fields = self._lookup_dwords(fields, i)
        n, r = (b.bitcast(v, Q8) for v in (b.add(x, more), self._lookup_dwords(reciprocals, i)))
        even = b.lshr(b.mul(b.and_(n, full), b.and_(r, full)), half)
        odd = b.mul(b.lshr(n, half), b.lshr(r, half))
        q = b.select(odd_dwords, self._dwords(odd), self._dwords(even))
        q = self._shift_right(q, fields)
        bias = b.and_(b.lshr(fields, constant(D16, 8)), constant(D16, 511))
        return b.add(b.add(x, bias), b.mul(q, b.lshr(fields, constant(D16, 24))))

    def encode_end(self, lanes: list[Any], states: Any) -> None:
        even, odd = lanes
        self._store_pairs(even, odd, 16, states)


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    words = table.view(np.uint16)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        for slot in range(start, start + f):
            table[OWNER + slot] = np.uint8(i)
        words[(D_FREQUENCY >> 1) + i] = np.uint16(f)
        words[(D_START >> 1) + i] = np.uint16(start)
        table[D_SYMBOL + i] = symbols[i]
        start += f


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    dwords = table.view(np.uint32)
    most = most_frequent(frequencies, symbols.size)
    up = rounds_up(np.int64(frequencies[most]))
    for i in range(256):
        table[INDEX + i] = np.uint8(PATCHED | most)
    for i in range(16):
        dwords[(MORE >> 2) + i] = np.uint32(not up)
        dwords[(SIXTEEN >> 2) + i] = np.uint32(16 << 16 | 16)
    dwords[ODD >> 2] = np.uint32(0xAAAA)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        r, shift, lacks = reciprocal(f, up)
        bias = start + lacks * (256 - f)
        table[INDEX + symbols[i]] = np.uint8(i)
        table[E_FREQUENCY + i] = np.uint8(f)
        dwords[(RECIPROCAL >> 2) + i] = np.uint32(r)
        dwords[(FIELDS >> 2) + i] = np.uint32(shift | bias << 8 | (256 - f) << 24)
        start += f
