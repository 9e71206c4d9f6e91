# SPDX-License-Identifier: Apache-2.0
"""Rows of rans12 with AVX2: tables in memory, of which 8 or 4 entries are gathered at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .avx2 import B32, D8, Q4, W16, Avx2
from .rows import I8, I32
from .rows_rans12_tables import BIAS, BIAS_BITS, COMPLEMENT, MORE, PATCHED, SYMBOL
from .spec import RANS12_BITS
from .vector import I64, constant, load, store

MASK = (1 << RANS12_BITS) - 1


class Machine12(Avx2):
    """Rows of rans12."""

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        return table, self._load_lanes(states)

    encode_begin = decode_begin

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        self._store_lanes(lanes, states)

    encode_end = decode_end

    def _gather(self, name: str, kind: Any, table: Any, i: Any) -> Any:
        """Entries `i` of a table at an address."""
        pointer = self.builder.inttoptr(table, ir.PointerType())
        size = kind.element.width // 8
        every = constant(kind, (1 << 8 * size) - 1)
        return self.call(name, kind, constant(kind, 0), pointer, i, every, constant(I8, size))

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        mask, bits = constant(D8, MASK), constant(D8, RANS12_BITS)
        pairs = [constant(D8, 0)] * 4  # of symbols
        used = constant(I64, 0)
        lanes = states
        for j in (0, 1):
            for k, x in enumerate(lanes):
                entry = self._gather("llvm.x86.avx2.gather.d.d.256", D8, fixed, b.and_(x, mask))
                symbol = b.lshr(entry, constant(D8, SYMBOL - 8 * j))
                pairs[k] = b.or_(pairs[k], b.and_(symbol, constant(D8, 255 << 8 * j)))
                scaled = b.mul(b.lshr(x, bits), b.and_(entry, mask))
                lanes[k] = b.add(scaled, b.and_(b.lshr(entry, bits), mask))
            lanes, n = self._refill(lanes, self.scaled(words, used, 1))
            used = b.add(used, n)
        for group in (0, 1):
            row = self._pack(pairs[2 * group : 2 * group + 2])
            store(b, row, self.offset(out, 32 * group))
        return lanes, used

    def _refill(self, lanes: list[Any], words: Any) -> tuple[list[Any], Any]:
        """Renormalise; the states, and the number of words."""
        b = self.builder
        short = [
            b.sext(b.icmp_unsigned("==", self._high_words(lanes[i : i + 2]), constant(W16, 0)), W16)
            for i in (0, 2)
        ]
        mask = self._mask(short)
        found = self._next_words(words, mask, (0, 2, 1, 3))
        filled = []
        for i in (0, 2):
            fresh = self._spread(found[i], found[i + 1])
            filled += self._interleave(fresh, self._low_words(lanes[i : i + 2]), W16)
        lanes = [
            b.bitcast(self._blend(lane, new, x), D8)
            for lane, new, x in zip(self._widen(short), filled, lanes, strict=True)
        ]
        return lanes, self.popcount(mask)

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        rows = [load(b, self.offset(symbols, 32 * group), B32) for group in (0, 1)]
        more = load(b, self.offset(fixed, MORE), D8)
        seen = constant(D8, 0)
        lanes = states
        for j in (1, 0):
            entries = [self._entries(fixed, rows[k // 2], k % 2, j) for k in range(4)]
            full = []
            for i in (0, 2):
                over = []
                for x, (_, _, fields, complement) in zip(
                    lanes[i : i + 2], entries[i : i + 2], strict=True
                ):
                    seen = b.or_(seen, fields)
                    over.append(b.add(b.lshr(x, constant(D8, 32 - RANS12_BITS)), complement))
                # 2^P and more where x >> 32 - P is the frequency and more
                is_over = b.icmp_unsigned(">=", self._pack(over), constant(W16, MASK + 1))
                full.append(b.sext(is_over, W16))
            lanes, end = self._spill(lanes, full, end)
            lanes = [self._push(x, more, *entry) for x, entry in zip(lanes, entries, strict=True)]
        patched = b.ashr(b.shl(seen, constant(D8, 31 - PATCHED)), constant(D8, 31))
        flag = self._negative(self._bytes(patched))
        return lanes, end, b.zext(b.icmp_unsigned("!=", flag, constant(I32, 0)), I8)

    def _entries(self, table: Any, row: Any, k: int, j: int) -> tuple[Any, Any, Any, Any]:
        """Of symbol `j` of 8 lanes: entries of even and odd dwords, fields, 2^P - frequency."""
        b = self.builder
        widen = [v for lane in range(4) for v in (2 * (4 * k + lane) + j, 128, 128, 128)]
        symbol = b.bitcast(self._shuffle(row, ir.Constant(B32, [*widen] * 2)), Q4)
        name = "llvm.x86.avx2.gather.q.q.256"
        even = self._gather(name, Q4, table, b.and_(symbol, constant(Q4, 0xFFFFFFFF)))
        odd = self._gather(name, Q4, table, b.lshr(symbol, constant(Q4, 32)))
        fields = self._join_dwords(b.lshr(even, constant(Q4, 32)), odd)
        complement = b.and_(b.lshr(fields, constant(D8, COMPLEMENT)), constant(D8, MASK))
        return even, odd, fields, complement

    def _push(self, x: Any, more: Any, even: Any, odd: Any, fields: Any, complement: Any) -> Any:
        """The inverse of a decode step."""
        b = self.builder
        q = self._quotient(x, more, even, odd, b.and_(fields, constant(D8, 31)))
        bias = b.and_(b.lshr(fields, constant(D8, BIAS)), constant(D8, (1 << BIAS_BITS) - 1))
        return b.add(b.add(x, bias), b.mul(q, complement))
