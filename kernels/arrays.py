# SPDX-License-Identifier: Apache-2.0
"""Arrays for kernels without an allocator or reference counts: on the stack, or as views.

Numba's own ``np.empty`` and ``.view`` would do, but take longer to compile and to run.
"""

from __future__ import annotations

from math import prod
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


def _build(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """The struct that is an array of type `kind`, in C order, at an address."""
    array = make_array(kind)(context, builder)
    itemsize = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    strides = [itemsize]
    for n in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], n))
    populate_array(
        array,
        data=builder.bitcast(address, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=itemsize,
        meminfo=None,
    )
    return array._getvalue()  # noqa: SLF001 - as Numba's own intrinsics do


def stack_array(dtype: Any, *shape: int) -> Any:
    """A function without arguments: a new array of Numba's ``dtype``, not initialised.

    The array lives as long as the kernel that made it.
    """
    kind = types.Array(dtype, len(shape), "C")

    @intrinsic  # type: ignore[untyped-decorator]
    def make(typing_context: Any) -> Any:  # noqa: ARG001 - Numba passes it
        def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            with builder.goto_entry_block():
                memory = ir.ArrayType(context.get_data_type(dtype), prod(shape))
                place = builder.alloca(memory)
                place.align = 64
            sizes = [context.get_constant(types.intp, n) for n in shape]
            return _build(context, builder, kind, place, sizes)

        return kind(), generate

    return make


def _view(dtype: Any) -> Any:
    kind = types.Array(dtype, 1, "C")

    @intrinsic  # type: ignore[untyped-decorator]
    def view(typing_context: Any, array: Any) -> Any:  # noqa: ARG001 - Numba passes it
        if not (isinstance(array, types.Array) and array.ndim == 1 and array.is_c_contig):
            return None
        ratio = dtype.bitwidth // array.dtype.bitwidth

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source = make_array(array)(context, builder, arguments[0])
            count = builder.udiv(source.nitems, context.get_constant(types.intp, ratio))
            return _build(context, builder, kind, source.data, [count])

        return kind(array), generate

    return view


view_u16, view_u32, view_u64 = _view(types.uint16), _view(types.uint32), _view(types.uint64)
"""The bytes of a contiguous array as wider integers; what is left over is cut off."""
