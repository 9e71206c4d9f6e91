# SPDX-License-Identifier: Apache-2.0
"""Rows of rans8 with AVX2, whose byte shuffles hold tables of 32 entries, and no larger ones.

What has 256 entries elsewhere, the symbol of a slot or the index of a symbol, is a rank here: a
map of 256 bits has ones where a symbol's slots start (or at the symbols that occur), and the ones
up to bit `s` count which symbol it is. Eight bits of the map, and the rank before them, are
looked up by `s >> 3`.

Decoding keeps the high and the low words of the states apart, as with AVX-512, in two sets: set 0
holds lanes 0-7 and 16-23, set 1 lanes 8-15 and 24-31, so that both packed to bytes are in lane order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .avx2 import B16, B32, D8, Q4, W16, Avx2, order, twice
from .division import most_frequent, reciprocal, rounds_up
from .jit import kernel
from .rows import I8, I32
from .spec import RANS8_BITS
from .vector import constant, load, store

# Tables of 32 bytes. Both begin with the ranks before, and the map of, 8 slots or symbols each.
RANK, MAP = 0, 32
D_FREQUENCY, D_START, D_SYMBOL = 64, 96, 128
DECODE8_TABLE_BYTES = 160
# By index: 256 - frequency, shift, bias (2 bytes), reciprocal (4); then `more`, index of the most
# frequent symbol
COMPLEMENT, SHIFT, BIAS, RECIPROCAL, MORE, MOST = 64, 96, 128, 192, 320, 352
ENCODE8_TABLE_BYTES = 384


ONES_OF_NIBBLE = twice(*(i.bit_count() for i in range(16)))
BIT = twice(*(1 << i for i in range(8)), *[0] * 8)
BITS_UP_TO = twice(*((2 << i) - 1 for i in range(8)), *[0] * 8)
FIRST_THEN_SECOND = twice(*range(0, 16, 2), *range(1, 16, 2))


class Machine8(Avx2):
    """Rows of rans8."""

    def _table32(self, table: Any, offset: int) -> list[Any]:
        """Both halves of a table, each in both halves of a register."""
        quarters = (load(self.builder, self.offset(table, offset + 16 * i), B16) for i in (0, 1))
        return [self.builder.shuffle_vector(q, q, order(*[*range(16)] * 2)) for q in quarters]

    def _index32(self, i: Any) -> list[Any]:
        """Indices of both halves of a table: negative where the other one is meant."""
        return [self.builder.add(i, constant(B32, add)) for add in (0x70, 0xF0)]

    def _lookup32(self, table: list[Any], index: list[Any]) -> Any:
        low, high = (self._shuffle(t, i) for t, i in zip(table, index, strict=True))
        return self.builder.or_(low, high)

    def _words_of(self, low: Any, high: Any) -> list[Any]:
        return [self._words(x) for x in self._interleave(low, high, B32)]

    def _rank(self, table: Any, s: Any) -> tuple[Any, Any]:
        """How many bits of the map up to `s` are set, less one; and -1 where bit `s` is not."""
        b = self.builder
        eighth = b.and_(self._bytes(b.lshr(self._words(s), constant(W16, 3))), constant(B32, 31))
        index = self._index32(eighth)
        eight = self._lookup32(self._table32(table, MAP), index)
        bit = b.and_(s, constant(B32, 7))
        seen = b.and_(eight, self._shuffle(BITS_UP_TO, bit))
        high = self._bytes(b.lshr(self._words(seen), constant(W16, 4)))
        rank = self._lookup32(self._table32(table, RANK), index)
        for nibble in (seen, high):
            count = self._shuffle(ONES_OF_NIBBLE, b.and_(nibble, constant(B32, 15)))
            rank = b.add(rank, count)
        absent = b.icmp_unsigned("==", b.and_(eight, self._shuffle(BIT, bit)), constant(B32, 0))
        return rank, b.sext(absent, B32)

    # --- decode

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        quarters = [load(b, self.offset(states, 32 * i), W16) for i in range(4)]
        lanes = []
        for odd in (1, 0):
            pick = order(*(2 * i + odd for i in range(16)))
            halves = [b.shuffle_vector(*quarters[i : i + 2], pick) for i in (0, 2)]
            lanes += [
                b.shuffle_vector(*halves, order(*range(at, at + 8), *range(at + 16, at + 24)))
                for at in (0, 8)
            ]
        return table, lanes

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        table = fixed
        high, low = states[:2], states[2:]
        byte, eight, one, zero = (constant(W16, x) for x in (255, 8, 1, 0))
        symbols = []
        for _ in range(2):
            bytes_of_lanes = (b.and_(x, byte) for x in low)
            s = self.call("llvm.x86.avx2.packuswb", B32, *bytes_of_lanes)
            index = self._index32(self._rank(table, s)[0])
            start, frequency, symbol = (
                self._lookup32(self._table32(table, offset), index)
                for offset in (D_START, D_FREQUENCY, D_SYMBOL)
            )
            symbols.append(symbol)
            f = self._words_of(frequency, constant(B32, 0))
            rest = self._words_of(b.sub(s, start), constant(B32, 0))
            for k in (0, 1):
                middle = b.or_(b.shl(high[k], eight), b.lshr(low[k], eight))
                top = b.mul(b.lshr(high[k], eight), f[k])
                top = b.add(top, self.call("llvm.x86.avx2.pmulhu.w", W16, middle, f[k]))
                product = b.mul(middle, f[k])
                low[k] = b.add(product, rest[k])
                capped = self.call("llvm.uadd.sat.v16i16", W16, product, rest[k])
                no_carry = b.sext(b.icmp_unsigned("==", capped, low[k]), W16)
                high[k] = b.add(b.add(top, one), no_carry)
        first, second = symbols
        both = self._interleave(first, second, B32)
        for half in (0, 1):
            lanes = order(*(16 * half + i + 32 * k for k in (0, 1) for i in range(16)))
            store(b, b.shuffle_vector(*both, lanes), self.offset(out, 32 * half))

        short = [b.sext(b.icmp_unsigned("==", x, zero), W16) for x in high]
        mask = self._mask(short)
        found = self._next_words(words, mask, (0, 1, 2, 3))
        for k in (0, 1):
            fresh = self._spread(found[k], found[k + 2])
            high[k] = self._words(self._blend(short[k], low[k], high[k]))
            low[k] = self._words(self._blend(short[k], fresh, low[k]))
        return [*high, *low], self.popcount(mask)

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        b = self.builder
        for k in (0, 1):
            for half in (0, 1):
                both = order(*(8 * half + i // 2 + 16 * (i % 2) for i in range(16)))
                pairs = b.shuffle_vector(lanes[2 + k], lanes[k], both)
                store(b, pairs, self.offset(states, 64 * half + 32 * k))

    # --- encode

    def encode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        return table, self._load_lanes(states)

    def encode_end(self, lanes: list[Any], states: Any) -> None:
        self._store_lanes(lanes, states)

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        most = load(b, self.offset(fixed, MOST), B32)
        more = load(b, self.offset(fixed, MORE), D8)
        zero = constant(B32, 0)
        patched, full, fields = zero, [], []
        for group in (0, 1):  # of 16 lanes
            code, absent = self._rank(fixed, load(b, self.offset(symbols, 32 * group), B32))
            patched = b.or_(patched, absent)
            code = self._shuffle(self._blend(absent, most, code), FIRST_THEN_SECOND)
            index = self._index32(code)
            complement = self._fields(fixed, COMPLEMENT, 1, index)
            limit = b.mul(*self._words_of(b.sub(zero, complement[0]), zero))
            high = self._high_words(states[2 * group : 2 * group + 2])
            full.append(b.sext(b.icmp_unsigned(">=", high, limit), W16))
            planes = [complement]
            for offset, n_bytes in ((SHIFT, 1), (BIAS, 2), (RECIPROCAL, 4)):
                planes.append(self._fields(fixed, offset, n_bytes, index))
            fields.append([self._dwords_of(p) for p in planes])
        lanes, end = self._spill(states, full, end)
        for k in range(4):
            for symbol in (2, 0):  # the second first
                entry = (f[symbol + k % 2] for f in fields[k // 2])
                lanes[k] = self._push(lanes[k], more, *entry)
        flag = b.icmp_unsigned("!=", self._negative(patched), constant(I32, 0))
        return lanes, end, b.zext(flag, I8)

    def _fields(self, table: Any, offset: int, n_bytes: int, index: list[Any]) -> list[Any]:
        tables = (self._table32(table, offset + 32 * i) for i in range(n_bytes))
        return [self._lookup32(t, index) for t in tables]

    def _dwords_of(self, planes: list[Any]) -> list[Any]:
        """Of up to 4 byte planes: the first symbols of both sets of lanes, then the second ones."""
        padded = [*planes, *[constant(B32, 0)] * (4 - len(planes))]
        low, high = (self._interleave(padded[at], padded[at + 1], B32) for at in (0, 2))
        dwords = []
        for words in zip(low, high, strict=True):
            dwords += [self.builder.bitcast(x, D8) for x in self._interleave(*words, W16)]
        return dwords

    def _push(self, x: Any, more: Any, complement: Any, shift: Any, bias: Any, r: Any) -> Any:
        """The inverse of a decode step."""
        b = self.builder
        r = b.bitcast(r, Q4)
        q = self._quotient(x, more, r, b.lshr(r, constant(Q4, 32)), shift)
        return b.add(b.add(x, bias), b.mul(q, complement))


@kernel
def _fill_ranks(table):  # type: ignore[no-untyped-def]
    rank = np.int64(255)  # one less than the bits so far
    for i in range(32):
        table[RANK + i] = np.uint8(rank & 255)
        for k in range(8):
            rank += (np.int64(table[MAP + i]) >> k) & 1


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    for i in range(32):
        table[MAP + i] = 0
    start = np.int64(0)
    for i in range(symbols.size):
        table[MAP + (start >> 3)] |= np.uint8(1 << (start & 7))
        table[D_FREQUENCY + i] = np.uint8(frequencies[i])
        table[D_START + i] = np.uint8(start)
        table[D_SYMBOL + i] = symbols[i]
        start += np.int64(frequencies[i])
    _fill_ranks(table)


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    most = most_frequent(frequencies, symbols.size)
    up = rounds_up(np.int64(frequencies[most]), np.int64(RANS8_BITS))
    for i in range(32):
        table[MAP + i] = 0
        table[MOST + i] = np.uint8(most)
        table[MORE + i] = np.uint8((not up) and i % 4 == 0)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        r, shift, lacks = reciprocal(f, up)
        bias = start + lacks * (256 - f)
        table[MAP + (symbols[i] >> 3)] |= np.uint8(1 << (symbols[i] & 7))
        table[COMPLEMENT + i] = np.uint8(256 - f)
        table[SHIFT + i] = np.uint8(shift)
        for k in range(2):
            table[BIAS + 32 * k + i] = np.uint8((bias >> (8 * k)) & 255)
        for k in range(4):
            table[RECIPROCAL + 32 * k + i] = np.uint8((r >> (8 * k)) & 255)
        start += f
    _fill_ranks(table)
