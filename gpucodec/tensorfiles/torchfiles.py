# SPDX-License-Identifier: Apache-2.0
"""Files of ``torch.save``: nested containers of tensors and plain values, nothing else.

The nesting is kept as a JSON tree, one tagged node a container, so that dictionaries with
integer keys (optimizer states) and tuples come back as they were.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import elements
from ..dtypes import BY_NAME
from ..errors import CorruptionError, UnsupportedError
from .tensors import Array, Contents, Tensor

if TYPE_CHECKING:
    from pathlib import Path


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"{path}: this kind of file needs PyTorch: pip install 'gpucodec[torch]'"
        ) from error
    return torch


def read(path: Path) -> Contents:
    """Tensors and structure of a file; unpickled with ``weights_only``, so no code of it runs.

    Tensors that share memory become separate ones.

    Raises
    ------
    UnsupportedError
        PyTorch is missing, or the file holds what is neither a strided tensor, a plain value nor
        a dict, list or tuple of them.
    CorruptionError
        Not a file of ``torch.save``.

    """
    torch = _torch(path)
    loaded = _load(torch, path)
    tensors: dict[str, Tensor] = {}
    try:
        tree = _flatten(torch, loaded, "", tensors)
    except RecursionError as error:
        raise UnsupportedError(f"{path} is nested too deeply, or holds itself") from error
    return Contents("torch", list(tensors.values()), {"tree": tree})


def write(path: Path, contents: Contents) -> None:
    """Write the structure that `read` found, or else a dict of all tensors.

    Raises
    ------
    UnsupportedError
        PyTorch is missing or has no such data type.
    CorruptionError
        The stored structure does not fit the tensors.

    """
    torch = _torch(path)
    tensors = {tensor.name: _tensor(torch, tensor) for tensor in contents.tensors}
    if contents.kind == "torch":
        torch.save(_nest(contents.extra.get("tree"), tensors), path)
    else:
        torch.save(tensors, path)


def load(path: Path) -> Any:
    """What a file holds; unpickled with ``weights_only``. Raises as `read`."""
    return _load(_torch(path), path)


def _load(torch: Any, path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    is_zip = start == b"PK\x03\x04"  # the format before PyTorch 1.6 cannot be mapped
    if not is_zip and start[:1] != b"\x80":
        raise CorruptionError(f"{path}: not a file of torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch raises its own, pickle's and zipfile's
        if "weights_only" in str(error):
            raise UnsupportedError(
                f"{path} holds more than weights, so it is not loaded"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptionError(f"{path}: {reason}") from error


def _flatten(torch: Any, node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON tree of `node`; its tensors are added to `tensors` under their paths."""
    if isinstance(node, torch.Tensor):
        name = name or "tensor"
        while name in tensors:  # {"a/b": ..., "a": {"b": ...}}
            name += "'"
        tensors[name] = _wrap(torch, name, node)
        return {"tensor": name}
    match node:
        case None | bool() | str():
            return {"value": node}
        case int() | float():
            return {"value": node} if math.isfinite(node) else {"float": repr(float(node))}
        case dict():
            tag = "ordered" if isinstance(node, OrderedDict) else "dict"
            for key in node:
                if type(key) not in {str, int}:
                    raise UnsupportedError(
                        f"{name or 'the file'} has a key {key!r}, neither str nor int"
                    )
            items = [[k, _flatten(torch, v, _join(name, k), tensors)] for k, v in node.items()]
            return {tag: items}
        case list() | tuple() if type(node) in {list, tuple}:
            items = [_flatten(torch, v, _join(name, i), tensors) for i, v in enumerate(node)]
            return {type(node).__name__: items}
    raise UnsupportedError(f"{name or 'the file'} is {type(node).__name__}, which is not kept")


def _join(name: str, key: Any) -> str:
    return f"{name}/{key}" if name else str(key)


def _nest(node: Any, tensors: dict[str, Any]) -> Any:
    match node:
        case {"tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"value": None | bool() | str() | int() | float() as value}:
            return value
        case {"float": "inf" | "-inf" | "nan" as text}:
            return float(text)
        case {"dict": list(items)}:
            return {key: _nest(value, tensors) for key, value in items}
        case {"ordered": list(items)}:
            return OrderedDict((key, _nest(value, tensors)) for key, value in items)
        case {"list": list(items)}:
            return [_nest(value, tensors) for value in items]
        case {"tuple": list(items)}:
            return tuple(_nest(value, tensors) for value in items)
    raise CorruptionError(f"the stored structure of the file is not valid at {str(node)[:80]}")


def _wrap(torch: Any, name: str, tensor: Any) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UnsupportedError(
            f"{name} is no plain tensor (layout {tensor.layout}, {tensor.dtype})"
        )
    label = str(tensor.dtype).removeprefix("torch.")
    if label not in BY_NAME:
        raise UnsupportedError(f"{name} has type {tensor.dtype}, which gpucodec does not encode")
    dtype, shape = BY_NAME[label].numpy, tuple(tensor.shape)

    def view() -> Array:
        return elements(tensor)[0].view(dtype).reshape(shape)

    return Tensor(name, dtype, shape, view)


def _tensor(torch: Any, tensor: Tensor) -> Any:
    dtype = getattr(torch, tensor.dtype.name, None)
    if dtype is None:
        raise UnsupportedError(f"PyTorch has no type {tensor.dtype} for {tensor.name}")
    array = tensor.read()
    flat = torch.from_numpy(array.reshape(-1).view(np.uint8))
    return flat.view(dtype).reshape(tensor.shape)
