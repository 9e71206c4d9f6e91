# SPDX-License-Identifier: Apache-2.0
"""Rows of rANS lane by lane, for every processor.

States stay in memory: 32 of them fit no register file. Table entries are spread over several
fields rather than packed, since a load joined to a multiplication or an addition is cheaper than
taking a packed entry apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import view_u32, view_u64
from .jit import kernel
from .rows import I8, I16, I32, Machine
from .spec import LANES, RANS8_BITS, RANS12_BITS, RANS_STATE_LOW, RANS_WORD_BITS
from .vector import I64, constant, load, loop, store

# rans8 decode table: (frequency, slot - start) u32 pairs, then u32 of the symbol in each byte
SYMBOLS = 8 << RANS8_BITS
SYMBOLS_BYTES = 4 << RANS8_BITS
DECODE8_TABLE_BYTES = SYMBOLS + 4 * SYMBOLS_BYTES
# rans12 decode table: u32 with frequency, slot - start and symbol from the lowest bits up
DECODE12_TABLE_BYTES = 4 << RANS12_BITS
# encode table by symbol: u64 reciprocal; (2^P - frequency, frequency) and (start, patched) u32
COMPLEMENT, FREQUENCY, START, PATCHED = 2048, 2052, 4096, 4100
ENCODE8_TABLE_BYTES = ENCODE12_TABLE_BYTES = 6144
AT_ONCE = 4  # lanes whose code is interleaved


class Plain(Machine):
    """One lane after the other; `bits` is P of the format."""

    bits: int

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        return (table, states), []

    encode_begin = decode_begin

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        pass

    encode_end = decode_end

    def _entry(self, table: Any, i: Any, offset: int, kind: Any) -> Any:
        """The field of entry `i` of a table of 8 bytes an entry."""
        return load(self.builder, self.offset(self.scaled(table, i, 3), offset), kind)

    def _refill(self, x: Any, at: Any) -> tuple[Any, Any]:
        """Renormalise a state with the word at `at`; the state and where the next word is."""
        b = self.builder
        short = b.icmp_unsigned("<", x, constant(I32, RANS_STATE_LOW))
        word = b.zext(load(b, at, I16), I32)
        filled = b.or_(b.shl(x, constant(I32, RANS_WORD_BITS)), word)
        at = self.scaled(at, b.zext(short, I64), 1)
        return b.select(short, filled, x), at

    def _spill(self, x: Any, full: Any, at: Any) -> tuple[Any, Any]:
        """Put out the low word of `x` below `at` if `full`; the state and the new begin."""
        b = self.builder
        store(b, b.trunc(x, I16), self.offset(at, -2))
        at = b.sub(at, b.shl(b.zext(full, I64), constant(I64, 1)))
        return b.select(full, b.lshr(x, constant(I32, RANS_WORD_BITS)), x), at

    def _push(self, x: Any, table: Any, i: Any) -> Any:
        """The inverse of a decode step for symbol `i`.

        The quotient of x < f * 2^(32-P) by f < 2^P is exact with a reciprocal rounded up at
        2^(32+P), and no product reaches 2^64.
        """
        b = self.builder
        product = b.mul(b.zext(x, I64), self._entry(table, i, 0, I64))
        q = b.trunc(b.lshr(product, constant(I64, 32 + self.bits)), I32)
        x = b.add(x, self._entry(table, i, START, I32))
        return b.add(x, b.mul(q, self._entry(table, i, COMPLEMENT, I32)))


class Plain8(Plain):
    """rans8: two symbols, then one renormalisation."""

    bits = RANS8_BITS

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        table, memory = fixed

        def steps(i: Any, _state: Any) -> list[Any]:
            first = b.mul(i, constant(I64, AT_ONCE))
            where = [self.offset(self.scaled(memory, first, 2), 4 * k) for k in range(AT_ONCE)]
            xs = [load(b, at, I32) for at in where]
            slots = []
            for _ in range(2):
                slot = [b.zext(b.trunc(x, I8), I64) for x in xs]
                slots.append(slot)
                high = [b.lshr(x, constant(I32, RANS8_BITS)) for x in xs]
                scaled = [
                    b.mul(h, self._entry(table, s, 0, I32)) for h, s in zip(high, slot, strict=True)
                ]
                xs = [
                    b.add(p, self._entry(table, s, 4, I32))
                    for p, s in zip(scaled, slot, strict=True)
                ]
            for k in range(0, AT_ONCE, 2):
                four = constant(I32, 0)
                for j, slot in enumerate(
                    (slots[0][k], slots[1][k], slots[0][k + 1], slots[1][k + 1])
                ):
                    at = self.offset(self.scaled(table, slot, 2), SYMBOLS + j * SYMBOLS_BYTES)
                    four = b.or_(four, load(b, at, I32))
                store(b, four, self.offset(self.scaled(out, first, 1), 2 * k))
            for x, at in zip(xs, where, strict=True):
                store(b, x, at)
            return []

        def refills(i: Any, state: list[Any]) -> list[Any]:
            at = state[0]
            for k in range(AT_ONCE):
                lane = self.offset(self.scaled(memory, b.mul(i, constant(I64, AT_ONCE)), 2), 4 * k)
                x, at = self._refill(load(b, lane, I32), at)
                store(b, x, lane)
            return [at]

        loop(b, constant(I64, LANES // AT_ONCE), [], steps)
        [end] = loop(b, constant(I64, LANES // AT_ONCE), [words], refills)
        return [], b.lshr(b.sub(end, words), constant(I64, 1))

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        table, memory = fixed

        def lanes(i: Any, state: list[Any]) -> list[Any]:
            at, flags = state
            for k in range(AT_ONCE):
                lane = b.sub(constant(I64, LANES - 1 - k), b.mul(i, constant(I64, AT_ONCE)))
                pair = b.zext(load(b, self.scaled(symbols, lane, 1), I16), I64)
                first, second = b.and_(pair, constant(I64, 255)), b.lshr(pair, constant(I64, 8))
                where = self.scaled(memory, lane, 2)
                x = load(b, where, I32)
                limit = constant(I32, 1)
                for symbol in (first, second):
                    limit = b.mul(limit, self._entry(table, symbol, FREQUENCY, I32))
                    flags = b.or_(flags, self._entry(table, symbol, PATCHED, I32))
                high = b.lshr(x, constant(I32, RANS_WORD_BITS))
                x, at = self._spill(x, b.icmp_unsigned(">=", high, limit), at)
                x = self._push(self._push(x, table, second), table, first)
                store(b, x, where)
            return [at, flags]

        count = constant(I64, LANES // AT_ONCE)
        at, flags = loop(b, count, [end, constant(I32, 0)], lanes)
        return [], at, b.trunc(flags, I8)


class Plain12(Plain):
    """rans12: a renormalisation for each symbol."""

    bits = RANS12_BITS

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        b = self.builder
        table, memory = fixed
        mask, bits = constant(I32, (1 << RANS12_BITS) - 1), constant(I32, RANS12_BITS)

        def half(j: int, at: Any) -> Any:
            def lanes(i: Any, state: list[Any]) -> list[Any]:
                at = state[0]
                for k in range(AT_ONCE):
                    lane = self.offset(b.mul(i, constant(I64, AT_ONCE)), k)
                    where = self.scaled(memory, lane, 2)
                    x = load(b, where, I32)
                    slot = b.zext(b.and_(x, mask), I64)
                    entry = load(b, self.scaled(table, slot, 2), I32)
                    symbol = b.trunc(b.lshr(entry, constant(I32, 2 * RANS12_BITS)), I8)
                    store(b, symbol, self.offset(self.scaled(out, lane, 1), j))
                    x = b.mul(b.lshr(x, bits), b.and_(entry, mask))
                    x, at = self._refill(b.add(x, b.and_(b.lshr(entry, bits), mask)), at)
                    store(b, x, where)
                return [at]

            return loop(b, constant(I64, LANES // AT_ONCE), [at], lanes)[0]

        end = half(1, half(0, words))
        return [], b.lshr(b.sub(end, words), constant(I64, 1))

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        b = self.builder
        table, memory = fixed

        def half(j: int, at: Any, flags: Any) -> tuple[Any, Any]:
            def lanes(i: Any, state: list[Any]) -> list[Any]:
                at, flags = state
                for k in range(AT_ONCE):
                    lane = b.sub(constant(I64, LANES - 1 - k), b.mul(i, constant(I64, AT_ONCE)))
                    symbol = load(b, self.offset(self.scaled(symbols, lane, 1), j), I8)
                    symbol = b.zext(symbol, I64)
                    where = self.scaled(memory, lane, 2)
                    x = load(b, where, I32)
                    flags = b.or_(flags, self._entry(table, symbol, PATCHED, I32))
                    high = b.lshr(x, constant(I32, 32 - RANS12_BITS))
                    limit = self._entry(table, symbol, FREQUENCY, I32)
                    x, at = self._spill(x, b.icmp_unsigned(">=", high, limit), at)
                    store(b, self._push(x, table, symbol), where)
                return [at, flags]

            at, flags = loop(b, constant(I64, LANES // AT_ONCE), [at, flags], lanes)
            return at, flags

        at, flags = half(0, *half(1, end, constant(I32, 0)))
        return [], at, b.trunc(flags, I8)


Machine8, Machine12 = Plain8, Plain12


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    entries = view_u32(table)
    slot = np.int64(0)
    for i in range(symbols.size):
        symbol = np.int64(symbols[i])
        for j in range(np.int64(frequencies[i])):
            entries[2 * slot] = np.uint32(frequencies[i])
            entries[2 * slot + 1] = np.uint32(j)
            for k in range(4):
                entries[(SYMBOLS + k * SYMBOLS_BYTES >> 2) + slot] = np.uint32(symbol << (8 * k))
            slot += 1


@kernel
def decode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    entries = view_u32(table)
    slot = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        for j in range(f):
            entry = np.int64(symbols[i]) << (2 * RANS12_BITS) | j << RANS12_BITS | f
            entries[slot + j] = np.uint32(entry)
        slot += f


@kernel
def _encode_entry(entries, symbol, f, start, patched, bits):  # type: ignore[no-untyped-def]
    view_u64(entries)[symbol] = np.uint64(((np.int64(1) << (32 + bits)) + f - 1) // f)
    entries[(COMPLEMENT >> 2) + 2 * symbol] = np.uint32((1 << bits) - f)
    entries[(FREQUENCY >> 2) + 2 * symbol] = np.uint32(f)
    entries[(START >> 2) + 2 * symbol] = np.uint32(start)
    entries[(PATCHED >> 2) + 2 * symbol] = np.uint32(patched)


@kernel
def _encode_table(symbols, frequencies, table, bits):  # type: ignore[no-untyped-def]
    entries = view_u32(table)
    most = np.int64(0)
    most_start = np.int64(0)
    start = np.int64(0)
    for i in range(symbols.size):
        if frequencies[i] > frequencies[most]:
            most = i
            most_start = start
        start += np.int64(frequencies[i])
    for symbol in range(256):
        _encode_entry(entries, symbol, np.int64(frequencies[most]), most_start, 1, bits)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        _encode_entry(entries, np.int64(symbols[i]), f, start, 0, bits)
        start += f


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _encode_table(symbols, frequencies, table, RANS8_BITS)


@kernel
def encode_table12(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    _encode_table(symbols, frequencies, table, RANS12_BITS)
