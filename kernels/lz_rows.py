# SPDX-License-Identifier: Apache-2.0
"""Rows of rANS with 12-bit probabilities for LZ: AVX-512 where there is one, else lane by lane.

A decode table is u32[4096] by slot: frequency, slot - start, symbol from the lowest bits up. All
functions take addresses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import rows_plain, simd
from .jit import kernel
from .lz_ops import get64, put32, put64
from .rows import ARGUMENTS, I8, I16, I32, Machine, decoder, encoder
from .spec import RANS12_BITS, RANS_STATE_LOW, RANS_WORD_BITS
from .vector import I64, constant, load, loop, store, vector

DECODE_TABLE_BYTES = (4 << RANS12_BITS) + 64
# encode table of the vector machine by symbol: u32 reciprocal; u32 frequency | start << 12 | shift << 24
FIELDS = 1024
ENCODE_TABLE_BYTES = max(2048, rows_plain.ENCODE12_TABLE_BYTES)
ARGUMENT_BYTES = 8 * ARGUMENTS
HALF = 16
D16, Q8, W16, B16 = vector(HALF, 32), vector(8, 64), vector(HALF, 16), vector(HALF, 8)
M16 = vector(HALF, 1)
U = np.uint64


class Vector12(Machine):
    """A register of 16 states for the lanes 0 ... 15, one for 16 ... 31; AVX-512 F, BW, VL, VBMI2."""

    def _count(self, mask: Any) -> Any:
        return self.popcount(self.builder.zext(self.builder.bitcast(mask, I16), I32))

    def _gather(self, table: Any, i: Any) -> Any:
        """A dword of the table at an address for each dword of `i`."""
        b = self.builder
        every = ir.Constant(M16, [1] * HALF)
        pointer = b.inttoptr(table, ir.PointerType())
        name = "llvm.x86.avx512.mask.gather.dpi.512"
        return self.call(name, D16, constant(D16, 0), pointer, i, every, constant(I32, 4))

    def _halves(self, address: Any, kind: Any) -> list[Any]:
        size = 64 if kind is D16 else 32
        return [load(self.builder, self.offset(address, size * k), kind) for k in range(2)]

    def decode_begin(self, table: Any, states: Any) -> tuple[Any, list[Any]]:
        """The table's address; the states."""
        return table, self._halves(states, D16)

    encode_begin = decode_begin

    def decode_end(self, lanes: list[Any], states: Any) -> None:
        """Store the states."""
        for k in range(2):
            store(self.builder, lanes[k], self.offset(states, 64 * k))

    encode_end = decode_end

    def decode_row(
        self, fixed: Any, states: list[Any], words: Any, out: Any
    ) -> tuple[list[Any], Any]:
        """Both symbols of each lane, a renormalisation after each."""
        b = self.builder
        mask, bits = constant(D16, (1 << RANS12_BITS) - 1), constant(D16, RANS12_BITS)
        states = list(states)
        at = words
        pairs = [constant(D16, 0)] * 2
        for j in range(2):
            short = []
            for k in range(2):
                x = states[k]
                entry = self._gather(fixed, b.and_(x, mask))
                x = b.mul(b.lshr(x, bits), b.and_(entry, mask))
                states[k] = b.add(x, b.and_(b.lshr(entry, bits), mask))
                symbol = b.lshr(entry, constant(D16, 2 * RANS12_BITS))
                pairs[k] = b.or_(pairs[k], b.shl(symbol, constant(D16, 8 * j)))
                short.append(b.icmp_unsigned("<", states[k], constant(D16, RANS_STATE_LOW)))
            for k in range(2):
                fresh = b.zext(load(b, at, W16), D16)
                name = "llvm.x86.avx512.mask.expand.v16i32"
                fresh = self.call(name, D16, fresh, constant(D16, 0), short[k])
                filled = b.or_(b.shl(states[k], constant(D16, RANS_WORD_BITS)), fresh)
                states[k] = b.select(short[k], filled, states[k])
                at = self.scaled(at, self._count(short[k]), 1)
        for k in range(2):
            store(b, b.trunc(pairs[k], W16), self.offset(out, 2 * HALF * k))
        return states, b.lshr(b.sub(at, words), constant(I64, 1))

    def encode_row(
        self, fixed: Any, states: list[Any], symbols: Any, end: Any
    ) -> tuple[list[Any], Any, Any]:
        """The second symbol of each lane, then the first."""
        b = self.builder
        states = list(states)
        mask = constant(D16, (1 << RANS12_BITS) - 1)
        rows = [b.zext(pair, D16) for pair in self._halves(symbols, W16)]
        at = end
        for j in (1, 0):
            for k in (1, 0):
                i = b.and_(b.lshr(rows[k], constant(D16, 8 * j)), constant(D16, 255))
                reciprocal = self._gather(fixed, i)
                fields = self._gather(self.offset(fixed, FIELDS), i)
                f = b.and_(fields, mask)
                x = states[k]
                full = b.icmp_unsigned(">=", b.lshr(x, constant(D16, 32 - RANS12_BITS)), f)
                n = self._count(full)
                at = b.sub(at, b.shl(n, constant(I64, 1)))
                name = "llvm.x86.avx512.mask.compress.v16i16"
                out = self.call(name, W16, b.trunc(x, W16), constant(W16, 0), full)
                few = b.sub(b.shl(constant(I64, 1), n), constant(I64, 1))
                few = b.bitcast(b.trunc(few, I16), M16)
                pointer = b.inttoptr(at, ir.PointerType())
                self.call(
                    "llvm.masked.store.v16i16.p0",
                    ir.VoidType(),
                    out,
                    pointer,
                    constant(I32, 1),
                    few,
                )
                x = b.select(full, b.lshr(x, constant(D16, RANS_WORD_BITS)), x)
                q = self._high_product(x, reciprocal)
                q = b.lshr(q, b.lshr(fields, constant(D16, 2 * RANS12_BITS)))
                rest = b.sub(x, b.mul(q, f))
                low = b.icmp_unsigned(">=", rest, f)  # the quotient may be one too small
                q = b.select(low, b.add(q, constant(D16, 1)), q)
                rest = b.select(low, b.sub(rest, f), rest)
                start = b.and_(b.lshr(fields, constant(D16, RANS12_BITS)), mask)
                states[k] = b.add(b.shl(q, constant(D16, RANS12_BITS)), b.add(rest, start))
        return states, at, constant(I8, 0)

    def _high_product(self, x: Any, y: Any) -> Any:
        """The high 32 bits of each product of dwords."""
        b = self.builder
        half, full = constant(Q8, 32), constant(Q8, (1 << 32) - 1)
        x, y = b.bitcast(x, Q8), b.bitcast(y, Q8)
        even = b.lshr(b.mul(b.and_(x, full), b.and_(y, full)), half)
        odd = b.mul(b.lshr(x, half), b.lshr(y, half))
        pick = ir.Constant(M16, [k % 2 for k in range(HALF)])
        return b.select(pick, b.bitcast(odd, D16), b.bitcast(even, D16))


