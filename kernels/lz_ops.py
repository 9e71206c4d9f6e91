# SPDX-License-Identifier: Apache-2.0
"""What LZ needs of the machine: unaligned loads, stores and compares of 32 bytes, by address.

Portable LLVM vectors: one AVX2 register, or two of SSE2 or NEON. Nothing here checks bounds;
callers keep `SLACK` bytes of room behind every buffer.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vector import I64, constant, load, loop, splat, store, vector

STEP = 32
SLACK = 2 * STEP
BYTES = vector(STEP, 8)
MASK = ir.IntType(STEP)


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _first(builder: Any, mask: Any) -> Any:
    """Index of the first lane set, STEP if none is."""
    bits = builder.zext(builder.bitcast(mask, MASK), I64)
    bits = builder.or_(bits, constant(I64, 1 << STEP))
    return _call(builder, "llvm.cttz.i64", I64, [bits, ir.Constant(ir.IntType(1), 1)])


def _operation(result: Any, n_arguments: int, emit: Any) -> Any:
    """An intrinsic on `n_arguments` 64-bit integers whose code is `emit(builder, *arguments)`."""
    names = ", ".join(f"a{i}" for i in range(n_arguments))
    types_of = ", ".join(["types.uint64"] * n_arguments)
    scope: dict[str, Any] = {"types": types, "result": result, "emit": emit}
    exec(  # noqa: S102
        f"def operation(typing_context, {names}):\n"
        f"    signature = result({types_of})\n"
        f"    return signature, lambda context, builder, signature, a: emit(builder, *a)\n",
        scope,
    )
    return intrinsic(scope["operation"])
