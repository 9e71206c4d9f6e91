# SPDX-License-Identifier: Apache-2.0
"""Tables in registers: many lookups by one instruction, where the processor has it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .lanes import LANES, Lanes, gathered, load_lanes
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


def table256(builder: Any, address: Any) -> list[Any]:
    """Registers for `lookup256`. At `address` lie the lowest bytes of 256 items of 32 bits, then the
    next higher ones, and so on.
    """
    offsets = (constant(I64, _BYTES * i) for i in range(4 * 256 // _BYTES))
    return [load_lanes(builder, builder.add(address, at), 8, _BYTES).value for at in offsets]


def lookup256(table: list[Any], index: Lanes) -> list[Lanes]:
    """Items of 32 bits for 64 bytes of `index`, as `WIDE` units of 16."""
    b, kind = index.builder, index.value.type
    # The unpacking below works within quarters of a register: a transposition gives it its order.
    dwords = Lanes(b, b.bitcast(index.value, ir.VectorType(ir.IntType(32), LANES)))
    order = [i // 4 + 4 * (i % 4) for i in range(LANES)]
    index = Lanes(b, b.bitcast(dwords.shuffled(dwords, order).value, kind))
    upper = index.compare(">=", 128)

    def half(low: Any, high: Any) -> Lanes:
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        return index.new(_call(index, name, kind, low, index.value, high))

    halves = [half(*table[i : i + 2]) for i in range(0, len(table), 2)]
    planes = [upper.where(halves[i + 1], halves[i]) for i in range(0, len(halves), 2)]
    words = [_unpacked(8, *planes[i : i + 2]) for i in (0, 2)]
    return [item for pair in zip(*words, strict=True) for item in _unpacked(16, *pair)]


def _unpacked(bits: int, low: Lanes, high: Lanes) -> list[Lanes]:
    """Items of `bits` bits of two registers joined to items of twice the size: from the first and
    from the second half of each quarter.
    """
    count = 8 * _BYTES // bits
    quarter, b = count // 4, low.builder
    results = []
    for half in (0, 1):
        places = [
            quarter * q + quarter // 2 * half + i for q in range(4) for i in range(quarter // 2)
        ]
        joined = low.shuffled(high, [where + count * which for where in places for which in (0, 1)])
        kind = ir.VectorType(ir.IntType(2 * bits), count // 2)
        results.append(Lanes(b, b.bitcast(joined.value, kind)))
    return results
