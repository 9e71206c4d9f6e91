# SPDX-License-Identifier: Apache-2.0
"""Rows of rans8 with AVX2: 16 lanes a register, tables of 32 entries in byte shuffles.

As with AVX-512 the states are kept as high and low 16-bit words. Set 0 holds the lanes 0-7 and
16-23, set 1 the lanes 8-15 and 24-31, so that packing both sets to bytes gives lane order.

AVX2 has no table of 256 entries, but a rank: bit `s` of a 256-bit map is set where a symbol's slots
start, and the ones up to `s` count which symbol that is. 32 bytes of the map and the ranks before
each are two tables of 32 entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel
from .vector import I64, constant, load, loop, splat, store, vector

B32, W16, B16 = vector(32, 8), vector(16, 16), vector(16, 8)
I32 = ir.IntType(32)

# decode table: ranks before 8 slots each, their map, frequency, start, symbol; 32 bytes each
RANK, MAP, FREQUENCY, START, SYMBOL = 0, 32, 64, 96, 128
DECODE_TABLE_BYTES = 160


def _expansions() -> Any:
    """Shuffles that spread the next words over those of 8 lanes whose bit is set."""
    table = np.full((256, 16), 0x80, np.uint8)
    for mask in range(256):
        lanes = [lane for lane in range(8) if mask >> lane & 1]
        for i, lane in enumerate(lanes):
            table[mask, 2 * lane : 2 * lane + 2] = 2 * i, 2 * i + 1
    return table


EXPANSIONS = _expansions()


def _bytes(*values: int) -> Any:
    """16 bytes, twice."""
    return ir.Constant(B32, [*values] * 2)


class _Machine:
    """The instructions used here, by name."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        signature = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, arguments)

    def bytes(self, x: Any) -> Any:
        return self.builder.bitcast(x, B32)

    def words(self, x: Any) -> Any:
        return self.builder.bitcast(x, W16)

    def shuffle(self, table: Any, i: Any) -> Any:
        """vpshufb: a byte of the 16 in each half, or zero where `i` is negative."""
        return self.call("llvm.x86.avx2.pshuf.b", B32, table, i)

    def half_table(self, address: Any) -> Any:
        """16 bytes in both halves."""
        half = load(self.builder, address, B16)
        order = ir.Constant(vector(32, 32), [*range(16)] * 2)
        return self.builder.shuffle_vector(half, half, order)

    def table32(self, address: Any) -> tuple[Any, Any]:
        return self.half_table(address), self.half_table(
            self.builder.add(address, constant(I64, 16))
        )

    def split_index(self, i: Any) -> tuple[Any, Any]:
        """For a table of 32: shuffle indices that are negative where the other half is meant."""
        b = self.builder
        return b.add(i, constant(B32, 0x70)), b.add(i, constant(B32, 0xF0))

    def lookup32(self, table: tuple[Any, Any], index: tuple[Any, Any]) -> Any:
        low, high = (self.shuffle(t, i) for t, i in zip(table, index, strict=True))
        return self.builder.or_(low, high)

    def pack(self, a: Any, b: Any) -> Any:
        return self.call("llvm.x86.avx2.packuswb", B32, a, b)

    def unpack(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Words with bytes of `low` and `high`, of set 0 and set 1."""
        sets = []
        for s in (0, 1):
            order = [half + 8 * s + i // 2 + 32 * (i % 2) for half in (0, 16) for i in range(16)]
            mixed = self.builder.shuffle_vector(low, high, ir.Constant(vector(32, 32), order))
            sets.append(self.words(mixed))
        return sets[0], sets[1]

    def high_product(self, a: Any, b: Any) -> Any:
        return self.call("llvm.x86.avx2.pmulhu.w", W16, a, b)

    def blend(self, mask: Any, yes: Any, no: Any) -> Any:
        arguments = (self.bytes(no), self.bytes(yes), self.bytes(mask))
        return self.words(self.call("llvm.x86.avx2.pblendvb", B32, *arguments))

    def popcount_bytes(self, x: Any) -> Any:
        ones = _bytes(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4)
        nibble = constant(B32, 15)
        b = self.builder
        high = self.bytes(b.lshr(self.words(x), constant(W16, 4)))
        return b.add(
            self.shuffle(ones, b.and_(x, nibble)), self.shuffle(ones, b.and_(high, nibble))
        )

    def rank(self, ranks: Any, maps: Any, s: Any) -> tuple[Any, Any]:
        """How many bits of the 256 up to `s` are set, less one; and -1 where bit `s` is not."""
        b = self.builder
        eighth = b.and_(self.bytes(b.lshr(self.words(s), constant(W16, 3))), constant(B32, 31))
        index = self.split_index(eighth)
        below = b.and_(s, constant(B32, 7))
        up_to = self.shuffle(_bytes(*((2 << k) - 1 for k in range(8)), *[0] * 8), below)
        itself = self.shuffle(_bytes(*(1 << k for k in range(8)), *[0] * 8), below)
        map_byte = self.lookup32(maps, index)
        seen = self.popcount_bytes(b.and_(map_byte, up_to))
        absent = b.icmp_unsigned("==", b.and_(map_byte, itself), constant(B32, 0))
        return b.add(self.lookup32(ranks, index), seen), b.sext(absent, B32)

    def expanded(self, words: Any, mask: Any, expansions: Any) -> tuple[list[Any], Any]:
        """The next words for the lanes of `mask`, of set 0 and set 1; the address behind them."""
        b = self.builder
        at, spread = [], []
        for group in range(4):
            before = b.and_(mask, constant(I32, (1 << 8 * group) - 1))
            n = b.zext(self.call("llvm.ctpop.i32", I32, before), I64)
            at.append(load(b, b.add(words, b.shl(n, constant(I64, 1))), B16))
            lanes = b.zext(b.and_(b.lshr(mask, constant(I32, 8 * group)), constant(I32, 255)), I64)
            spread.append(load(b, b.add(expansions, b.shl(lanes, constant(I64, 4))), B16))
        both = ir.Constant(vector(32, 32), [*range(32)])
        sets = []
        for s in (0, 1):
            data = b.shuffle_vector(at[s], at[s + 2], both)
            control = b.shuffle_vector(spread[s], spread[s + 2], both)
            sets.append(self.words(self.shuffle(data, control)))
        n = b.zext(self.call("llvm.ctpop.i32", I32, mask), I64)
        return sets, n

    def load_states(self, address: Any) -> tuple[list[Any], list[Any]]:
        """(high words, low words) of both sets."""
        b = self.builder
        quarters = [load(b, b.add(address, constant(I64, 32 * i)), W16) for i in range(4)]
        halves = []
        for odd in (1, 0):
            pick = ir.Constant(vector(16, 32), [2 * i + odd for i in range(16)])
            a = b.shuffle_vector(quarters[0], quarters[1], pick)  # lanes 0-15
            c = b.shuffle_vector(quarters[2], quarters[3], pick)  # lanes 16-31
            halves.append(
                [
                    b.shuffle_vector(a, c, ir.Constant(vector(16, 32), [*order]))
                    for order in ([*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)])
                ]
            )
        return halves[0], halves[1]

    def store_states(self, high: list[Any], low: list[Any], address: Any) -> None:
        b = self.builder
        for s in (0, 1):
            for half in (0, 1):
                order = [8 * half + i // 2 + 16 * (i % 2) for i in range(16)]
                lanes = b.shuffle_vector(low[s], high[s], ir.Constant(vector(16, 32), order))
                store(b, lanes, b.add(address, constant(I64, 64 * half + 32 * s)))


def _decode_row(m: _Machine, table: Any, expansions: Any, words: Any, high: Any, low: Any) -> Any:
    """One row: (high words, low words, words used, symbols of lanes 0-15 and 16-31)."""
    b = m.builder
    ranks, maps, frequency, start, symbol = table
    byte, eight, one = constant(W16, 255), constant(W16, 8), constant(W16, 1)
    symbols = []
    for _ in range(2):
        s = m.pack(b.and_(low[0], byte), b.and_(low[1], byte))
        index = m.split_index(m.rank(ranks, maps, s)[0])
        zero = constant(B32, 0)
        f = m.unpack(m.lookup32(frequency, index), zero)
        rest = m.unpack(b.sub(s, m.lookup32(start, index)), zero)
        symbols.append(m.lookup32(symbol, index))
        for k in (0, 1):
            middle = b.or_(b.shl(high[k], eight), b.lshr(low[k], eight))
            product = b.mul(middle, f[k])
            upper = b.add(m.high_product(middle, f[k]), b.mul(b.lshr(high[k], eight), f[k]))
            low[k] = b.add(product, rest[k])
            capped = m.call("llvm.uadd.sat.v16i16", W16, product, rest[k])
            same = b.sext(b.icmp_unsigned("==", capped, low[k]), W16)
            high[k] = b.add(b.add(upper, one), same)
    short = [b.sext(b.icmp_unsigned("==", h, constant(W16, 0)), W16) for h in high]
    packed = m.call("llvm.x86.avx2.packsswb", B32, *short)
    mask = m.call("llvm.x86.avx2.pmovmskb", I32, packed)
    fresh, n = m.expanded(words, mask, expansions)
    for k in (0, 1):
        high[k] = m.blend(short[k], low[k], high[k])
        low[k] = m.blend(short[k], fresh[k], low[k])
    return high, low, n, m.unpack(*symbols)


def _decode_rows8(n_planes: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def rows(typing_context: Any, arguments: Any, n_rows: Any, expansions: Any) -> Any:  # noqa: ARG001
        signature = types.void(arguments, n_rows, expansions)

        def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
            m = _Machine(b)
            base, count, expansions = values
            planes = []
            initial = []
            for p in range(n_planes):
                words, n_words, table, states, out = (
                    load(b, b.add(base, constant(I64, 40 * p + 8 * i)), I64) for i in range(5)
                )
                planes.append((words, n_words, table, states, out))
                high, low = m.load_states(states)
                initial += [*high, *low, constant(I64, 0)]

            def row(i: Any, state: list[Any]) -> list[Any]:
                following = []
                for p, (words, n_words, table, _, out) in enumerate(planes):
                    *lanes, used = state[5 * p : 5 * p + 5]
                    clamped = b.select(b.icmp_unsigned("<", used, n_words), used, n_words)
                    at = b.add(words, b.shl(clamped, constant(I64, 1)))
                    tables = [
                        m.table32(b.add(table, constant(I64, offset)))
                        for offset in (RANK, MAP, FREQUENCY, START, SYMBOL)
                    ]
                    high, low, n, symbols = _decode_row(
                        m, tables, expansions, at, lanes[:2], lanes[2:]
                    )
                    to = b.add(out, b.shl(i, constant(I64, 6)))
                    for half in (0, 1):
                        order = [8 * half + i + 16 * (k % 2) for k in (0, 1) for i in range(8)]
                        both = b.shuffle_vector(*symbols, ir.Constant(vector(16, 32), order))
                        store(b, both, b.add(to, constant(I64, 32 * half)))
                    following += [*high, *low, b.add(used, n)]
                return following

            final = loop(b, count, initial, row)
            for p, (_, _, _, states, _) in enumerate(planes):
                *lanes, used = final[5 * p : 5 * p + 5]
                m.store_states(lanes[:2], lanes[2:], states)
                store(b, used, b.add(base, constant(I64, 40 * p + 8)))

        return signature, generate

    return rows


_decode_one, _decode_two = _decode_rows8(1), _decode_rows8(2)


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    for i in range(DECODE_TABLE_BYTES):
        table[i] = 0
    start = np.int64(0)
    for i in range(symbols.size):
        table[MAP + (start >> 3)] |= np.uint8(1 << (start & 7))
        table[FREQUENCY + i] = frequencies[i]
        table[START + i] = np.uint8(start)
        table[SYMBOL + i] = symbols[i]
        start += np.int64(frequencies[i])
    rank = 255  # one less than the starts so far
    for i in range(32):
        table[RANK + i] = np.uint8(rank & 255)
        for k in range(8):
            rank += (np.int64(table[MAP + i]) >> k) & 1


@kernel
def decode_rows8(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    arguments = np.empty((1, 5), np.uint64)
    arguments[0, 0] = words.ctypes.data
    arguments[0, 1] = n_words
    arguments[0, 2] = table.ctypes.data
    arguments[0, 3] = states.ctypes.data
    arguments[0, 4] = out.ctypes.data
    _decode_one(np.uint64(arguments.ctypes.data), np.uint64(n_rows), np.uint64(EXPANSIONS.ctypes.data))
    return np.int64(arguments[0, 1])


@kernel
def decode_rows8_pair(  # type: ignore[no-untyped-def]
    words_a, n_words_a, table_a, states_a, out_a, words_b, n_words_b, table_b, states_b, out_b, n_rows
):
    arguments = np.empty((2, 5), np.uint64)
    arguments[0, 0] = words_a.ctypes.data
    arguments[0, 1] = n_words_a
    arguments[0, 2] = table_a.ctypes.data
    arguments[0, 3] = states_a.ctypes.data
    arguments[0, 4] = out_a.ctypes.data
    arguments[1, 0] = words_b.ctypes.data
    arguments[1, 1] = n_words_b
    arguments[1, 2] = table_b.ctypes.data
    arguments[1, 3] = states_b.ctypes.data
    arguments[1, 4] = out_b.ctypes.data
    _decode_two(np.uint64(arguments.ctypes.data), np.uint64(n_rows), np.uint64(EXPANSIONS.ctypes.data))
    return np.int64(arguments[0, 1]), np.int64(arguments[1, 1])


# encode table: ranks and map of the symbols; frequency complement, shift, bias (2 bytes),
# reciprocal (4 bytes), 32 bytes each; then `more` and the code of patched symbols, 32 bytes each
COMPLEMENT, SHIFT, BIAS, RECIPROCAL, MORE, MOST = 64, 96, 128, 192, 320, 352
ENCODE_TABLE_BYTES = 384
D8, Q4 = vector(8, 32), vector(4, 64)


def _compressions() -> Any:
    """Shuffles that put the words of the lanes whose bit is set last of 8, in order."""
    table = np.full((256, 16), 0x80, np.uint8)
    for mask in range(256):
        lanes = [lane for lane in range(8) if mask >> lane & 1]
        for i, lane in enumerate(lanes):
            to = 8 - len(lanes) + i
            table[mask, 2 * to : 2 * to + 2] = 2 * lane, 2 * lane + 1
    return table


COMPRESSIONS = _compressions()


def _interleave(b: Any, low: Any, high: Any, kind: Any) -> tuple[Any, Any]:
    """vpunpckl, vpunpckh: elements of both in turn, from the lower and upper halves of 16 bytes."""
    n = kind.count // 2
    low, high = b.bitcast(low, kind), b.bitcast(high, kind)
    halves = []
    for h in (0, 1):
        order = [
            half + h * n // 2 + i // 2 + kind.count * (i % 2) for half in (0, n) for i in range(n)
        ]
        halves.append(b.shuffle_vector(low, high, ir.Constant(vector(kind.count, 32), order)))
    return halves[0], halves[1]


def _dwords(b: Any, planes: list[Any]) -> list[Any]:
    """From byte planes (low to high) the dwords: lanes 0-3, 4-7 of a; the same of b."""
    zero = constant(B32, 0)
    first = _interleave(b, planes[0], planes[1] if len(planes) > 1 else zero, B32)
    second = _interleave(b, planes[2], planes[3], B32) if len(planes) > 2 else (zero, zero)
    result = []
    for x, y in zip(first, second, strict=True):
        result += [b.bitcast(v, D8) for v in _interleave(b, x, y, W16)]
    return result


def _push(m: _Machine, x: Any, more: Any, reciprocal: Any, shift: Any, bias: Any, rest: Any) -> Any:
    b = m.builder
    half, full = constant(Q4, 32), constant(Q4, 0xFFFFFFFF)
    n, r = b.bitcast(b.add(x, more), Q4), b.bitcast(reciprocal, Q4)
    even = b.lshr(b.mul(b.and_(n, full), b.and_(r, full)), half)
    odd = b.mul(b.lshr(n, half), b.lshr(r, half))
    pick = ir.Constant(vector(8, 1), [i % 2 for i in range(8)])
    q = b.lshr(b.select(pick, b.bitcast(odd, D8), b.bitcast(even, D8)), shift)
    return b.add(b.add(x, bias), b.mul(q, rest))


@intrinsic  # type: ignore[untyped-decorator]
def _encode_one(typing_context: Any, arguments: Any, n_rows: Any, compressions: Any) -> Any:  # noqa: ARG001
    signature = types.void(arguments, n_rows, compressions)

    def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
        m = _Machine(b)
        base, count, compressions = values
        symbols, table, states, end, flags = (
            load(b, b.add(base, constant(I64, 8 * i)), I64) for i in range(5)
        )

        def entry(offset: int) -> Any:
            return b.add(table, constant(I64, offset))

        def state_at(k: int, half: int) -> Any:
            lane = 16 * (k // 2) + 4 * (k % 2) + 8 * half
            return b.add(states, constant(I64, 4 * lane))

        def row(k: Any, state: list[Any]) -> list[Any]:
            *x, at = state
            r = b.sub(b.sub(count, constant(I64, 1)), k)
            more = load(b, entry(MORE), D8)
            most = load(b, entry(MOST), B32)
            ranks, maps = m.table32(entry(RANK)), m.table32(entry(MAP))
            patched = constant(B32, 0)
            full_words, low_words, parts = [], [], []
            for g in (0, 1):  # 16 lanes
                where = b.add(b.add(symbols, b.shl(r, constant(I64, 6))), constant(I64, 32 * g))
                code, absent = m.rank(ranks, maps, load(b, where, B32))
                code = m.bytes(m.blend(absent, most, code))
                patched = b.or_(patched, absent)
                code = m.shuffle(code, _bytes(*range(0, 16, 2), *range(1, 16, 2)))
                index = m.split_index(code)

                def field(offset: int, n: int, index: Any = index) -> list[Any]:
                    return [
                        m.lookup32(m.table32(entry(offset + 32 * i)), index) for i in range(n)
                    ]

                rest = field(COMPLEMENT, 1)
                f_a, f_b = _interleave(b, b.sub(constant(B32, 0), rest[0]), constant(B32, 0), B32)
                limit = b.mul(m.words(f_a), m.words(f_b))
                pair = x[2 * g : 2 * g + 2]
                high = [b.lshr(v, constant(D8, 16)) for v in pair]
                low = [b.and_(v, constant(D8, 0xFFFF)) for v in pair]
                packed = m.call("llvm.x86.avx2.packusdw", W16, *high)
                low_words.append(m.call("llvm.x86.avx2.packusdw", W16, *low))
                full = b.sext(b.icmp_unsigned(">=", packed, limit), W16)
                full_words.append(full)
                for j, mask in enumerate(_interleave(b, full, full, W16)):
                    x[2 * g + j] = b.bitcast(m.blend(mask, high[j], pair[j]), D8)
                fields = [
                    _dwords(b, planes)
                    for planes in (field(RECIPROCAL, 4), field(SHIFT, 1), field(BIAS, 2), rest)
                ]
                for j in (0, 1):
                    for symbol in (2, 0):
                        v = [f[symbol + j] for f in fields]
                        x[2 * g + j] = _push(m, x[2 * g + j], more, *v)
            flag = m.call("llvm.x86.avx2.pmovmskb", I32, patched)
            flag = b.zext(b.icmp_unsigned("!=", flag, constant(I32, 0)), ir.IntType(8))
            store(b, flag, b.add(flags, r))
            # bits of lanes 0-7, 16-23, 8-15, 24-31
            mask = m.call("llvm.x86.avx2.packsswb", B32, *full_words)
            mask = m.call("llvm.x86.avx2.pmovmskb", I32, mask)
            for g, half, shift in ((1, 1, 24), (1, 0, 8), (0, 1, 16), (0, 0, 0)):
                lanes = b.and_(b.lshr(mask, constant(I32, shift)), constant(I32, 255))
                control = load(
                    b, b.add(compressions, b.shl(b.zext(lanes, I64), constant(I64, 4))), B16
                )
                eight = b.shuffle_vector(
                    m.bytes(low_words[g]),
                    m.bytes(low_words[g]),
                    ir.Constant(vector(16, 32), [16 * half + i for i in range(16)]),
                )
                last = m.call("llvm.x86.ssse3.pshuf.b.128", B16, eight, control)
                store(b, last, b.sub(at, constant(I64, 16)))
                n = b.zext(m.call("llvm.ctpop.i32", I32, lanes), I64)
                at = b.sub(at, b.shl(n, constant(I64, 1)))
            return [*x, at]

        initial = []
        join = ir.Constant(vector(8, 32), [*range(8)])
        quad = vector(4, 32)
        for k in range(4):
            halves = [load(b, state_at(k, half), quad) for half in (0, 1)]
            initial.append(b.shuffle_vector(*halves, join))
        *x, at = loop(b, count, [*initial, end], row)
        for k in range(4):
            for half in (0, 1):
                order = ir.Constant(quad, [4 * half + i for i in range(4)])
                store(b, b.shuffle_vector(x[k], x[k], order), state_at(k, half))
        store(b, at, b.add(base, constant(I64, 24)))

    return signature, generate


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    for i in range(ENCODE_TABLE_BYTES):
        table[i] = 0
    most = 0
    for i in range(symbols.size):
        table[MAP + (symbols[i] >> 3)] |= np.uint8(1 << (symbols[i] & 7))
        if frequencies[i] > frequencies[most]:
            most = i
    rank = 255
    for i in range(32):
        table[RANK + i] = np.uint8(rank & 255)
        for k in range(8):
            rank += (np.int64(table[MAP + i]) >> k) & 1
    f = np.int64(frequencies[most])
    up = f > 128 and f * ((np.int64(1) << 39) % f) > 1 << 15
    for i in range(32):
        table[MOST + i] = np.uint8(most)
        table[MORE + i] = np.uint8((not up) and i % 4 == 0)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        shift = np.int64(0)
        while (2 << shift) < f:
            shift += 1
        bias = start
        if up:
            if f == 1:
                reciprocal = (np.int64(1) << 32) - 1
                bias += 255
            else:
                reciprocal = ((np.int64(1) << (32 + shift)) + f - 1) // f
        elif f & (f - 1) == 0:
            shift = np.int64(0)
            while (1 << shift) < f:
                shift += 1
            reciprocal = (np.int64(1) << 32) - 1
        else:
            reciprocal = (np.int64(1) << (32 + shift)) // f
        table[COMPLEMENT + i] = np.uint8(256 - f)
        table[SHIFT + i] = np.uint8(shift)
        table[BIAS + i] = np.uint8(bias & 255)
        table[BIAS + 32 + i] = np.uint8(bias >> 8)
        for k in range(4):
            table[RECIPROCAL + 32 * k + i] = np.uint8((reciprocal >> (8 * k)) & 255)
        start += f


@kernel
def encode_rows8(symbols, n_rows, table, states, words, row_flags):  # type: ignore[no-untyped-def]
    arguments = np.empty(5, np.uint64)
    arguments[0] = symbols.ctypes.data
    arguments[1] = table.ctypes.data
    arguments[2] = states.ctypes.data
    end = np.uint64(words.ctypes.data) + np.uint64(2 * words.size)
    arguments[3] = end
    arguments[4] = row_flags.ctypes.data
    _encode_one(
        np.uint64(arguments.ctypes.data), np.uint64(n_rows), np.uint64(COMPRESSIONS.ctypes.data)
    )
    return np.int64(end - arguments[3]) >> 1
