# SPDX-License-Identifier: Apache-2.0
"""Rows of rans8 with AVX-512, whose tables fit into registers.

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

from .arrays import view_u16, view_u32
from .avx512 import B64, D16, M16, M64, Q8, W32, Avx512
from .division import most_frequent, reciprocal, rounds_up
from .jit import kernel
from .rows import I8
from .spec import RANS8_BITS
from .vector import I64, constant, load, store

# decode table: index of the symbol of each slot; by index u16 frequency, u16 start, u8 symbol
OWNER, D_FREQUENCY, D_START, D_SYMBOL = 0, 256, 320, 384
DECODE8_TABLE_BYTES = 448
# encode table: index of each symbol, 128 more if it is patched; by index u8 frequency,
# u32 reciprocal, u32 shift | bias << 8 | (256 - frequency) << 24; then 16 dwords `more` and the
# constants of `_sixteen` and `_odd`
INDEX, E_FREQUENCY, RECIPROCAL, FIELDS, MORE, SIXTEEN, ODD = 0, 256, 320, 448, 576, 640, 704
ENCODE8_TABLE_BYTES = 768
PATCHED = 128


class Machine8(Avx512):
    """Rows of rans8."""

    # --- decode

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        fixed = (
            self._tables(table, OWNER, 4, B64),
            load(b, self.offset(table, D_FREQUENCY), W32),
            load(b, self.offset(table, D_START), W32),
            load(b, self.offset(table, D_SYMBOL), B64),
        )
        low, high = self._load_pairs(states, W32)
        return fixed, [high, low]

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
        self._store_pairs(low, high, states)

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
        return fixed, [*self._load_pairs(states, D16)]

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
        full = b.icmp_unsigned(">=", self._high_words(even, odd), limit)
        even, odd, end = self._spill(even, odd, full, end, sixteen)

        code = [b.lshr(self._dwords(i), constant(D16, 8 * j)) for j in range(4)]
        even = self._push(fixed, self._push(fixed, even, code[1]), code[0])
        odd = self._push(fixed, self._push(fixed, odd, code[3]), code[2])
        return [even, odd], end, flag

    def _push(self, fixed: Any, x: Any, i: Any) -> Any:
        """The inverse of a decode step for the symbols of index `i`."""
        b = self.builder
        _, _, reciprocals, fields, more, _, odd = fixed
        fields = self._lookup_dwords(fields, i)
        r = b.bitcast(self._lookup_dwords(reciprocals, i), Q8)
        q = self._quotient(x, more, r, b.lshr(r, constant(Q8, 32)), fields, odd)
        bias = b.and_(b.lshr(fields, constant(D16, 8)), constant(D16, 511))
        return b.add(b.add(x, bias), b.mul(q, b.lshr(fields, constant(D16, 24))))

    def encode_end(self, lanes: list[Any], states: Any) -> None:
        even, odd = lanes
        self._store_pairs(even, odd, states)


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    words = view_u16(table)
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
    dwords = view_u32(table)
    most = most_frequent(frequencies, symbols.size)
    up = rounds_up(np.int64(frequencies[most]), np.int64(RANS8_BITS))
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
