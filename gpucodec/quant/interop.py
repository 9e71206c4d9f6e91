# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors in the layouts of torchao, bitsandbytes and GGUF.

Codes and scales are handed over as they are, at most interleaved or repacked; nothing is
quantized again. These layouts have no place for exceptions, so tensors that have some are
refused, unless the caller drops them: a consumer then sees the code at their place, which is
that of the value, saturated, or of 0 for NaN.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsupportedError
from ..kernels import quantspec as spec

if TYPE_CHECKING:
    from .cpu import Array
    from .tensor import Quantized

_TORCHAO_FP6 = {"mxfp6_e2m3": "fp6_e2m3", "mxfp6_e3m2": "fp6_e3m2"}
_GGUF_BLOCK = 32
_NVFP4_BLOCKS = 4  # of 16 elements in a super-block of GGUF


def to_torchao(quantized: Quantized, *, exceptions: str = "raise") -> Any:
    """A tensor of torchao over the same bytes.

    Formats mxfp* with scales "e8m0" become an `MXTensor`, nvfp4 an `NVFP4Tensor`, int8 and int4
    an `IntxUnpackedToInt8Tensor` (int4 one code a byte, as that class has it).

    Parameters
    ----------
    quantized
        With blocks along the last axis that divide it.
    exceptions
        "raise" or "drop".

    Raises
    ------
    ImportError
        torchao is not installed.
    UnsupportedError
        torchao has no such layout, or the tensor has exceptions.

    """
    import torch

    config = quantized.config
    _require(quantized, exceptions)
    if quantized.shape[-1] % config.block:
        message = f"torchao needs blocks that divide the last axis; {config.block} does not divide {quantized.shape[-1]}"
        raise UnsupportedError(message)
    dtype = getattr(torch, quantized.dtype)
    codes = torch.from_numpy(quantized.codes.copy())
    if config.format in {"int8", "int4"}:
        return _to_torchao_integers(quantized, codes, dtype)
    if config.format == "nvfp4":
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

        scales = _torch(quantized.scales, torch.float8_e4m3fn)
        tensor_scale = torch.tensor(quantized.tensor_scale, dtype=torch.float32)
        return NVFP4Tensor(codes, scales, config.block, dtype, tensor_scale)
    elements = {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp4": torch.float4_e2m1fn_x2,
        **_TORCHAO_FP6,
    }
    element = elements.get(config.format)
    if element is None or config.scale_type != "e8m0":
        message = f"torchao has no layout for {config.format} with scales {config.scale_type}"
        raise UnsupportedError(message)
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    if config.format.startswith("mxfp8"):
        codes = codes.view(element)
    scales = _torch(quantized.scales, torch.float8_e8m0fnu)
    return MXTensor(
        codes, scales, element, config.block, dtype, KernelPreference.EMULATED, None, False
    )


def to_bitsandbytes(quantized: Quantized, *, exceptions: str = "raise") -> Any:
    """(codes, `QuantState`) as `bitsandbytes.functional` returns them; for dynamic8 and nf4.

    Parameters
    ----------
    quantized
        With scales "f32"; rows of whole blocks, or a vector, since bitsandbytes' blocks run over
        the flat array.
    exceptions
        "raise" or "drop".

    Raises
    ------
    ImportError
        bitsandbytes is not installed.
    UnsupportedError
        bitsandbytes has no such layout, or the tensor has exceptions.

    """
    import torch
    from bitsandbytes.functional import QuantState, create_dynamic_map, get_4bit_type

    config = quantized.config
    _require(quantized, exceptions)
    if config.format not in {"dynamic8", "nf4"} or config.scale_type != "f32":
        message = f"bitsandbytes has no layout for {config.format} with scales {config.scale_type}"
        raise UnsupportedError(message)
    if prod(quantized.shape[:-1]) > 1 and quantized.shape[-1] % config.block:
        message = (
            f"bitsandbytes' blocks run over the flat array: blocks of {config.block} must divide "
            f"rows of {quantized.shape[-1]}"
        )
        raise UnsupportedError(message)
    codes = torch.from_numpy(quantized.codes.copy())
    common = {
        "absmax": torch.from_numpy(quantized.scales.reshape(-1).copy()),
        "blocksize": config.block,
        "dtype": getattr(torch, quantized.dtype),
    }
    if config.format == "dynamic8":
        return codes.reshape(quantized.shape), QuantState(code=create_dynamic_map(), **common)
    code = get_4bit_type("nf4", device="cpu")
    state = QuantState(code=code, shape=torch.Size(quantized.shape), quant_type="nf4", **common)
    return codes.reshape(-1, 1), state


