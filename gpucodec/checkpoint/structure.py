# SPDX-License-Identifier: Apache-2.0
"""State dicts as JSON: nested containers and plain values, with names in place of tensors.

JSON's own values stand for themselves and JSON arrays for lists; all else is an object of one
member, whose name is the type: ``{"dict": [[key, value], ...]}``, ``{"tuple": [...]}``,
``{"tensor": name}``, ``{"float": "nan"}``, ``{"bytes": base64}``. There is nothing in it that
could run.
"""

from __future__ import annotations

import base64
import io
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..dtypes import BY_NAME
from ..errors import MALFORMED, CorruptionError
from .leaves import Leaf, is_torch, leaf, torch_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_INTEGER_BITS: Final = 8192  # JSON readers limit the digits of integers
KEYS: Final = (str, int)


@dataclass
class Flat:
    """A state dict taken apart."""

    tree: Any = None
    leaves: list[Leaf] = field(default_factory=list)
    containers: dict[tuple[Any, ...], frozenset[Any]] = field(default_factory=dict)
    """The keys of each dict, by the path that leads to it."""


def flatten(state: Any) -> Flat:
    """Take a state dict apart.

    Raises
    ------
    TypeError
        Something in it is no tensor, plain value or container of them; or it holds itself.
    UnsupportedError
        A tensor that cannot be encoded.

    """
    flat = Flat()
    names: set[str] = set()
    try:
        flat.tree = _flatten(state, (), flat, names)
    except RecursionError as error:
        raise TypeError("the state dict is nested too deeply, or holds itself") from error
    return flat


def _flatten(node: Any, path: tuple[Any, ...], flat: Flat, names: set[str]) -> Any:
    kind = type(node)
    if is_torch(node) or kind in {np.ndarray, np.memmap}:  # others mean more than their elements
        name = _unique("/".join(map(str, path)) or "tensor", names)
        flat.leaves.append(leaf(name, path, node))
        return {"tensor": name}
    if node is None or kind in {bool, str}:
        return node
    if kind is int:
        if node.bit_length() > MAX_INTEGER_BITS:
            return {"int": f"{node:x}"}
        return node
    if kind is float:
        return node if math.isfinite(node) else {"float": repr(node)}
    if kind in {dict, OrderedDict}:
        flat.containers[path] = frozenset(node)
        for key in node:
            if type(key) not in KEYS:
                raise TypeError(f"{_where(path)} has a key {key!r}; keys are str or int")
        items = [[key, _flatten(one, (*path, key), flat, names)] for key, one in node.items()]
        return {"ordered" if kind is OrderedDict else "dict": items}
    if kind is list:
        return [_flatten(one, (*path, i), flat, names) for i, one in enumerate(node)]
    if kind is tuple:
        return {"tuple": [_flatten(one, (*path, i), flat, names) for i, one in enumerate(node)]}
    return _value(node, path)


def _value(node: Any, path: tuple[Any, ...]) -> Any:
    """Values that JSON has no notion of."""
    match node:
        case bytes() | bytearray() if type(node) in {bytes, bytearray}:
            return {type(node).__name__: base64.b64encode(node).decode()}
        case io.BytesIO() if type(node) is io.BytesIO:  # torchtitan's states have some
            return {"file": [base64.b64encode(node.getvalue()).decode(), node.tell()]}
        case complex() if type(node) is complex:
            return {"complex": [repr(node.real), repr(node.imag)]}
        case np.generic() if node.dtype.name in BY_NAME:
            little = node.astype(node.dtype.newbyteorder("<")).tobytes()
            return {"scalar": [node.dtype.name, little.hex()]}
    torch = sys.modules.get("torch")
    if torch is not None:
        if isinstance(node, torch.Size):
            return {"size": list(node)}
        if isinstance(node, torch.dtype):
            return {"dtype": str(node).removeprefix("torch.")}
        if isinstance(node, torch.device):
            return {"device": str(node)}
    raise TypeError(
        f"{_where(path)} is {type(node).__name__}; a state dict holds tensors, arrays, None, bool, "
        "int, float, complex, str, bytes, BytesIO, dtypes, and dicts, lists and tuples of them"
    )


def _where(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path)) or "the state dict"


def _unique(name: str, names: set[str]) -> str:
    """Mark names that occur twice, as in ``{"a/b": ..., "a": {"b": ...}}``."""
    while name in names:
        name += "'"
    names.add(name)
    return name


def unflatten(tree: Any, tensor: Callable[[str], Any]) -> Any:
    """Put a state dict together again; `tensor` is asked for each by its name.

    Raises
    ------
    CorruptionError
        The tree is not as `flatten` makes them.

    """
    try:
        return _unflatten(tree, tensor)
    except KeyError as error:
        raise CorruptionError(
            f"the structure has a tensor {error}, which does not exist"
        ) from error
    except RecursionError as error:
        raise CorruptionError("the structure is nested too deeply") from error


def _unflatten(node: Any, tensor: Callable[[str], Any]) -> Any:
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, list):
        return [_unflatten(one, tensor) for one in node]
    match node:
        case {"tensor": str(name)} if len(node) == 1:
            return tensor(name)
        case {"dict": list(items)} if len(node) == 1:
            return {_key(key): _unflatten(one, tensor) for key, one in items}
        case {"ordered": list(items)} if len(node) == 1:
            return OrderedDict((_key(key), _unflatten(one, tensor)) for key, one in items)
        case {"tuple": list(items)} if len(node) == 1:
            return tuple(_unflatten(one, tensor) for one in items)
        case dict() if len(node) == 1:
            [(kind, value)] = node.items()
            read = _VALUES.get(kind)
            if read is not None:
                try:
                    return read(value)
                except MALFORMED as error:
                    raise CorruptionError(f"the structure has a bad {kind}: {error}") from error
    raise CorruptionError(f"the structure is not valid at {str(node)[:80]}")


def _key(key: Any) -> Any:
    if type(key) not in KEYS:
        raise CorruptionError(f"the structure has a key {key!r}, neither str nor int")
    return key


def _scalar(value: Any) -> Any:
    name, raw = value
    return np.frombuffer(bytes.fromhex(raw), BY_NAME[name].numpy)[0]


def _file(value: Any) -> io.BytesIO:
    content, position = value
    file = io.BytesIO(base64.b64decode(content, validate=True))
    file.seek(position)
    return file


def _dtype(value: str) -> Any:
    torch = torch_module()
    found = getattr(torch, value)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{value} is no data type of PyTorch")
    return found


_VALUES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "int": lambda value: int(value, 16),
    "float": float,
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "bytearray": lambda value: bytearray(base64.b64decode(value, validate=True)),
    "complex": lambda value: complex(float(value[0]), float(value[1])),
    "file": _file,
    "scalar": _scalar,
    "size": lambda value: torch_module().Size(value),
    "dtype": _dtype,
    "device": lambda value: torch_module().device(value),
}
