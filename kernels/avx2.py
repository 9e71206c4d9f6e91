# SPDX-License-Identifier: Apache-2.0
"""AVX2 for rows of rANS: 32 bytes, 16 words or 8 states a register; nothing crosses its halves."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .rows import I32, Machine
from .vector import I64, constant, load, store, vector

B16, B32, W16, D4, D8, Q4 = (
    vector(lanes, bits) for lanes, bits in ((16, 8), (32, 8), (16, 16), (4, 32), (8, 32), (4, 64))
)


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


def order(*lanes: int) -> Any:
    """The lanes of a shuffle."""
    return ir.Constant(vector(len(lanes), 32), lanes)


def twice(*values: int) -> Any:
    """16 bytes in both halves of a register."""
    return ir.Constant(B32, [*values] * 2)


class Avx2(Machine):
    """The instructions used here, by name, and 32-bit states in four registers.

    They hold lanes 0-3 and 8-11, lanes 4-7 and 12-15, and the same of lanes 16-31.
    """

    def _bytes(self, x: Any) -> Any:
        return self.builder.bitcast(x, B32)

    def _words(self, x: Any) -> Any:
        return self.builder.bitcast(x, W16)

    def _shuffle(self, table: Any, i: Any) -> Any:
        """A byte of each half's 16, or zero where `i` is negative."""
        return self.call("llvm.x86.avx2.pshuf.b", B32, table, i)

    def _interleave(self, low: Any, high: Any, kind: Any) -> list[Any]:
        """Elements of both in turn, of the lower and of the upper 8 bytes in each half."""
        b = self.builder
        low, high = b.bitcast(low, kind), b.bitcast(high, kind)
        n = kind.count
        return [
            b.shuffle_vector(
                low,
                high,
                order(
                    *(
                        half + upper + i // 2 + n * (i % 2)
                        for half in (0, n // 2)
                        for i in range(n // 2)
                    )
                ),
            )
            for upper in (0, n // 4)
        ]

    def _blend(self, mask: Any, yes: Any, no: Any) -> Any:
        """Bytes of `yes` where the mask's are negative."""
        arguments = (self._bytes(x) for x in (no, yes, mask))
        return self.call("llvm.x86.avx2.pblendvb", B32, *arguments)

    def _negative(self, x: Any) -> Any:
        """A bit for each byte."""
        return self.call("llvm.x86.avx2.pmovmskb", I32, x)

    def _lanes_of(self, mask: Any, first: int) -> Any:
        """Eight bits of an i32, as i64."""
        b = self.builder
        return b.zext(b.and_(b.lshr(mask, constant(I32, first)), constant(I32, 255)), I64)

    def _load_lanes(self, states: Any) -> list[Any]:
        b = self.builder
        lanes = []
        for k in range(4):
            halves = (load(b, self._state_at(states, k, half), D4) for half in (0, 1))
            lanes.append(b.shuffle_vector(*halves, order(*range(8))))
        return lanes

    def _store_lanes(self, lanes: list[Any], states: Any) -> None:
        b = self.builder
        for k, x in enumerate(lanes):
            for half in (0, 1):
                four = b.shuffle_vector(x, x, order(*range(4 * half, 4 * half + 4)))
                store(b, four, self._state_at(states, k, half))

    def _state_at(self, states: Any, k: int, half: int) -> Any:
        return self.offset(states, 4 * (16 * (k // 2) + 4 * (k % 2) + 8 * half))

    def _pack(self, pair: list[Any]) -> Any:
        """16 lanes in order, from two registers of dwords below 2^16."""
        return self.call("llvm.x86.avx2.packusdw", W16, *pair)

    def _high_words(self, pair: list[Any]) -> Any:
        return self._pack([self.builder.lshr(x, constant(D8, 16)) for x in pair])

    def _low_words(self, pair: list[Any]) -> Any:
        return self._pack([self.builder.and_(x, constant(D8, 0xFFFF)) for x in pair])

    def _mask(self, words: list[Any]) -> Any:
        """A bit for each word that is -1, of two registers; their lower halves first."""
        return self._negative(self.call("llvm.x86.avx2.packsswb", B32, *words))

    def _next_words(self, words: Any, mask: Any, groups: tuple[int, ...]) -> list[Any]:
        """For 8 lanes a time 16 bytes of the stream, and how they spread over the lanes.

        `groups` are the bytes of the mask in the order of their lanes.
        """
        b = self.builder
        spreads = self.static_table("gpucodec_spread_words", _shuffles(spread=True))
        before, found = 0, []
        for group in groups:
            n = self.popcount(b.and_(mask, constant(I32, before)))
            at = self.scaled(spreads, self._lanes_of(mask, 8 * group), 4)
            found.append((load(b, self.scaled(words, n, 1), B16), load(b, at, B16)))
            before |= 255 << 8 * group
        return found

    def _spread(self, low: Any, high: Any) -> Any:
        """Two of `_next_words` side by side: a word for each lane of the mask, 0 elsewhere."""
        pairs = zip(low, high, strict=True)
        joined = (self.builder.shuffle_vector(*pair, order(*range(32))) for pair in pairs)
        return self._shuffle(*joined)

    def _spill(self, lanes: list[Any], full: list[Any], end: Any) -> tuple[list[Any], Any]:
        """Put out the low words of the lanes that are -1 in `full`: states, new end of the words."""
        b = self.builder
        gathers = self.static_table("gpucodec_gather_words", _shuffles(spread=False))
        mask = self._mask(full)
        words = [self._bytes(self._low_words(lanes[i : i + 2])) for i in (0, 2)]
        # A store of the last lanes clears what is below, which is not written yet.
        for group, half, first in ((1, 1, 24), (1, 0, 8), (0, 1, 16), (0, 0, 0)):
            control = load(b, self.scaled(gathers, self._lanes_of(mask, first), 4), B16)
            part = order(*range(16 * half, 16 * half + 16))
            eight = b.shuffle_vector(words[group], words[group], part)
            last = self.call("llvm.x86.ssse3.pshuf.b.128", B16, eight, control)
            store(b, last, self.offset(end, -16))
            n = self.popcount(b.and_(mask, constant(I32, 255 << first)))
            end = b.sub(end, b.shl(n, constant(I64, 1)))
        spilled = []
        for x, lane in zip(lanes, self._widen(full), strict=True):
            shifted = b.lshr(x, constant(D8, 16))
            spilled.append(b.bitcast(self._blend(lane, shifted, x), D8))
        return spilled, end

    def _widen(self, words: list[Any]) -> list[Any]:
        """-1 and 0 of 16-bit lanes, for the four registers of states."""
        return [half for x in words for half in self._interleave(x, x, W16)]

    def _quotient(self, x: Any, more: Any, even_r: Any, odd_r: Any, shift: Any) -> Any:
        """`(x + more) * reciprocal >> 32 + shift`; reciprocals in the low halves of qwords."""
        b = self.builder
        half, full = constant(Q4, 32), constant(Q4, 0xFFFFFFFF)
        n = b.bitcast(b.add(x, more), Q4)
        even = b.lshr(b.mul(b.and_(n, full), b.and_(even_r, full)), half)
        odd = b.mul(b.lshr(n, half), b.and_(odd_r, full))
        return b.lshr(self._join_dwords(even, odd), shift)

    def _join_dwords(self, even: Any, odd: Any) -> Any:
        """The low dwords of `even` and the high ones of `odd`."""
        b = self.builder
        joined = order(*(i + 8 * (i % 2) for i in range(8)))
        return b.shuffle_vector(b.bitcast(even, D8), b.bitcast(odd, D8), joined)
