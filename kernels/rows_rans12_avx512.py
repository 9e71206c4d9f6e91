# SPDX-License-Identifier: Apache-2.0
"""Rows of rans12 with AVX-512: tables in memory, of which 16 or 8 entries are gathered at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .avx512 import D16, M16, Q8, W32, Avx512
from .rows import I8, I32
from .rows_rans12_tables import BIAS, BIAS_BITS, COMPLEMENT, MORE, ODD, PATCHED, SIXTEEN, SYMBOL
from .spec import RANS12_BITS, RANS_STATE_LOW, RANS_WORD_BITS
from .vector import I64, constant, load, store, vector


class Machine12(Avx512):
    """Rows of rans12."""

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        return table, [*self._load_pairs(states, D16)]

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        mask, bits = constant(D16, (1 << RANS12_BITS) - 1), constant(D16, RANS12_BITS)
        table = b.inttoptr(fixed, ir.PointerType())
        every = ir.Constant(M16, [1] * 16)
        row, used = constant(D16, 0), constant(I64, 0)
        for j in (0, 1):
            stepped = []
            for odd, x in enumerate(states):
                name = "llvm.x86.avx512.mask.gather.dpi.512"
                slot = b.and_(x, mask)
                entry = self.call(name, D16, constant(D16, 0), table, slot, every, constant(I32, 4))
                scaled = b.mul(b.lshr(x, bits), b.and_(entry, mask))
                stepped.append(b.add(scaled, b.and_(b.lshr(entry, bits), mask)))
                at = 16 * odd + 8 * j  # of the symbol in its dword
                symbol = b.and_(b.lshr(entry, constant(D16, SYMBOL - at)), constant(D16, 255 << at))
                row = b.or_(row, symbol)
            states, n = self._refill(stepped, self.scaled(words, used, 1))
            used = b.add(used, n)
        store(b, row, out)
        return states, used

    def _refill(self, states: list[Any], words: Any) -> tuple[list[Any], Any]:
        """Renormalise; the states, and the number of words."""
        b = self.builder
        short = b.icmp_unsigned("==", self._high_words(*states), constant(W32, 0))
        name = "llvm.x86.avx512.mask.expand.v32i16"
        fresh = self.call(name, W32, load(b, words, W32), constant(W32, 0), short)
        fresh = self._dwords(fresh)
        half = constant(D16, RANS_WORD_BITS)
        filled = []
        for x, word in zip(
            states, (b.and_(fresh, constant(D16, 0xFFFF)), b.lshr(fresh, half)), strict=True
        ):
            low = b.icmp_unsigned("<", x, constant(D16, RANS_STATE_LOW))
            filled.append(b.or_(b.select(low, b.shl(x, half), x), word))
        return filled, self._count(short)

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        even, odd = lanes
        self._store_pairs(even, odd, states)

    encode_end = decode_end

    def encode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        fixed = (
            table,
            load(b, self.offset(table, MORE), D16),
            load(b, self.offset(table, SIXTEEN), W32),
            load(b, self.offset(table, ODD), M16),
        )
        return fixed, [*self._load_pairs(states, D16)]

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        row = load(b, symbols, Q8)
        seen = constant(D16, 0)
        for j in (1, 0):
            entries = [self._entries(fixed, row, 16 * odd + 8 * j) for odd in (0, 1)]
            over = []
            for x, (_, _, fields, complement) in zip(states, entries, strict=True):
                seen = b.or_(seen, fields)
                over.append(b.add(b.lshr(x, constant(D16, 32 - RANS12_BITS)), complement))
            # 2^P and more where x >> 32 - P is the frequency and more, of both in lane order
            both = self._words(b.or_(over[0], b.shl(over[1], constant(D16, 16))))
            full = b.icmp_unsigned(">=", both, constant(W32, 1 << RANS12_BITS))
            even, odd, end = self._spill(states[0], states[1], full, end, fixed[2])
            states = [self._push(fixed, even, entries[0]), self._push(fixed, odd, entries[1])]
        patched = b.and_(seen, constant(D16, 1 << PATCHED))
        patched = b.bitcast(b.icmp_unsigned("!=", patched, constant(D16, 0)), ir.IntType(16))
        flag = b.zext(b.icmp_unsigned("!=", patched, constant(ir.IntType(16), 0)), I8)
        return states, end, flag

    def _entries(self, fixed: Any, row: Any, at: int) -> tuple[Any, Any, Any, Any]:
        """Of byte `at` of each dword: entries of even and odd dwords, fields, 2^P - frequency."""
        b = self.builder
        table = b.inttoptr(fixed[0], ir.PointerType())
        every = ir.Constant(vector(8, 1), [1] * 8)
        halves = []
        for half in (0, 32):
            symbol = b.and_(b.lshr(row, constant(Q8, half + at)), constant(Q8, 255))
            name = "llvm.x86.avx512.mask.gather.qpq.512"
            halves.append(
                self.call(name, Q8, constant(Q8, 0), table, symbol, every, constant(I32, 8))
            )
        even, odd = halves
        fields = b.select(fixed[3], self._dwords(odd), self._dwords(b.lshr(even, constant(Q8, 32))))
        complement = b.and_(
            b.lshr(fields, constant(D16, COMPLEMENT)), constant(D16, (1 << RANS12_BITS) - 1)
        )
        return even, odd, fields, complement

    def _push(self, fixed: Any, x: Any, entry: tuple[Any, Any, Any, Any]) -> Any:
        """The inverse of a decode step."""
        b = self.builder
        even, odd, fields, complement = entry
        q = self._quotient(x, fixed[1], even, odd, fields, fixed[3])
        bias = b.and_(b.lshr(fields, constant(D16, BIAS)), constant(D16, (1 << BIAS_BITS) - 1))
        return b.add(b.add(x, bias), b.mul(q, complement))
