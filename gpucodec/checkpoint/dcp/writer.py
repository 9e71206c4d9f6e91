# SPDX-License-Identifier: Apache-2.0
"""Saving with torch.distributed.checkpoint."""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.checkpoint import StorageWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ...config import DEFAULT_CONFIG, TensorConfig
from ...dtypes import BY_NAME
from ...errors import CorruptionError, UnsupportedError
from .. import codecs, manifest as manifests
from ..collect import collect
from ..kinds import kinds_of
from ..leaves import Leaf, refuse_special
from ..manifest import Array, Manifest, Object, Tensor
from ..parallel import Workers
from ..policy import policy_of
from ..save import previous
from ..storage import connect
from ..structure import Flat, flatten
from ..write import FOLDER, NAME_BYTES, write_metadata
from .layout import LEAST_BYTES, Shard, block_words, check_shards, chunk_shape, chunks_of

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem

    from ..policy import Policy
    from ..storage import Storage


class ZarrWriter(StorageWriter):  # type: ignore[misc] # torch has no types here
    """Writes a checkpoint from all ranks: one zarr array for each tensor, whoever has its parts.

    Each rank encodes and writes the chunks of its shards; replicated tensors are written once.
    The coordinator commits the manifest when all have finished. It can be pickled, so that
    `dcp.async_save` may use threads or processes.

    Parameters
    ----------
    url
        As for `gpucodec.checkpoint.save`. A folder must be one that all ranks share.
    policy
        As for `gpucodec.checkpoint.save`.
    chunk_bytes
        Shards are cut along an axis of theirs, in up to 24 chunks of at least this many bytes, so
        that a load which shards that axis reads little more than it needs: with 24 chunks, a third
        at most. Fewer bytes, more objects.

    Raises
    ------
    UnsupportedError, ValueError, TypeError, OSError
        From `dcp.save`, within its ``CheckpointException`` (a BaseException): a tensor or value
        that cannot be kept, shards that overlap or leave holes, a storage that fails. The
        checkpoint that was there before stays.

    """

    def __init__(
        self, url: Any, policy: Policy | str = "lossless", *, chunk_bytes: int = LEAST_BYTES
    ) -> None:
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is at least 1, not {chunk_bytes}")
        self.url = url
        self.policy = policy_of(policy)
        self.chunk_bytes = chunk_bytes
        self._storage: Storage | None = None
        self._global: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_storage": None}

    @property
    def storage(self) -> Storage:
        """Where it writes; connected on first use."""
        if self._storage is None:
            self._storage = connect(self.url)
        return self._storage

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a save; `checkpoint_id` of ``dcp.save`` replaces the URL."""
        if checkpoint_id is not None:
            self.url = checkpoint_id
        self._storage = None
        self._global = {}

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""
        del is_coordinator, args, kwargs

    def storage_meta(self) -> StorageMeta:
        """What torch logs."""
        return StorageMeta(checkpoint_id=str(self.url))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it could be a place for a checkpoint."""
        return isinstance(checkpoint_id, (str, os.PathLike))

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Choose chunks and codecs, so that no two ranks write the same chunk."""
        paths: dict[str, tuple[Any, ...]] = {}
        for plan in plans:
            paths |= plan.planner_data or {}
        shards: dict[str, list[Shard]] = defaultdict(list)
        data: dict[str, Any] = {}
        names: dict[str, Any] = {}
        for item in (item for plan in plans for item in plan.items):
            fqn = item.index.fqn
            path = tuple(paths.get(fqn, (fqn,)))
            names[fqn] = path
            if item.type != WriteItemType.BYTE_IO:
                data[fqn] = item.tensor_data
                chunk = item.tensor_data.chunk
                shards[fqn].append(Shard(tuple(chunk.offsets), tuple(chunk.sizes)))
        leaves = {fqn: _leaf(names[fqn], one) for fqn, one in data.items()}
        kinds = kinds_of(Flat(leaves=list(leaves.values()), containers=_containers(names.values())))
        save = secrets.token_hex(NAME_BYTES)
        layout: dict[str, Any] = {}
        for number, (fqn, leaf) in enumerate(leaves.items()):
            check_shards(leaf.name, leaf.shape, shards[fqn])
            kind = kinds[leaf.name]
            config = self.policy.config(leaf.name, kind, leaf.dtype.name, leaf.shape)
            parts, itemsize = shards[fqn], leaf.dtype.itemsize
            chunks = chunk_shape(leaf.name, leaf.shape, itemsize, parts, self.chunk_bytes)
            if config == DEFAULT_CONFIG and len(parts) > 1:
                config = TensorConfig(block_size=block_words(chunks))
            layout[fqn] = {
                "array": f"{FOLDER}/{save}.{number}",
                "name": leaf.name,
                "kind": kind,
                "dtype": leaf.dtype.name,
                "shape": leaf.shape,
                "chunks": chunks,
                "codec": codecs.to_json(config),
            }
        self._global = {"layout": layout, "paths": names}
        return [replace(plan, storage_data=layout) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Encode and write what this rank has."""
        layout = plan.storage_data
        codecs.warm(one["codec"] for one in layout.values())
        results: list[WriteResult] = []
        with Workers(self.storage.workers) as workers:
            jobs: list[tuple[Leaf, dict[str, Any], Any]] = []
            n_chunks: list[tuple[Any, int]] = []
            for item in plan.items:
                if item.type == WriteItemType.BYTE_IO:
                    tree = _value(item.index.fqn, planner.resolve_data(item))
                    results.append(WriteResult(item.index, len(str(tree)), {"value": tree}))
                    continue
                one = layout[item.index.fqn]
                leaf, places = _shard(item, planner.resolve_data(item), one)
                jobs += [(leaf, one, place) for place in places]
                n_chunks.append((item.index, len(places)))
            written = iter(workers.map(self._write_chunk, jobs))
            for index, n in n_chunks:
                found = [next(written) for _ in range(n)]
                size = sum(size for _, size, _ in found)
                results.append(WriteResult(index, size, {"chunks": found}))
        self.storage.flush()
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write_chunk(self, job: tuple[Leaf, dict[str, Any], Any]) -> list[int]:
        """Number, size and hash of a chunk."""
        leaf, one, (number, box, own) = job
        part = leaf.chunk(own)
        if part.shape != tuple(one["chunks"]):
            padded = np.zeros(one["chunks"], part.dtype)
            padded[tuple(slice(0, n) for n in part.shape)] = part
            part = padded
        raw = codecs.encode(part, codecs.from_json(one["codec"]))
        index = [p.start // c for p, c in zip(box, one["chunks"], strict=True)]
        key = "/".join([one["array"], ".".join(["c", *map(str, index)])])
        self.storage.put(key, raw)
        return [number, raw.size, codecs.digest_of(raw, key)]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit the checkpoint, once all ranks have written their parts.

        Raises
        ------
        CorruptionError
            A chunk was written twice, or by nobody.

        """
        del metadata  # all of it is in the plans
        chunks: dict[str, dict[int, Object]] = defaultdict(dict)
        values: dict[str, Any] = {}
        for result in (result for rank in results for result in rank):
            fqn, found = result.index.fqn, result.storage_data
            if "value" in found:
                values[fqn] = found["value"]
                continue
            for number, size, digest in found["chunks"]:
                if number in chunks[fqn]:
                    raise CorruptionError(f"{fqn}: chunk {number} was written twice")
                chunks[fqn][number] = Object(size, digest)
        layout = self._global["layout"]

        def describe(fqn: str) -> Array:
            one, parts = layout[fqn], chunks[fqn]
            shape, grid = tuple(one["shape"]), tuple(one["chunks"])
            expected = prod(-(-n // c) for n, c in zip(shape, grid, strict=True))
            if sorted(parts) != list(range(expected)):
                raise CorruptionError(f"{fqn}: {len(parts)} of {expected} chunks were written")
            config = codecs.from_json(one["codec"])
            empty = write_metadata(self.storage, one["array"], one["dtype"], shape, grid, config)
            return replace(empty, objects=tuple(parts[i] for i in range(expected)))

        with Workers(self.storage.workers) as workers:
            arrays = {array.path: array for array in workers.map(describe, layout)}
        tensors = {
            one["name"]: Tensor(one["array"], one["kind"], "torch") for one in layout.values()
        }
        names = {fqn: {"tensor": one["name"]} for fqn, one in layout.items()}
        tree = _nest(self._global["paths"], {**values, **names})
        manifest = Manifest(tree, tensors, arrays, {"metadata": {}, "policy": self.policy.name})
        self.storage.flush()
        before = previous(self.storage, manifests.NAME)
        self.storage.commit(manifests.NAME, manifest.to_bytes(), before)
        collect(self.storage)


def _leaf(path: tuple[Any, ...], data: Any) -> Leaf:
    """A tensor of the plan, whose elements are elsewhere."""
    name = "/".join(map(str, path))
    label = str(data.properties.dtype).removeprefix("torch.")
    if label not in BY_NAME:
        raise UnsupportedError(f"{name} has type {data.properties.dtype}, which is not encoded")
    return Leaf(name, path, None, BY_NAME[label], tuple(data.size), "torch")


def _shard(item: WriteItem, tensor: Any, one: dict[str, Any]) -> tuple[Leaf, list[Any]]:
    """What this rank has of a tensor, and the chunks that it consists of."""
    refuse_special(one["name"], tensor)
    shard = Shard(tuple(item.tensor_data.chunk.offsets), tuple(item.tensor_data.chunk.sizes))
    if tuple(tensor.shape) != shard.sizes:
        raise ValueError(f"{one['name']}: shard has shape {tuple(tensor.shape)}, not {shard}")
    leaf = Leaf(one["name"], (), tensor, BY_NAME[one["dtype"]], shard.sizes, "torch")
    return leaf, list(chunks_of(one["shape"], one["chunks"], shard))


def _containers(paths: Any) -> dict[tuple[Any, ...], frozenset[Any]]:
    """The keys of each dict, by the path that leads to it."""
    found: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    for path in paths:
        for depth, key in enumerate(path):
            found[path[:depth]].add(key)
    return {path: frozenset(keys) for path, keys in found.items()}


def _value(fqn: str, stream: Any) -> Any:
    """A value that torch hands over pickled, as JSON; nothing that could run is unpickled."""
    stream.seek(0)
    try:
        value = torch.load(stream, weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TypeError(f"{fqn} is no plain value: {reason}") from error
    flat = flatten(value)
    if flat.leaves:
        raise TypeError(f"{fqn} has tensors where torch does not look for them: in a tuple or set")
    return flat.tree


def _nest(paths: dict[str, tuple[Any, ...]], nodes: dict[str, Any]) -> Any:
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
