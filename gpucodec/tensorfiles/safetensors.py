# SPDX-License-Identifier: Apache-2.0
"""The safetensors format: read lazily and strictly, written one tensor at a time.

Own code because the library's NumPy side cannot read bfloat16 or float8, and its writer wants
all tensors in memory. What it writes comes back byte for byte.
"""

from __future__ import annotations

import json
import mmap
from math import prod
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..dtypes import BY_NAME
from ..errors import CorruptionError, UnsupportedError
from .tensors import Array, Contents, Tensor, as_bytes

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER_BYTES: Final = 100_000_000  # the library's limit
NAMES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_LABELS: Final = {name: label for label, name in NAMES.items()}


def read(path: Path) -> Contents:
    """The tensors of a file, in the order of their bytes; nothing but the header is read.

    Raises
    ------
    CorruptionError
        The file contradicts the format: sizes, offsets, holes, duplicate names.
    UnsupportedError
        A data type that has no NumPy counterpart.

    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise CorruptionError(f"{path}: {size} bytes cannot hold a header of {header_bytes}")
        header = _json(path, file.read(header_bytes))
    metadata = header.pop("__metadata__", None)
    start, end = 8 + header_bytes, size
    tensors = []
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(path, *item)):
        begin, stop = _offsets(path, name, entry)
        dtype, shape = _type(path, name, entry)
        n_bytes = prod(shape) * dtype.itemsize
        if begin != at or stop - begin != n_bytes:
            raise CorruptionError(
                f"{path}: {name} is {shape} of {dtype}, {n_bytes} bytes that should start at "
                f"{at}, but its offsets are {begin} and {stop}"
            )
        at = stop
        tensors.append(Tensor(name, dtype, shape, _opener(path, start + begin, dtype, shape)))
    if start + at != end:
        raise CorruptionError(f"{path}: tensors end at {start + at}, the file at {end}")
    return Contents("safetensors", tensors, {} if metadata is None else {"metadata": metadata})


def read_index(path: Path) -> Contents:
    """The tensors of a checkpoint in several files, from its ``*.safetensors.index.json``.

    Raises
    ------
    CorruptionError
        Not such an index, or a tensor is not in the file that the index names.
    UnsupportedError
        As `read`; or a file is missing, or not beside the index.

    """
    index = _json(path, path.read_bytes())
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise CorruptionError(f"{path} has no weight_map")
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        if name != PurePath(name).name or not (path.parent / name).is_file():
            raise UnsupportedError(f"{path} names {name}, which is no file beside it")
        found |= {tensor.name: tensor for tensor in read(path.parent / name).tensors}
    missing = sorted(places.keys() - found.keys())
    if missing:
        raise CorruptionError(f"{path}: {missing[0]} is not in {places[missing[0]]}")
    return Contents("safetensors", [found[name] for name in places])


def write(path: Path, contents: Contents) -> None:
    """Write the tensors as they come; ``extra["metadata"]`` becomes the file's metadata.

    Raises
    ------
    UnsupportedError
        A data type that the format has no name for.

    """
    header: dict[str, Any] = {}
    if contents.kind == "safetensors" and "metadata" in contents.extra:
        header["__metadata__"] = contents.extra["metadata"]
    at = 0
    for tensor in contents.tensors:
        if tensor.dtype.name not in _LABELS:
            raise UnsupportedError(f"safetensors has no type {tensor.dtype} for {tensor.name}")
        header[tensor.name] = {
            "dtype": _LABELS[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [at, at := at + tensor.nbytes],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in contents.tensors:
            for _, piece in tensor.pieces():
                file.write(as_bytes(piece))


def _json(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{path}: not the JSON of safetensors: {error}") from error
    if not isinstance(header, dict):
        raise CorruptionError(f"{path}: its JSON is {type(header).__name__}, not an object")
    return header


def _offsets(path: Path, name: str, entry: Any) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(begin), int(stop)]}:
            return begin, stop
    raise CorruptionError(f"{path}: {name} has no data_offsets")


def _type(path: Path, name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    label, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise CorruptionError(f"{path}: {name} has shape {shape}")
    if label not in NAMES:
        raise UnsupportedError(f"{path}: {name} has type {label}, which gpucodec does not encode")
    return BY_NAME[NAMES[label]].numpy, tuple(shape)


def _opener(path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    def view() -> Array:
        if not prod(shape):
            return np.empty(shape, dtype)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        n_bytes = prod(shape) * dtype.itemsize
        return np.frombuffer(mapped, np.uint8, n_bytes, offset).view(dtype).reshape(shape)

    return view
