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
from ..rounding import round_into
from ..save import previous
from ..storage import connect
from ..structure import Flat
from ..view import Checkpoint
from ..write import FOLDER, NAME_BYTES, Reference, write_metadata
from .layout import LEAST_BYTES, Shard, block_words, check_shards, chunks_of, layout_of
from .rounded import bring_together, find_parts, likely_masters
from .tree import containers, nest, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
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
        Shards are cut along an axis that is not sharded, in up to 24 chunks of at least this many
        bytes, so that a load which shards that axis reads little more than it needs: with 24
        chunks, a third at most. Fewer bytes, more objects.

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
        """Note what this rank has, before planners take replicas away."""
        return replace(plan, storage_data={item.index for item in plan.items})

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Choose chunks and codecs, so that no two ranks write the same chunk.

        Raises
        ------
        UnsupportedError
            A planner that sends nothing when nothing changed: where to write changes each time.

        """
        if not all(plan.usable for plan in plans):
            raise UnsupportedError("planners must not cache plans: enable_plan_caching=False")
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
        kinds = kinds_of(Flat(leaves=list(leaves.values()), containers=containers(names.values())))
        save = secrets.token_hex(NAME_BYTES)
        layout: dict[str, Any] = {}
        for number, (fqn, leaf) in enumerate(leaves.items()):
            check_shards(leaf.name, leaf.shape, shards[fqn])
            kind = kinds[leaf.name]
            config = self.policy.config(leaf.name, kind, leaf.dtype.name, leaf.shape)
            parts, itemsize = shards[fqn], leaf.dtype.itemsize
            chunks, order = layout_of(leaf.name, leaf.shape, itemsize, parts, self.chunk_bytes)
            if config == DEFAULT_CONFIG and len(parts) > 1:
                config = TensorConfig(block_size=block_words(chunks))
            layout[fqn] = {
                "array": f"{FOLDER}/{save}.{number}",
                "name": leaf.name,
                "kind": kind,
                "dtype": leaf.dtype.name,
                "shape": leaf.shape,
                "chunks": chunks,
                "order": order,
                "codec": codecs.to_json(config),
            }
        masters = likely_masters(leaves, kinds)
        for fqn, master in masters.items():
            layout[fqn]["master"] = leaves[master].name
        self._global = {"layout": layout, "paths": names}
        together = bring_together(plans, [plan.storage_data or set() for plan in plans], masters)
        return [replace(plan, storage_data=layout) for plan in together]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Encode and write what this rank has."""
        layout = plan.storage_data
        codecs.warm(one["codec"] for one in layout.values())
        results: list[WriteResult] = []
        parts: list[tuple[MetadataIndex, Leaf, Shard]] = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                tree = value_of(item.index.fqn, planner.resolve_data(item))
                results.append(WriteResult(item.index, len(str(tree)), {"value": tree}))
            else:
                one = layout[item.index.fqn]
                parts.append((item.index, *_shard(item, planner.resolve_data(item), one)))
        with Workers(self.storage.workers) as workers:
            sources = self._find_roundings(parts, layout, workers)
            jobs: list[tuple[Leaf, dict[str, Any], Any]] = []
            n_chunks: list[tuple[Any, int]] = []
            for index, leaf, shard in parts:
                if source := sources.get((leaf.name, shard)):
                    results.append(WriteResult(index, 0, {"shard": shard, "source": source}))
                    continue
                one = layout[index.fqn]
                places = list(chunks_of(one["shape"], one["chunks"], shard))
                jobs += [(leaf, one, place) for place in places]
                n_chunks.append((index, len(places)))
            written = iter(workers.map(self._write_chunk, jobs))
            for index, n in n_chunks:
                found = [next(written) for _ in range(n)]
                size = sum(size for _, size, _ in found)
                results.append(WriteResult(index, size, {"chunks": found}))
        self.storage.flush()
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _find_roundings(
        self,
        parts: Sequence[tuple[MetadataIndex, Leaf, Shard]],
        layout: Mapping[str, Any],
        workers: Workers,
    ) -> dict[tuple[str, Shard], str]:
        """Parts that need not be written, as they are roundings of others of this rank."""
        exact = [
            (leaf, shard, layout[index.fqn]["shape"])
            for index, leaf, shard in parts
            if layout[index.fqn]["codec"]["name"] == codecs.LOSSLESS
        ]
        hints = {one["name"]: one["master"] for one in layout.values() if "master" in one}
        return find_parts(exact, hints, workers)

    def _write_chunk(self, job: tuple[Leaf, dict[str, Any], Any]) -> list[int]:
        """Number, size and hash of a chunk."""
        leaf, one, (number, box, own) = job
        return self._put(leaf.chunk(own), one, number, box)

    def _put(self, part: Any, one: dict[str, Any], number: int, box: Any) -> list[int]:
        if part.shape != tuple(one["chunks"]):
            padded = np.zeros(one["chunks"], part.dtype)
            padded[tuple(slice(0, n) for n in part.shape)] = part
            part = padded
        if one["order"] is not None:
            part = np.ascontiguousarray(part.transpose(one["order"]))
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
        rounded: dict[str, list[tuple[Shard, str]]] = defaultdict(list)
        for result in (result for rank in results for result in rank):
            fqn, found = result.index.fqn, result.storage_data
            if "value" in found:
                values[fqn] = found["value"]
            elif "source" in found:
                rounded[fqn].append((found["shard"], found["source"]))
            else:
                _note(fqn, chunks[fqn], found["chunks"])
        layout = self._global["layout"]

        def describe(fqn: str) -> Array:
            one, parts = layout[fqn], chunks[fqn]
            shape, grid = tuple(one["shape"]), tuple(one["chunks"])
            expected = prod(-(-n // c) for n, c in zip(shape, grid, strict=True))
            if sorted(parts) != list(range(expected)):
                raise CorruptionError(f"{fqn}: {len(parts)} of {expected} chunks were written")
            config = codecs.from_json(one["codec"])
            empty = write_metadata(
                self.storage, one["array"], one["dtype"], shape, grid, config, one["order"]
            )
            return replace(empty, objects=tuple(parts[i] for i in range(expected)))

        with Workers(self.storage.workers) as workers:
            sources = {fqn: {name for _, name in parts} for fqn, parts in rounded.items()}
            whole = {f for f, names in sources.items() if len(names) == 1 and not chunks[f]}
            stored = [fqn for fqn in layout if fqn not in rounded]
            found = dict(zip(stored, workers.map(describe, stored), strict=True))
            by_name = {layout[fqn]["name"]: array for fqn, array in found.items()}
            mixed = [fqn for fqn in rounded if fqn not in whole]
            for fqn in mixed:
                made = self._make(layout[fqn], rounded[fqn], by_name, workers)
                _note(fqn, chunks[fqn], made)
            found |= zip(mixed, workers.map(describe, mixed), strict=True)
            for fqn in whole:
                one, [source] = layout[fqn], sources[fqn]
                reference = Reference(one["dtype"], one["codec"], one["array"])
                found[fqn] = reference.to(by_name[source])
        arrays = {found[fqn].path: found[fqn] for fqn in layout}
        tensors = {
            one["name"]: Tensor(found[fqn].path, one["kind"], "torch")
            for fqn, one in layout.items()
        }
        names = {fqn: {"tensor": one["name"]} for fqn, one in layout.items()}
        tree = nest(self._global["paths"], {**values, **names})
        manifest = Manifest(tree, tensors, arrays, {"metadata": {}, "policy": self.policy.name})
        self.storage.flush()
        before = previous(self.storage, manifests.NAME)
        self.storage.commit(manifests.NAME, manifest.to_bytes(), before)
        collect(self.storage)

    def _make(
        self,
        one: dict[str, Any],
        parts: Iterable[tuple[Shard, str]],
        arrays: Mapping[str, Array],
        workers: Workers,
    ) -> list[list[int]]:
        """Write chunks that were left out as roundings, of a tensor that is not one as a whole."""
        view = Checkpoint(self.storage, Manifest(None, {}, {}))
        shape, chunks = one["shape"], one["chunks"]
        jobs = [
            (arrays[source], number, box)
            for shard, source in parts
            for number, box, _ in chunks_of(shape, chunks, shard)
        ]

        def make(job: tuple[Array, int, Any]) -> list[int]:
            array, number, box = job
            exact = np.ascontiguousarray(view.read_part(array, box))
            part = np.empty(exact.shape, BY_NAME[one["dtype"]].numpy)
            round_into(exact, part, one["dtype"])
            return self._put(part, one, number, box)

        return workers.map(make, jobs)


def _note(fqn: str, chunks: dict[int, Object], written: Iterable[list[int]]) -> None:
    """Take down chunks that were written."""
    for number, size, digest in written:
        if number in chunks:
            raise CorruptionError(f"{fqn}: chunk {number} was written twice")
        chunks[number] = Object(size, digest)


def _leaf(path: tuple[Any, ...], data: Any) -> Leaf:
    """A tensor of the plan, whose elements are elsewhere."""
    name = "/".join(map(str, path))
    label = str(data.properties.dtype).removeprefix("torch.")
    if label not in BY_NAME:
        raise UnsupportedError(f"{name} has type {data.properties.dtype}, which is not encoded")
    return Leaf(name, path, None, BY_NAME[label], tuple(data.size), "torch")


def _shard(item: WriteItem, tensor: Any, one: dict[str, Any]) -> tuple[Leaf, Shard]:
    """What this rank has of a tensor, and which part that is."""
    refuse_special(one["name"], tensor)
    shard = Shard(tuple(item.tensor_data.chunk.offsets), tuple(item.tensor_data.chunk.sizes))
    if tuple(tensor.shape) != shard.sizes:
        raise ValueError(f"{one['name']}: shard has shape {tuple(tensor.shape)}, not {shard}")
    return Leaf(one["name"], (), tensor, BY_NAME[one["dtype"]], shard.sizes, "torch"), shard
