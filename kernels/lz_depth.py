# SPDX-License-Identifier: Apache-2.0
"""How many copies lie between a word and a literal: a byte for each byte of the block."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import kernel
from .lz_ops import BYTES, STEP, call, first_of
from .vector import I64, constant, load, splat, store

U = np.uint64


def _lanes_below(builder: Any, count: Any) -> Any:
    few = builder.icmp_unsigned("<", count, constant(I64, STEP))
    count = splat(builder, builder.select(few, count, constant(I64, STEP)), BYTES)
    return builder.icmp_unsigned("<", ir.Constant(BYTES, list(range(STEP))), count)


@intrinsic
def usable32(  # type: ignore[no-untyped-def]
    typing_context,  # noqa: ARG001
    address,
    source,
    depths,
    limit,
):
    """How many of the 32 bytes at `source` equal those at `address` and are less than `limit` deep."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        here, there, depths = (load(builder, address, BYTES) for address in a[:3])
        deep = builder.icmp_unsigned(">=", depths, splat(builder, a[3], BYTES))
        return first_of(builder, builder.or_(builder.icmp_unsigned("!=", here, there), deep))

    return types.uint64(address, source, depths, limit), generate


@intrinsic
def deepen32(typing_context: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """Store the depths at `source`, one more each, for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        deeper = builder.add(load(builder, a[1], BYTES), constant(BYTES, 1))
        inside = _lanes_below(builder, a[2])
        store(builder, builder.select(inside, deeper, constant(BYTES, 0)), a[0])

    return types.void(target, source, count), generate


@intrinsic
def mark32(typing_context: Any, target: Any, depth: Any, count: Any) -> Any:  # noqa: ARG001
    """Store `depth` for `count` bytes, and zeros up to 32."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> None:
        depth = splat(builder, a[1], BYTES)
        inside = _lanes_below(builder, a[2])
        store(builder, builder.select(inside, depth, constant(BYTES, 0)), a[0])

    return types.void(target, depth, count), generate


@intrinsic
def deepest32(typing_context: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """The largest of `count` (at most 32) depths."""

    def generate(_context: Any, builder: Any, _signature: Any, a: Any) -> Any:
        inside = _lanes_below(builder, a[1])
        depths = builder.select(inside, load(builder, a[0], BYTES), constant(BYTES, 0))
        name = f"llvm.vector.reduce.umax.v{STEP}i8"
        return builder.zext(call(builder, name, ir.IntType(8), [depths]), I64)

    return types.uint64(source, count), generate


@kernel
def deepen(depths, at, source, length):  # type: ignore[no-untyped-def]
    """Set the depths of a copy of `length` bytes; up to 32 bytes behind it are zeroed."""
    distance = at - source
    if distance >= length:
        deepen32(depths + at, depths + source, length)
        done = U(32)
        while done < length:
            deepen32(depths + at + done, depths + source + done, length - done)
            done += U(32)
        return
    done = U(0)
    deepest = U(0)
    while done < distance:
        deepest = max(deepest, deepest32(depths + source + done, distance - done))
        done += U(32)
    done = U(0)
    while done < length:
        mark32(depths + at + done, deepest + U(1), length - done)
        done += U(32)
