# SPDX-License-Identifier: Apache-2.0
"""What the search for matches needs of the machine: hashes, and the best match in a window."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lz_ops import BYTES, STEP, first_of
from .lz_spec import HASH_MULTIPLIER, WAYS
from .vector import I64, constant, load, loop, store, vector


def best_in_window(looked_at: tuple[int, ...]) -> Any:
    """An intrinsic for windows of `len(looked_at)` words, of whose candidates so many are tried."""

    @intrinsic
    def best(  # type: ignore[no-untyped-def]
        typing_context,  # noqa: ARG001
        text,
        at,
        slots,
        repeat,
        word_log,
    ):
        """The longest match in the window from offset `at` on: (word, length, source).

        `slots` is the address of these words' candidates, WAYS positions of 16 bits, the nearest first.
        Lengths are counted up to 32 bytes. Of equals wins the first word, of that the repeated
        distance, then the nearest.
        """

        def generate(context: Any, b: Any, signature: Any, a: Any) -> Any:
            text, at, slots, repeat, word_log = a

            def longer(x: Any, y: Any) -> Any:
                wins = b.icmp_unsigned(">", y[0], x[0])
                return tuple(b.select(wins, j, i) for i, j in zip(x, y, strict=True))

            def match(here: Any, source: Any) -> Any:
                there = load(b, b.add(text, source), BYTES)
                return first_of(b, b.icmp_unsigned("!=", here, there)), source

            best: Any = None
            for i, ways in enumerate(looked_at):
                where = b.add(at, b.shl(constant(I64, i), word_log))
                here = load(b, b.add(text, where), BYTES)
                found = [match(here, b.sub(where, repeat))]
                for way in range(ways):
                    slot = b.add(slots, constant(I64, 2 * (WAYS * i + way)))
                    index = b.zext(load(b, slot, ir.IntType(16)), I64)
                    found.append(match(here, b.shl(index, word_log)))
                while len(found) > 1:  # a tree: the shortest chain of dependent selects
                    pairs = zip(found[::2], found[1::2], strict=False)
                    found = [longer(x, y) for x, y in pairs] + found[len(found) & ~1 :]
                found_here = (*found[0], constant(I64, i))
                best = found_here if best is None else longer(best, found_here)
            return context.make_tuple(b, signature.return_type, [best[2], best[0], best[1]])

        arguments = (text, at, slots, repeat, word_log)
        return types.UniTuple(types.uint64, 3)(*arguments), generate

    return best


def hash_rows(word_bytes: int, n_words: int, bits: int) -> Any:
    """`(text, target, n_rows)`: 32 hashes (u16) a row, of the `n_words` words from each word on.

    A hash is the sum of the 16-bit units times `HASH_MULTIPLIER^(i + 1)`, modulo 2^16, of which the highest
    `bits` are kept.
    """
    unit, n_units = vector(STEP, 16), word_bytes // 2
    n_bytes = word_bytes * n_words

    def units(b: Any, at: Any) -> Any:
        if word_bytes > 1:
            pick = ir.Constant(vector(STEP, 32), [j * n_units for j in range(STEP)])
            value = load(b, at, vector(STEP * n_units, 16))
            return b.shuffle_vector(value, value, pick)
        low, high = (b.zext(load(b, b.add(at, constant(I64, i)), BYTES), unit) for i in range(2))
        return b.or_(low, b.shl(high, constant(unit, 8)))

    @intrinsic
    def rows(typing_context: Any, text: Any, target: Any, n_rows: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, b: Any, _signature: Any, a: Any) -> None:
            text, target, n_rows = a

            def row(i: Any, _state: Any) -> list[Any]:
                at = b.add(text, b.mul(i, constant(I64, STEP * word_bytes)))
                total = constant(unit, 0)
                factor = 1
                for k in range(0, n_bytes, 2):
                    factor = factor * HASH_MULTIPLIER & 0xFFFF
                    value = units(b, b.add(at, constant(I64, k)))
                    total = b.add(total, b.mul(value, constant(unit, factor)))
                total = b.lshr(total, constant(unit, 16 - bits))
                store(b, total, b.add(target, b.mul(i, constant(I64, 2 * STEP))))
                return []

            loop(b, n_rows, [], row)

        return types.void(text, target, n_rows), generate

    return rows
