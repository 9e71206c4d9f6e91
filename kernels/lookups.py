# SPDX-License-Identifier: Apache-2.0
"""Tables in registers: many lookups by one instruction, where the processor has it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .lanes import LANES, Lanes, advanced, gathered, load_lanes
from .simd import LEVEL
from .vector import I64, constant

HAS_LOOKUP256 = LEVEL == "avx512"
WIDE = 4  # units that `lookup256` looks up together
_BYTES = 64  # of a register


def _call(lanes: Lanes, name: str, kind: Any, *arguments: Any) -> Any:
    function = cgutils.get_or_insert_function(
        lanes.builder.module, ir.FunctionType(kind, [a.type for a in arguments]), name
    )
    return lanes.builder.call(function, arguments)


def lookup16(table: Lanes, index: Lanes) -> Lanes:
    """A lane of `table` (16 of 32 bits) for each lane of `index`, which are below 16."""
    if LEVEL == "avx512":
        kind = table.value.type
        return table.new(
            _call(table, "llvm.x86.avx512.permvar.si.512", kind, table.value, index.value)
        )
    if LEVEL == "avx2":
        halves = [_permuted8(table, half, index) for half in (0, 1)]
        return index.compare(">", 7).where(halves[1], halves[0])
    memory = cgutils.alloca_once(table.builder, table.value.type)
    table.builder.store(table.value, memory)
    return gathered(table.builder, index, table.builder.ptrtoint(memory, I64), 32)


def _permuted8(table: Lanes, half: int, index: Lanes) -> Lanes:
    """Lanes of one half of `table`, by the low 3 bits of `index`: eight at a time."""
    eight = range(8)
    part = table.shuffled(table, [8 * half + i for i in eight]).value
    found = [
        index.new(
            _call(
                table,
                "llvm.x86.avx2.permd",
                part.type,
                part,
                index.shuffled(index, [8 * i + j for j in eight]).value,
            )
        )
        for i in (0, 1)
    ]
    return found[0].shuffled(found[1], list(range(LANES)))


def lookup256(address: Any, index: Lanes) -> list[Lanes]:
    """Items of 32 bits for 64 bytes of `index`, as `WIDE` units of 16.

    At `address` lie the lowest bytes of the table's 256 items, then the next higher ones, and so on.
    """
    b = index.builder
    # The unpacking below works within quarters of a register: a transposition gives it its order.
    dwords = Lanes(b, b.bitcast(index.value, ir.VectorType(ir.IntType(32), LANES)))
    order = [i // 4 + 4 * (i % 4) for i in range(LANES)]
    index = Lanes(b, b.bitcast(dwords.shuffled(dwords, order).value, index.value.type))
    upper = index.compare(">=", 128)
    planes = []
    for plane in range(4):
        where = b.add(address, constant(I64, 256 * plane))
        quarters = [
            load_lanes(b, advanced(b, where, constant(I64, i), _BYTES), 8, _BYTES).value
            for i in range(4)
        ]
        low, high = (
            index.new(
                _call(
                    index,
                    "llvm.x86.avx512.vpermi2var.qi.512",
                    index.value.type,
                    quarters[half],
                    index.value,
                    quarters[half + 1],
                )
            )
            for half in (0, 2)
        )
        planes.append(upper.where(high, low))
    words = [_unpacked(*planes[i : i + 2], 8) for i in (0, 2)]
    return [item for pair in zip(*words, strict=True) for item in _unpacked(*pair, 16)]


def _unpacked(low: Lanes, high: Lanes, bits: int) -> list[Lanes]:
    """Items of `bits` bits of two registers joined to items of twice the size: from the first and
    from the second half of each quarter.
    """
    count = 8 * _BYTES // bits
    quarter, b = count // 4, low.builder
    results = []
    for half in (0, 1):
        places = [quarter * q + quarter // 2 * half + i for q in range(4) for i in range(quarter // 2)]
        joined = low.shuffled(high, [where + count * which for where in places for which in (0, 1)])
        kind = ir.VectorType(ir.IntType(2 * bits), count // 2)
        results.append(Lanes(b, b.bitcast(joined.value, kind)))
    return results