def to_gguf(quantized: Quantized, *, exceptions: str = "raise") -> Array:
    """The blocks of a GGUF tensor, uint8[..., bytes of a row].

    int8 becomes Q8_0, int4 Q4_0, int4_asym Q4_1 (all with blocks of 32; their scales are rounded
    to float16, as GGUF has them), mxfp4 MXFP4, nvfp4 NVFP4 (without the tensor scale, which GGUF
    keeps in a tensor of its own).

    Parameters
    ----------
    quantized
        With blocks along the last axis that divide it.
    exceptions
        "raise" or "drop".

    Raises
    ------
    UnsupportedError
        GGUF has no such layout, or the tensor has exceptions.

    """
    config = quantized.config
    _require(quantized, exceptions)
    layouts = {
        "int8": ("f32", "bf16", "f16"),
        "int4": ("f32", "bf16", "f16"),
        "int4_asym": ("f32", "bf16", "f16"),
        "mxfp4": ("e8m0",),
        "nvfp4": ("e4m3",),
    }
    per_block = 16 if config.format == "nvfp4" else _GGUF_BLOCK
    if config.scale_type not in layouts.get(config.format, ()) or config.block != per_block:
        message = (
            f"GGUF has no layout for {config.format} with scales {config.scale_type} and blocks "
            f"of {config.block}"
        )
        raise UnsupportedError(message)
    row = quantized.shape[-1]
    unit = per_block * _NVFP4_BLOCKS if config.format == "nvfp4" else per_block
    if row % unit:
        message = f"GGUF needs rows of whole blocks; {unit} does not divide {row}"
        raise UnsupportedError(message)
    n_blocks = quantized.scales.size
    codes = quantized.codes.reshape(n_blocks, -1)
    if config.format != "int8":
        codes = _halves(codes)
    if config.format == "nvfp4":
        groups = [
            quantized.scales.view(np.uint8).reshape(-1, _NVFP4_BLOCKS),
            codes.reshape(n_blocks // _NVFP4_BLOCKS, -1),
        ]
    elif config.format == "mxfp4":
        groups = [quantized.scales.view(np.uint8).reshape(n_blocks, 1), codes]
    else:
        scales = quantized.scales
        if config.format == "int4":  # 0 / -8
            scales = np.where(scales == 0, -scales, scales)
        planes = [scales, quantized.offsets]
        groups = [_half(plane, n_blocks) for plane in planes if plane is not None]
        groups.append(codes)
    return np.concatenate(groups, axis=1).reshape(*quantized.shape[:-1], -1)


def _to_torchao_integers(quantized: Quantized, codes: Any, dtype: Any) -> Any:
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    config = quantized.config
    if config.scale_type not in {"f32", "bf16", "f16"}:
        message = f"torchao has no layout for {config.format} with scales {config.scale_type}"
        raise UnsupportedError(message)
    scales = _torch(quantized.scales, getattr(torch, spec.SCALE_DTYPES[config.scale_code]))
    target = torch.int8
    if config.format == "int4":
        pairs = torch.stack([codes & 15, codes >> 4], dim=-1)
        codes, target = pairs.reshape(quantized.shape).to(torch.int8) - 8, torch.int4
    block = (1,) * (len(quantized.shape) - 1) + (config.block,)
    zeros = torch.zeros(scales.shape, dtype=torch.int8)
    return IntxUnpackedToInt8Tensor(
        codes.view(torch.int8), scales, zeros, target, block, dtype, None
    )


def _require(quantized: Quantized, exceptions: str) -> None:
    """Refuse what no other library can express."""
    if exceptions not in {"raise", "drop"}:
        message = f'exceptions is "raise" or "drop", not {exceptions!r}'
        raise ValueError(message)
    if not quantized.shape or not prod(quantized.shape):
        message = f"a tensor of shape {quantized.shape} has no blocks to hand over"
        raise UnsupportedError(message)
    if quantized.config.axis != -1:
        message = f"blocks run along axis {quantized.config.axis}; others have them along the last"
        raise UnsupportedError(message)
    if quantized.positions.size and exceptions == "raise":
        message = (
            f"{quantized.positions.size} values are kept as exceptions, which this layout cannot "
            'hold; exceptions="drop" leaves them out'
        )
        raise UnsupportedError(message)


def _torch(array: Array, dtype: Any) -> Any:
    """A torch tensor of a type that NumPy may not know, over a copy."""
    import torch

    words = array.copy().view(f"u{array.itemsize}")
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}[array.itemsize]
    return torch.from_numpy(words.view(signed)).view(dtype)


def _halves(codes: Array) -> Array:
    """Pairs of neighbours to pairs of element i and element i + half, both low nibble first."""
    elements = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), 2, -1)
    packed: Array = elements[:, 0] | elements[:, 1] << 4
    return packed


def _half(plane: Array, n_blocks: int) -> Array:
    """Scales as the bytes of float16, one row a block."""
    with np.errstate(over="ignore"):  # GGUF stores infinity for what float16 cannot hold
        halves = plane.astype(np.float16).reshape(n_blocks, 1)
    result: Array = halves.view(np.uint8)
    return result
