# SPDX-License-Identifier: Apache-2.0
"""The state dict that torch has flattened, as the tree of a manifest."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Any

import torch

from ..structure import flatten


def containers(paths: Any) -> dict[tuple[Any, ...], frozenset[Any]]:
    """The keys of each dict, by the path that leads to it."""
    found: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    for path in paths:
        for depth, key in enumerate(path):
            found[path[:depth]].add(key)
    return {path: frozenset(keys) for path, keys in found.items()}


def value_of(fqn: str, stream: Any) -> Any:
    """A value that torch hands over pickled, as JSON; nothing that could run is unpickled."""
    stream.seek(0)
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            value = torch.load(stream, weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TypeError(f"{fqn} is no plain value: {reason}") from error
    flat = flatten(value)
    if flat.leaves:
        raise TypeError(f"{fqn} has tensors where torch does not look for them: in a tuple or set")
    return flat.tree


def nest(paths: dict[str, tuple[Any, ...]], nodes: dict[str, Any]) -> Any:
    """The JSON tree of nested dicts and lists, from the path of each tensor and value."""
    root: dict[Any, Any] = {}
    for fqn, path in paths.items():
        below = root
        for key in path[:-1]:
            below = below.setdefault(key, {})
        below[path[-1]] = _Node(nodes[fqn])
    return _tree(root)


class _Node:
    """A finished part of the tree."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


def _tree(node: Any) -> Any:
    if isinstance(node, _Node):
        return node.tree
    if node and all(type(key) is int for key in node):  # only lists have numbers for keys
        return [_tree(node[i]) for i in range(len(node))]
    return {"dict": [[key, _tree(one)] for key, one in node.items()]}
