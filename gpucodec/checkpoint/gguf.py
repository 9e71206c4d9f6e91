# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as GGUF files: quantized tensors keep their codes and scales.

Needs the package gguf. Tensors that a policy quantized in a format that GGUF has (int8 as Q8_0, int4
as Q4_0, int4_asym as Q4_1, mxfp4) are interleaved, not quantized again; floats and integers stay
what they are. Names are those of the checkpoint: which ones a program expects is its own matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

import gpucodec

from ..dtypes import BY_NAME
from ..errors import UnsupportedError
from . import codecs
from .read import chunk_jobs, fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .manifest import Array
    from .view import Checkpoint

    Host = np.ndarray[Any, np.dtype[Any]]

ARCHITECTURE: Final = "gpucodec"  # what GGUF calls the program that a file is for
QUANTIZED: Final = {"int8": "Q8_0", "int4": "Q4_0", "int4_asym": "Q4_1", "mxfp4": "MXFP4"}
PLAIN: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
}
MAX_DIMS: Final = 4


def write(opened: Checkpoint, path: Path, done: Callable[[int], None] = lambda _: None) -> None:
    """Write a checkpoint's weights and buffers; the state of optimizers has no place in GGUF.

    Raises
    ------
    UnsupportedError
        gguf is not installed; or a tensor has a type, a format, rows or more axes that GGUF has
        not, or values that its format cannot keep (NaN, outliers beyond a bound).
    CorruptionError
        As `gpucodec.checkpoint.load`.

    """
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedError("GGUF files need the package gguf: pip install gguf") from error
    names = [name for name, lazy in opened.items() if lazy.kind in {"param", "buffer"}]
    types = {name: gguf.GGMLQuantizationType[_type(opened, name)] for name in names}
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        for name in names:
            block, n_bytes = gguf.GGML_QUANT_SIZES[types[name]]
            shape = opened[name].shape or (1,)
            stored = (*shape[:-1], shape[-1] // block * n_bytes)
            size = int(np.prod(stored))
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), size, types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in names:
            lazy = opened[name]
            is_quantized = lazy.codec["name"] == codecs.QUANTIZED
            data = _blocks(opened, name) if is_quantized else lazy.numpy()
            writer.write_tensor_data(np.ascontiguousarray(data).reshape(-1).view(np.uint8))
            done(lazy.nbytes)
    finally:
        writer.close()


def _type(opened: Checkpoint, name: str) -> str:
    """GGUF's name of a tensor's type."""
    lazy = opened[name]
    if len(lazy.shape) > MAX_DIMS:
        raise UnsupportedError(f"{name} has {len(lazy.shape)} axes, GGUF has {MAX_DIMS}")
    if lazy.codec["name"] != codecs.QUANTIZED:
        found, label = PLAIN.get(lazy.dtype), lazy.dtype
    else:
        label = codecs.from_json(lazy.codec).format
        found = QUANTIZED.get(label)
    if found is None:
        raise UnsupportedError(f"{name} is {label}, which GGUF has not")
    return found


def _blocks(opened: Checkpoint, name: str) -> Host:
    """A quantized tensor in GGUF's layout, uint8[..., bytes of a row]."""
    array: Array = opened.manifest.arrays[opened.manifest.tensors[name].array]
    if array.shape[1:] != array.chunks[1:]:
        raise UnsupportedError(f"{name} is cut in chunks {array.chunks}, GGUF needs whole rows")
    parts = []
    for number, box, keys in chunk_jobs(array):
        key = f"{array.path}/{keys[number]}"
        raw = fetch(opened.storage, key, array.objects[number])
        n_bytes = np.prod(array.chunks) * BY_NAME[array.dtype].itemsize
        quantized = gpucodec.decode_quantized(raw, dequantize=False, limit=int(n_bytes))
        try:
            blocks = quantized.to_gguf()
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error}") from error
        parts.append(blocks[: box[0].stop - box[0].start] if box else blocks)
    return np.concatenate(parts)