USES_VECTORS = simd.LEVEL == "avx512"
_machine: Any = Vector12 if USES_VECTORS else rows_plain.Machine12
_decode, _encode = decoder(_machine, 1), encoder(_machine)


@intrinsic
def ramp(typing_context: Any, address: Any, first: Any, count: Any) -> Any:  # noqa: ARG001
    """Store u32 `first`, `first + 4096`, ...: `count` of them, rounded up to 16."""

    def generate(_context: Any, b: Any, _signature: Any, a: Any) -> None:
        steps = ir.Constant(D16, [k << RANS12_BITS for k in range(HALF)])
        scalar = b.insert_element(ir.Constant(D16, ir.Undefined), b.trunc(a[1], I32), I32(0))
        value = b.shuffle_vector(scalar, scalar, ir.Constant(D16, [0] * HALF))
        value = b.add(value, steps)
        rounds = b.lshr(b.add(a[2], constant(I64, HALF - 1)), constant(I64, 4))

        def one(i: Any, state: list[Any]) -> list[Any]:
            store(b, state[0], b.add(a[0], b.shl(i, constant(I64, 6))))
            return [b.add(state[0], constant(D16, HALF << RANS12_BITS))]

        loop(b, rounds, [value], one)

    return types.void(address, first, count), generate


@kernel
def encode_entry(table, symbol, f, start):  # type: ignore[no-untyped-def]
    """Set a symbol's entry of an encode table; `f` is 1 ... 4095."""
    if USES_VECTORS:
        shift = U(0)
        while U(2) << shift <= f:
            shift += U(1)
        reciprocal = min((U(1) << (U(32) + shift)) // f, U(0xFFFFFFFF))
        put32(table + (symbol << U(2)), reciprocal)
        fields = f | start << U(RANS12_BITS) | shift << U(2 * RANS12_BITS)
        put32(table + U(FIELDS) + (symbol << U(2)), fields)
    else:
        at = table + (symbol << U(3))
        put64(at, ((U(1) << U(32 + RANS12_BITS)) + f - U(1)) // f)
        put32(at + U(rows_plain.COMPLEMENT), U(1 << RANS12_BITS) - f)
        put32(at + U(rows_plain.FREQUENCY), f)
        put32(at + U(rows_plain.START), start)
        put32(at + U(rows_plain.PATCHED), U(0))


@kernel
def decode_rows(arguments, words, n_words, n_rows, table, states, out):  # type: ignore[no-untyped-def]
    """Decode rows; how many words they asked for, as `simd.decode_rows12`."""
    put64(arguments, words)
    put64(arguments + U(8), n_words)
    put64(arguments + U(16), table)
    put64(arguments + U(24), states)
    put64(arguments + U(32), out)
    _decode(arguments, n_rows)
    return get64(arguments + U(8))


@kernel
def encode_rows(arguments, symbols, n_rows, table, states, end, flags):  # type: ignore[no-untyped-def]
    """Encode rows, words downwards from `end`; their begin."""
    put64(arguments, symbols)
    put64(arguments + U(8), table)
    put64(arguments + U(16), states)
    put64(arguments + U(24), end)
    put64(arguments + U(32), flags)
    _encode(arguments, n_rows)
    return get64(arguments + U(24))
