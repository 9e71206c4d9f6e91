# SPDX-License-Identifier: Apache-2.0
"""Rows of rANS with AVX-512 (F, BW, VL, VBMI, VBMI2): 16 lanes a register.

Two registers hold the 32 states, even lanes in one and odd lanes in the other. Seen as 16-bit
words, the halves of both then interleave into lane order with a shift and a blend, so that a
whole row's words are put out, or taken in, by one compress or expand; and the four symbols of
lanes 2j and 2j+1 are the four bytes of dword j.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import rows_plain
from .jit import kernel
from .spec import LANES, RANS8_MAX_SYMBOLS, ROW
from .vector import I64, constant, load, loop, splat, store, vector

B64, W32, D16, Q8 = vector(64, 8), vector(32, 16), vector(16, 32), vector(8, 64)
I32 = ir.IntType(32)

# decode table: owner of each slot (index into the rest), 256 - frequency, start, symbol
OWNER, FREQUENCY, START, SYMBOL = 0, 256, 320, 384
INDEX, E_FREQUENCY, RECIPROCAL, ONE_MORE = 0, 256, 320, 576
ENCODE8_BYTES = 640


class _Machine:
    """The instructions used here, by name."""

    odd_bytes = ir.Constant(vector(64, 1), [i % 2 for i in range(64)])

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def _call(self, name: str, result: Any, arguments: list[Any]) -> Any:
        signature = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, arguments)

    def bytes(self, x: Any) -> Any:
        return self.builder.bitcast(x, B64)

    def words(self, x: Any) -> Any:
        return self.builder.bitcast(x, W32)

    def dwords(self, x: Any) -> Any:
        return self.builder.bitcast(x, D16)

    def lookup64(self, table: Any, i: Any) -> Any:
        """vpermb: a byte of `table` for each byte of `i`."""
        name = "llvm.x86.avx512.permvar.qi.512"
        return self._call(name, B64, [table, self.bytes(i)])

    def lookup256(self, tables: list[Any], i: Any) -> Any:
        """A byte of four registers for each byte of `i`."""
        i = self.bytes(i)
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        low = self._call(name, B64, [tables[0], i, tables[1]])
        high = self._call(name, B64, [tables[2], i, tables[3]])
        upper = self.builder.icmp_signed("<", i, constant(B64, 0))
        return self.builder.select(upper, high, low)

    def lookup32_dwords(self, tables: list[Any], i: Any) -> Any:
        """vpermi2d: a dword of two registers for each dword of `i`."""
        name = "llvm.x86.avx512.vpermi2var.d.512"
        return self._call(name, D16, [tables[0], i, tables[1]])

    def load_states32(self, address: Any) -> tuple[Any, Any]:
        a = load(self.builder, address, D16)
        b = load(self.builder, self.builder.add(address, constant(I64, 64)), D16)
        pick = [ir.Constant(vector(16, 32), [2 * i + odd for i in range(16)]) for odd in (0, 1)]
        even, odd = (self.builder.shuffle_vector(a, b, p) for p in pick)
        return even, odd

    def store_states32(self, even: Any, odd: Any, address: Any) -> None:
        for half in (0, 1):
            order = [8 * half + i // 2 + 16 * (i % 2) for i in range(16)]
            both = self.builder.shuffle_vector(even, odd, ir.Constant(vector(16, 32), order))
            store(self.builder, both, self.builder.add(address, constant(I64, 64 * half)))

    def lookup32(self, table: Any, i: Any) -> Any:
        """vpermw: a word of `table` for each word of `i`, whose low 5 bits count."""
        name = "llvm.x86.avx512.permvar.hi.512"
        return self._call(name, W32, [table, self.words(i)])

    def funnel_left(self, high: Any, low: Any, n: Any) -> Any:
        return self._call("llvm.fshl.v32i16", W32, [high, low, n])

    def high_product(self, a: Any, b: Any) -> Any:
        """vpmulhuw"""
        return self._call("llvm.x86.avx512.pmulhu.w.512", W32, [a, b])

    def expand_words(self, x: Any, other: Any, mask: Any) -> Any:
        """The words of `x` in turn where `mask` is set, `other` elsewhere."""
        name = "llvm.x86.avx512.mask.expand.v32i16"
        return self._call(name, W32, [x, other, mask])

    def compress_words(self, x: Any, mask: Any) -> Any:
        name = "llvm.x86.avx512.mask.compress.v32i16"
        return self._call(name, W32, [x, constant(W32, 0), mask])

    def count(self, mask: Any) -> Any:
        bits = self.builder.bitcast(mask, I32)
        return self.builder.zext(self._call("llvm.ctpop.i32", I32, [bits]), I64)

    def store_words(self, x: Any, address: Any, mask: Any) -> None:
        pointer = self.builder.inttoptr(address, ir.PointerType())
        arguments = [x, pointer, constant(I32, 1), mask]
        self._call("llvm.masked.store.v32i16.p0", ir.VoidType(), arguments)

    def funnel_right(self, x: Any, n: Any) -> Any:
        """vpshrdvd: `x >> n % 32`."""
        return self._call("llvm.fshr.v16i32", D16, [constant(D16, 0), x, n])

    def low_bytes(self, x: Any) -> Any:
        """The lowest byte of each dword."""
        keep = ir.Constant(vector(64, 1), [int(i % 4 == 0) for i in range(64)])
        return self.dwords(self.builder.select(keep, x, constant(B64, 0)))

    def interleave(self, even: Any, odd: Any) -> Any:
        """The low words of both, in lane order."""
        pick = ir.Constant(vector(32, 1), [i % 2 for i in range(32)])
        shifted = self.builder.shl(odd, constant(D16, 16))
        return self.builder.select(pick, self.words(shifted), self.words(even))

    def interleave_high(self, even: Any, odd: Any) -> Any:
        """The high words of both, in lane order."""
        pick = ir.Constant(vector(32, 1), [i % 2 for i in range(32)])
        shifted = self.builder.lshr(even, constant(D16, 16))
        return self.builder.select(pick, self.words(odd), self.words(shifted))

    def load_states(self, address: Any) -> tuple[Any, Any]:
        """(high words, low words) of 32 states."""
        a = load(self.builder, address, W32)
        b = load(self.builder, self.builder.add(address, constant(I64, 64)), W32)
        pick = [ir.Constant(vector(32, 32), [2 * i + high for i in range(32)]) for high in (1, 0)]
        high, low = (self.builder.shuffle_vector(a, b, p) for p in pick)
        return high, low

    def store_states(self, high: Any, low: Any, address: Any) -> None:
        for half in (0, 1):
            order = [16 * half + i // 2 + 32 * (i % 2) for i in range(32)]
            both = self.builder.shuffle_vector(low, high, ir.Constant(vector(32, 32), order))
            store(self.builder, both, self.builder.add(address, constant(I64, 64 * half)))


def _decode_row(m: _Machine, tables: list[Any], words: Any, states: list[Any]) -> Any:
    """One row: (high words, low words, words used, the row's symbols)."""
    b = m.builder
    owners, frequency, start, symbol = tables[:4], m.words(tables[4]), m.words(tables[5]), tables[6]
    high, low = states
    eight, byte = constant(W32, 8), constant(W32, 255)
    owner = []
    for _ in range(2):
        i = m.lookup256(owners, low)
        owner.append(i)
        f, first = m.lookup32(frequency, i), m.lookup32(start, i)
        middle = m.funnel_left(high, low, eight)
        rest = b.sub(b.and_(low, byte), first)
        high = b.add(b.mul(b.lshr(high, eight), f), m.high_product(middle, f))
        low = b.add(b.mul(middle, f), rest)
        carry = b.icmp_unsigned("<", low, rest)
        high = b.select(carry, b.add(high, constant(W32, 1)), high)
    short = b.icmp_unsigned("==", high, constant(W32, 0))
    high = b.select(short, low, high)
    low = m.expand_words(load(b, words, W32), low, short)
    pair = b.select(m.odd_bytes, m.bytes(b.shl(m.words(owner[1]), eight)), owner[0])
    return high, low, m.count(short), m.lookup64(symbol, pair)


def _decode_rows8(n_planes: int) -> Any:
    """Rows of `n_planes` interleaved planes: `(arguments, n_rows)`.

    `arguments` is the address of u64[n_planes, 5]: words, n_words, table, states, out; n_words
    is replaced by the words used.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def rows(typing_context: Any, arguments: Any, n_rows: Any) -> Any:  # noqa: ARG001
        signature = types.void(arguments, n_rows)

        def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
            m = _Machine(b)
            base, count = values
            planes = []
            initial = []
            for p in range(n_planes):
                words, n_words, table, states, out = (
                    load(b, b.add(base, constant(I64, 40 * p + 8 * i)), I64) for i in range(5)
                )
                tables = [load(b, b.add(table, constant(I64, 64 * i)), B64) for i in range(7)]
                planes.append((words, n_words, tables, states, out))
                initial += [*m.load_states(states), constant(I64, 0)]

            def row(i: Any, state: list[Any]) -> list[Any]:
                following = []
                for p, (words, n_words, tables, _, out) in enumerate(planes):
                    even, odd, used = state[3 * p : 3 * p + 3]
                    clamped = b.select(b.icmp_unsigned("<", used, n_words), used, n_words)
                    at = b.add(words, b.shl(clamped, constant(I64, 1)))
                    even, odd, n, symbols = _decode_row(m, tables, at, [even, odd])
                    store(b, symbols, b.add(out, b.shl(i, constant(I64, 6))))
                    following += [even, odd, b.add(used, n)]
                return following

            final = loop(b, count, initial, row)
            for p, (_, _, _, states, _) in enumerate(planes):
                m.store_states(*final[3 * p : 3 * p + 2], states)
                store(b, final[3 * p + 2], b.add(base, constant(I64, 40 * p + 8)))

        return signature, generate

    return rows


_decode_one, _decode_two = _decode_rows8(1), _decode_rows8(2)


@kernel
def decode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    words = table.view(np.uint16)
    start = np.int64(0)
    for i in range(symbols.size):
        f = np.int64(frequencies[i])
        table[OWNER + start : OWNER + start + f] = np.uint8(i)
        words[(FREQUENCY >> 1) + i] = np.uint16(f)
        words[(START >> 1) + i] = np.uint16(start)
        table[SYMBOL + i] = symbols[i]
        start += f


@kernel
def decode_rows8(words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    arguments = np.empty((1, 5), np.uint64)
    arguments[0, 0] = words.ctypes.data
    arguments[0, 1] = n_words
    arguments[0, 2] = table.ctypes.data
    arguments[0, 3] = states.ctypes.data
    arguments[0, 4] = out.ctypes.data
    _decode_one(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
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
    _decode_two(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(arguments[0, 1]), np.int64(arguments[1, 1])


def _divide_step(m: _Machine, tables: list[Any], more: Any, x: Any, i: Any) -> Any:
    """Push symbol `i` (low 5 bits of each dword) on the states `x`."""
    b = m.builder
    half, full = constant(Q8, 32), constant(Q8, 0xFFFFFFFF)
    reciprocal, fields = m.lookup32_dwords(tables[0:2], i), m.lookup32_dwords(tables[2:4], i)
    n, r = (b.bitcast(v, Q8) for v in (b.add(x, more), reciprocal))
    even = b.lshr(b.mul(b.and_(n, full), b.and_(r, full)), half)
    odd = b.mul(b.lshr(n, half), b.lshr(r, half))
    q = m.funnel_right(b.select(m.odd_dwords, m.dwords(odd), m.dwords(even)), fields)
    complement = b.lshr(fields, constant(D16, 24))
    bias = b.and_(b.lshr(fields, constant(D16, 8)), constant(D16, 511))
    return b.add(b.add(x, bias), b.mul(q, complement))


@intrinsic  # type: ignore[untyped-decorator]
def _encode_one(typing_context: Any, arguments: Any, n_rows: Any) -> Any:  # noqa: ARG001
    """`arguments`: address of u64[5]: symbols, table, states, end of the words, row flags.

    The end of the words is replaced by their begin.
    """
    signature = types.void(arguments, n_rows)

    def generate(_context: Any, b: Any, _signature: Any, values: Any) -> None:
        m = _Machine(b)
        base, count = values
        symbols, table, states, words, flags = (
            load(b, b.add(base, constant(I64, 8 * i)), I64) for i in range(5)
        )

        def entry(offset: int, kind: Any) -> Any:
            return load(b, b.add(table, constant(I64, offset)), kind)

        index = [entry(INDEX + 64 * i, B64) for i in range(4)]
        frequency = entry(E_FREQUENCY, B64)
        fields = [entry(RECIPROCAL + 64 * i, D16) for i in range(4)]
        more = entry(ONE_MORE, D16)
        m.odd_dwords = entry(640, vector(16, 1))
        sixteen = entry(704, W32)

        def row(k: Any, state: list[Any]) -> list[Any]:
            even, odd, at = state
            r = b.sub(b.sub(count, constant(I64, 1)), k)
            i = m.lookup256(index, load(b, b.add(symbols, b.shl(r, constant(I64, 6))), B64))
            patched = b.bitcast(b.icmp_signed("<", i, constant(B64, 0)), I64)
            flag = b.zext(b.icmp_unsigned("!=", patched, constant(I64, 0)), ir.IntType(8))
            store(b, flag, b.add(flags, r))
            f = m.words(m.lookup64(frequency, i))
            limit = b.mul(b.and_(f, constant(W32, 255)), b.lshr(f, constant(W32, 8)))
            full = b.icmp_unsigned(">=", m.interleave_high(even, odd), limit)
            n = b.shl(m.count(full), constant(I64, 1))
            at = b.sub(at, n)
            mask = b.lshr(constant(I64, (1 << 32) - 1), b.sub(constant(I64, 32), m.count(full)))
            mask = b.bitcast(b.trunc(mask, I32), vector(32, 1))
            m.store_words(m.compress_words(m.interleave(even, odd), full), at, mask)
            shift = m.dwords(b.select(full, sixteen, constant(W32, 0)))
            even = m.funnel_right(even, shift)
            odd = b.lshr(odd, b.lshr(shift, constant(D16, 16)))
            codes = [m.dwords(i)] + [b.lshr(m.dwords(i), constant(D16, 8 * j)) for j in (1, 2, 3)]
            even = _divide_step(m, fields, more, even, codes[1])
            odd = _divide_step(m, fields, more, odd, codes[3])
            even = _divide_step(m, fields, more, even, codes[0])
            odd = _divide_step(m, fields, more, odd, codes[2])
            return [even, odd, at]

        even, odd, at = loop(b, count, [*m.load_states32(states), words], row)
        m.store_states32(even, odd, states)
        store(b, at, b.add(base, constant(I64, 24)))

    return signature, generate


@kernel
def encode_table8(symbols, frequencies, table):  # type: ignore[no-untyped-def]
    """Exact reciprocals for quotients below 2^24.

    `q = (x + more) * reciprocal >> 32 + shift`, where the reciprocal is rounded up and `more` is 0,
    or rounded down and `more` is 1. Rounding up is exact while `f * (-2^k mod f) <= 2^(k - 24)`,
    rounding down while `f * (2^k mod f) <= 2^(k - 24)`, with k = 32 + shift; for f < 128 both are,
    for others at least one is, and there is only one such f in a table unless it is 128.
    """
    dwords = table[RECIPROCAL:ONE_MORE].view(np.uint32)
    table[640] = 0xAA
    table[641] = 0xAA
    table[704:768].view(np.uint16)[:] = 16
    table[E_FREQUENCY : ONE_MORE] = 0
    most = 0
    for i in range(symbols.size):
        if frequencies[i] > frequencies[most]:
            most = i
    f = np.int64(frequencies[most])
    up = f > 128 and f * ((np.int64(1) << 39) % f) > 1 << 15
    table[INDEX : INDEX + 256] = np.uint8(128 | most)
    table[ONE_MORE : ONE_MORE + 64].view(np.uint32)[:] = 0 if up else 1
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
        else:
            if f & (f - 1) == 0:
                shift = np.int64(0)
                while (1 << shift) < f:
                    shift += 1
                reciprocal = (np.int64(1) << 32) - 1
            else:
                reciprocal = (np.int64(1) << (32 + shift)) // f
        table[INDEX + symbols[i]] = np.uint8(i)
        table[E_FREQUENCY + i] = np.uint8(f)
        dwords[i] = np.uint32(reciprocal)
        dwords[32 + i] = np.uint32(shift | bias << 8 | (256 - f) << 24)
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
    _encode_one(np.uint64(arguments.ctypes.data), np.uint64(n_rows))
    return np.int64(end - arguments[3]) >> 1
