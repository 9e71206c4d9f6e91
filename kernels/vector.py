# SPDX-License-Identifier: Apache-2.0
"""Building blocks for portable LLVM vector code inside Numba intrinsics, and a copy.

Nothing here names an instruction set: LLVM lowers these vectors to what the target has.
Addresses are 64-bit integers (`array.ctypes.data`), offsets are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I64 = ir.IntType(64)


def vector(lanes: int, bits: int) -> Any:
    """The type of `lanes` integers of `bits` bits."""
    return ir.VectorType(ir.IntType(bits), lanes)


def constant(kind: Any, value: int) -> Any:
    """`value` in every lane of `kind`, or as a scalar of that type."""
    lanes = getattr(kind, "count", 0)
    return ir.Constant(kind, [value] * lanes if lanes else value)


def splat(builder: Any, scalar: Any, kind: Any) -> Any:
    """A run-time 64-bit scalar, truncated, in every lane of `kind`."""
    narrow = scalar if kind.element == I64 else builder.trunc(scalar, kind.element)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), narrow, constant(I64, 0))
    lanes = ir.Constant(vector(kind.count, 32), [0] * kind.count)
    return builder.shuffle_vector(first, first, lanes)


def load(builder: Any, address: Any, kind: Any) -> Any:
    """An unaligned load."""
    value = builder.load(builder.inttoptr(address, ir.PointerType()), typ=kind)
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """An unaligned store."""
    builder.store(value, builder.inttoptr(address, ir.PointerType())).align = 1


def loop(
    builder: Any,
    count: Any,
    initial: Sequence[Any],
    body: Callable[[Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """Run `body(i, state)` for i in 0 ... count - 1 (count may be 0); the last state."""
    before = builder.block
    inside, after = (builder.append_basic_block(name) for name in ("loop", "after"))
    builder.cbranch(builder.icmp_unsigned(">", count, constant(I64, 0)), inside, after)
    builder.position_at_end(inside)
    i = builder.phi(I64)
    state = [builder.phi(value.type) for value in initial]
    i.add_incoming(constant(I64, 0), before)
    for phi, value in zip(state, initial, strict=True):
        phi.add_incoming(value, before)
    updated = body(i, state)
    following = builder.add(i, constant(I64, 1))
    end = builder.block
    i.add_incoming(following, end)
    for phi, value in zip(state, updated, strict=True):
        phi.add_incoming(value, end)
    builder.cbranch(builder.icmp_unsigned("<", following, count), inside, after)
    builder.position_at_end(after)
    final = [builder.phi(value.type) for value in initial]
    for phi, value, new in zip(final, initial, updated, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(new, end)
    return final


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(typing_context: Any, target: Any, source: Any, n_bytes: Any) -> Any:  # noqa: ARG001
    """`memcpy` between addresses (uint64). Numba's slice assignment is slower, and slow to compile."""
    signature = types.void(target, source, n_bytes)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
        to, at = (builder.inttoptr(a, ir.PointerType()) for a in arguments[:2])
        cgutils.raw_memcpy(builder, to, at, arguments[2], 1)

    return signature, generate


def _reader(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.zext(load(builder, arguments[0], ir.IntType(bits)), I64)

        return types.int64(address), generate

    return read


def _writer(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def write(typing_context: Any, address: Any, value: Any) -> Any:  # noqa: ARG001
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
            store(builder, builder.trunc(arguments[1], ir.IntType(bits)), arguments[0])

        return types.void(address, types.int64), generate

    return write


read_u16, read_u32 = _reader(16), _reader(32)
"""The integer at an address (uint64), as int64."""
write_u16, write_u32 = _writer(16), _writer(32)
"""Write the low bits of an int64 to an address (uint64)."""
