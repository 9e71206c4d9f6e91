# SPDX-License-Identifier: Apache-2.0
"""Rows of rans8 with AVX2, whose byte shuffles hold tables of 32 entries, and no larger ones.

What has 256 entries elsewhere, the symbol of a slot or the index of a symbol, is a rank here: a
map of 256 bits has ones where a symbol's slots start (or at the symbols that occur), and the ones
up to bit `s` count which symbol it is. Eight bits of the map, and the rank before them, are
looked up by `s >> 3`.

Decoding keeps the high and the low words of the states apart, as with AVX-512, in two sets: set 0
holds lanes 0-7 and 16-23, set 1 lanes 8-15 and 24-31, so that both packed to bytes are in lane order.
Encoding holds lanes 0-3 and 8-11, 4-7 and 12-15, and the same of 16-31, as 32-bit states, which is
how bytes of 16 lanes widen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .division import most_frequent, reciprocal, rounds_up
from .jit import kernel
from .rows import I8, I32, Machine
from .vector import I64, constant, load, store, vector

B16, B32, W16, D4, D8, Q4 = (
    vector(lanes, bits) for lanes, bits in ((16, 8), (32, 8), (16, 16), (4, 32), (8, 32), (4, 64))
)

# Tables of 32 bytes. Both begin with the ranks before, and the map of, 8 slots or symbols each.
RANK, MAP = 0, 32
D_FREQUENCY, D_START, D_SYMBOL = 64, 96, 128
DECODE8_TABLE_BYTES = 160
# By index: 256 - frequency, shift, bias (2 bytes), reciprocal (4); then `more`, index of the most
# frequent symbol
COMPLEMENT, SHIFT, BIAS, RECIPROCAL, MORE, MOST = 64, 96, 128, 192, 320, 352
ENCODE8_TABLE_BYTES = 384


def _shuffles(*, spread: bool) -> bytes:
    """For each mask of 8 lanes a shuffle of 8 words.

    It spreads the first words over the lanes of the mask, or puts the lanes of the mask last.
    """
    table = np.full((256, 8, 2), 0x80, np.uint8)
    for mask in range(256):
        lanes = [lane for lane in range(8) if mask >> lane & 1]
        for i, lane in enumerate(lanes):
            to, at = (lane, i) if spread else (8 - len(lanes) + i, lane)
            table[mask, to] = 2 * at, 2 * at + 1
    return table.tobytes()


def _order(*lanes: int) -> Any:
    return ir.Constant(vector(len(lanes), 32), lanes)


def _twice(*values: int) -> Any:
    """16 bytes in both halves of a register."""
    return ir.Constant(B32, [*values] * 2)


ONES_OF_NIBBLE = _twice(*(i.bit_count() for i in range(16)))
BIT = _twice(*(1 << i for i in range(8)), *[0] * 8)
BITS_UP_TO = _twice(*((2 << i) - 1 for i in range(8)), *[0] * 8)
FIRST_THEN_SECOND = _twice(*range(0, 16, 2), *range(1, 16, 2))


class Machine8(Machine):
    """The instructions used here by name, and rows of them."""

    def _bytes(self, x: Any) -> Any:
        return self.builder.bitcast(x, B32)

    def _words(self, x: Any) -> Any:
        return self.builder.bitcast(x, W16)

    def _shuffle(self, table: Any, i: Any) -> Any:
        """A byte of each half's 16, or zero where `i` is negative."""
        return self.call("llvm.x86.avx2.pshuf.b", B32, table, i)

    def _table32(self, table: Any, offset: int) -> list[Any]:
        """Both halves of a table, each in both halves of a register."""
        quarters = (load(self.builder, self.offset(table, offset + 16 * i), B16) for i in (0, 1))
        return [self.builder.shuffle_vector(q, q, _order(*[*range(16)] * 2)) for q in quarters]

    def _index32(self, i: Any) -> list[Any]:
        """Indices of both halves of a table: negative where the other one is meant."""
        return [self.builder.add(i, constant(B32, add)) for add in (0x70, 0xF0)]

    def _lookup32(self, table: list[Any], index: list[Any]) -> Any:
        low, high = (self._shuffle(t, i) for t, i in zip(table, index, strict=True))
        return self.builder.or_(low, high)

    def _interleave(self, low: Any, high: Any, kind: Any) -> list[Any]:
        """Elements of both in turn, of the lower and of the upper 8 bytes in each half."""
        b = self.builder
        low, high = b.bitcast(low, kind), b.bitcast(high, kind)
        n = kind.count
        return [
            b.shuffle_vector(
                low,
                high,
                _order(
                    *(
                        half + upper + i // 2 + n * (i % 2)
                        for half in (0, n // 2)
                        for i in range(n // 2)
                    )
                ),
            )
            for upper in (0, n // 4)
        ]

    def _words_of(self, low: Any, high: Any) -> list[Any]:
        return [self._words(x) for x in self._interleave(low, high, B32)]

    def _blend(self, mask: Any, yes: Any, no: Any) -> Any:
        """Bytes of `yes` where the mask's are negative."""
        arguments = (self._bytes(x) for x in (no, yes, mask))
        return self.call("llvm.x86.avx2.pblendvb", B32, *arguments)

    def _negative(self, x: Any) -> Any:
        """A bit for each byte."""
        return self.call("llvm.x86.avx2.pmovmskb", I32, x)

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

    def _lanes_of(self, mask: Any, first: int) -> Any:
        """Eight bits of an i32, as i64."""
        b = self.builder
        return b.zext(b.and_(b.lshr(mask, constant(I32, first)), constant(I32, 255)), I64)

    # --- decode

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        spreads = self.static_table("gpucodec_spread_words", _shuffles(spread=True))
        quarters = [load(b, self.offset(states, 32 * i), W16) for i in range(4)]
        lanes = []
        for odd in (1, 0):
            pick = _order(*(2 * i + odd for i in range(16)))
            halves = [b.shuffle_vector(*quarters[i : i + 2], pick) for i in (0, 2)]
            lanes += [
                b.shuffle_vector(*halves, _order(*range(at, at + 8), *range(at + 16, at + 24)))
                for at in (0, 8)
            ]
        return (table, spreads), lanes

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        table, spreads = fixed
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
            order = _order(*(16 * half + i + 32 * k for k in (0, 1) for i in range(16)))
            store(b, b.shuffle_vector(*both, order), self.offset(out, 32 * half))

        short = [b.sext(b.icmp_unsigned("==", x, zero), W16) for x in high]
        mask = self._negative(self.call("llvm.x86.avx2.packsswb", B32, *short))
        data, control = [], []
        for group in range(4):
            before = self.popcount(b.and_(mask, constant(I32, (1 << 8 * group) - 1)))
            data.append(load(b, self.scaled(words, before, 1), B16))
            control.append(load(b, self.scaled(spreads, self._lanes_of(mask, 8 * group), 4), B16))
        for k in (0, 1):
            join = _order(*range(32))
            fresh = self._shuffle(
                b.shuffle_vector(data[k], data[k + 2], join),
                b.shuffle_vector(control[k], control[k + 2], join),
            )
            high[k] = self._words(self._blend(short[k], low[k], high[k]))
            low[k] = self._words(self._blend(short[k], fresh, low[k]))
        return [*high, *low], self.popcount(mask)

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        b = self.builder
        for k in (0, 1):
            for half in (0, 1):
                order = _order(*(8 * half + i // 2 + 16 * (i % 2) for i in range(16)))
                pairs = b.shuffle_vector(lanes[2 + k], lanes[k], order)
                store(b, pairs, self.offset(states, 64 * half + 32 * k))

    # --- encode

    def encode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        b = self.builder
        gathers = self.static_table("gpucodec_gather_words", _shuffles(spread=False))
        lanes = []
        for k in range(4):
            halves = (load(b, self._state_at(states, k, half), D4) for half in (0, 1))
            lanes.append(b.shuffle_vector(*halves, _order(*range(8))))
        return (table, gathers), lanes

    def _state_at(self, states: Any, k: int, half: int) -> Any:
        return self.offset(states, 4 * (16 * (k // 2) + 4 * (k % 2) + 8 * half))

    def encode_end(self, lanes: list[Any], states: Any) -> None:
        b = self.builder
        for k, x in enumerate(lanes):
            for half in (0, 1):
                four = b.shuffle_vector(x, x, _order(*range(4 * half, 4 * half + 4)))
                store(b, four, self._state_at(states, k, half))

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        table, gathers = fixed
        most = load(b, self.offset(table, MOST), B32)
        patched = constant(B32, 0)
        lanes, spilled, masks = [], [], []
        for group in (0, 1):  # of 16 lanes
            x = load(b, self.offset(symbols, 32 * group), B32)
            code, absent = self._rank(table, x)
            patched = b.or_(patched, absent)
            code = self._shuffle(self._blend(absent, most, code), FIRST_THEN_SECOND)
            pair, low, full = self._encode_lanes(
                table, states[2 * group : 2 * group + 2], self._index32(code)
            )
            lanes += pair
            spilled.append(self._bytes(low))
            masks.append(full)
        flag = b.icmp_unsigned("!=", self._negative(patched), constant(I32, 0))

        # Bits of lanes 0-7, 16-23, 8-15, 24-31. A store of the last lanes clears what is below.
        mask = self._negative(self.call("llvm.x86.avx2.packsswb", B32, *masks))
        for group, half, first in ((1, 1, 24), (1, 0, 8), (0, 1, 16), (0, 0, 0)):
            control = load(b, self.scaled(gathers, self._lanes_of(mask, first), 4), B16)
            part = _order(*range(16 * half, 16 * half + 16))
            eight = b.shuffle_vector(spilled[group], spilled[group], part)
            last = self.call("llvm.x86.ssse3.pshuf.b.128", B16, eight, control)
            store(b, last, self.offset(end, -16))
            n = self.popcount(b.and_(mask, constant(I32, 255 << first)))
            end = b.sub(end, b.shl(n, constant(I64, 1)))
        return lanes, end, b.zext(flag, I8)

    def _encode_lanes(self, table: Any, states: list[Any], index: list[Any]) -> Any:
        """Code two symbols on 16 lanes; states, low words before it, -1 where they are put out."""
        b = self.builder
        zero = constant(B32, 0)

        def field(offset: int, n_bytes: int) -> list[Any]:
            return [
                self._lookup32(self._table32(table, offset + 32 * i), index) for i in range(n_bytes)
            ]

        complement = field(COMPLEMENT, 1)
        limit = b.mul(*self._words_of(b.sub(zero, complement[0]), zero))
        high = [b.lshr(x, constant(D8, 16)) for x in states]
        low = [b.and_(x, constant(D8, 0xFFFF)) for x in states]
        pack = "llvm.x86.avx2.packusdw"
        full = b.sext(b.icmp_unsigned(">=", self.call(pack, W16, *high), limit), W16)
        spilled = self.call(pack, W16, *low)
        more = load(b, self.offset(table, MORE), D8)
        fields = [
            self._dwords_of(planes)
            for planes in (field(RECIPROCAL, 4), field(SHIFT, 1), field(BIAS, 2), complement)
        ]
        lanes = []
        for k, mask in enumerate(self._interleave(full, full, W16)):
            x = b.bitcast(self._blend(mask, high[k], states[k]), D8)
            for symbol in (2, 0):  # the second first
                x = self._push(x, more, *(f[symbol + k] for f in fields))
            lanes.append(x)
        return lanes, spilled, full

    def _dwords_of(self, planes: list[Any]) -> list[Any]:
        """Of up to 4 byte planes: the first symbols of both sets of lanes, then the second ones."""
        padded = [*planes, *[constant(B32, 0)] * (4 - len(planes))]
        low, high = (self._interleave(padded[at], padded[at + 1], B32) for at in (0, 2))
        dwords = []
        for words in zip(low, high, strict=True):
            dwords += [self.builder.bitcast(x, D8) for x in self._interleave(*words, W16)]
        return dwords

    def _push(self, x: Any, more: Any, r: Any, shift: Any, bias: Any, complement: Any) -> Any:
        """The inverse of a decode step."""
        b = self.builder
        half, full = constant(Q4, 32), constant(Q4, 0xFFFFFFFF)
        n, r = (b.bitcast(v, Q4) for v in (b.add(x, more), r))
        even = b.lshr(b.mul(b.and_(n, full), b.and_(r, full)), half)
        odd = b.mul(b.lshr(n, half), b.lshr(r, half))
        q = b.shuffle_vector(
            b.bitcast(even, D8), b.bitcast(odd, D8), _order(*(i + 8 * (i % 2) for i in range(8)))
        )
        return b.add(b.add(x, bias), b.mul(b.lshr(q, shift), complement))


@kernel
def _fill_ranks(table):  # type: ignore[no-untyped-def]
    rank = 255  # one less than the bits so far
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
    up = rounds_up(np.int64(frequencies[most]))
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
