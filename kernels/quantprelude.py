# SPDX-License-Identifier: Apache-2.0
"""The numbers and tables of quantized tensors as C++: `quantspec`, `floatspec` and `codebook`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import codebook, floatspec, quantspec

if TYPE_CHECKING:
    from types import ModuleType

ELEMENTS = ("INT8", "INT4", "INT4_ASYM", "NF4", "DYNAMIC8", "E4M3", "E5M2", "E2M3", "E3M2", "E2M1")
ELEMENTS += ("LOG8",)
SETTINGS = ("F32", "BF16", "F16", "E8M0", "E4M3_SCALE", "FLOOR", "EVEN", "CEIL")
FLOATS = ("FLOAT32", "BFLOAT16", "FLOAT16", "MANTISSA", "BIAS", "SIGN", "HALF_INFINITY")


def _numbers(module: ModuleType, names: tuple[str, ...], prefix: str = "") -> list[str]:
    return [f"constexpr u32 {prefix}{name} = {getattr(module, name)}u;" for name in names]


def _float(name: str, value: float) -> str:
    return f"constexpr float {name} = {float(value)!r}f;"


def _table(kind: str, name: str, values: Any) -> str:
    numbers = ", ".join(f"{int(value)}ull" for value in values)
    return f"__device__ const {kind} {name}[{len(values)}] = {{{numbers}}};"


def prelude() -> str:
    """C++ source; elements are called ``OF_INT8`` and so on, tables hold the bits of float32."""
    lines = [
        *_numbers(quantspec, ELEMENTS, "OF_"),
        *_numbers(quantspec, SETTINGS, "SCALE_"),
        *_numbers(quantspec, ("RANGE", "LOG8_STEPS")),
        *_numbers(floatspec, FLOATS),
        *(_float(name, getattr(quantspec, name)) for name in ("E4M3_LARGEST", "E4M3_SMALLEST")),
        _float("INT4_DIVISOR", quantspec.INT4_DIVISOR),
        _float("ROUND_TO_INTEGER", floatspec.ROUND_TO_INTEGER),
        _float("NOISE", floatspec.NOISE),
        *(f"constexpr u32 NOISE_{i} = {f}u;" for i, f in enumerate(floatspec.NOISE_FACTORS)),
        *_numbers(codebook, ("BUCKET_SHIFT", "BUCKET_FIRST", "ZERO_CODE")),
    ]
    for name in ("E4M3", "E5M2", "E2M3", "E3M2", "E2M1", "HALF"):
        form = getattr(floatspec, name)
        numbers = f"exponent = {form.exponent}, mantissa = {form.mantissa}, bias = {form.bias}"
        largest = f"static constexpr float largest = {form.largest!r}f;"
        lines.append(f"struct {name} {{ static constexpr u32 {numbers}; {largest} }};")
    n = codebook.N_BUCKETS
    magnitudes = codebook.BELOW[n:].view(np.uint32)
    lines += [
        _table("u32", "NF4_VALUES", codebook.NF4.view(np.uint32)),
        _table("u32", "NF4_BOUNDS", codebook.NF4_BOUNDS.view(np.uint32)),
        _table("u32", "DYNAMIC8_VALUES", codebook.DYNAMIC8.view(np.uint32)),
        _table("u32", "DYNAMIC8_MAGNITUDES", magnitudes),
        _table("u64", "DYNAMIC8_NEAREST", codebook.NEAREST),
        _table("u64", "DYNAMIC8_BELOW", codebook.BELOW[:n]),
    ]
    return "\n".join(lines) + "\n"


def entry_points(element: str) -> str:
    """C++ source of the kernels of one of `ELEMENTS`: one for each way."""
    kernels = (
        f"KERNEL {direction}_{element.lower()}(const QuantJob* jobs, u64 n_jobs, u64 n_chunks) {{\n"
        f"    __shared__ float table[table_entries(OF_{element})];\n"
        f"    {direction}_rows<OF_{element}>(jobs, n_jobs, n_chunks, table);\n}}\n"
        for direction in ("quantize", "dequantize")
    )
    return "\n".join(kernels)
