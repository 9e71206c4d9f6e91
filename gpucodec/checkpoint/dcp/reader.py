# SPDX-License-Identifier: Apache-2.0
"""Loading with torch.distributed.checkpoint: every rank reads what it needs, however it was saved."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.distributed.checkpoint import StorageReader
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType
from torch.futures import Future

from ...dtypes import BY_NAME
from ...errors import CorruptionError
from .. import codecs
from ..leaves import leaf, torch_type
from ..load import fill, read_tensors
from ..parallel import Workers
from ..read import read_manifest
from ..rounding import round_into
from ..storage import connect
from ..structure import unflatten
from ..view import Checkpoint, to_torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner

    from ..load import Task
    from ..view import LazyTensor


class ZarrReader(StorageReader):  # type: ignore[misc] # torch has no types here
    """Reads checkpoints of `ZarrWriter` and of `gpucodec.checkpoint.save`.

    Each rank fetches and decodes the blocks that its shards need: the number of ranks, the mesh
    and the axes may differ from those of the save. A chunk that is missing, cut or another's is a
    CorruptionError, within torch's ``CheckpointException``.

    Parameters
    ----------
    url
        As for `gpucodec.checkpoint.load`.

    """

    def __init__(self, url: Any) -> None:
        self.url = url
        self._checkpoint: Checkpoint | None = None
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_checkpoint": None, "_names": {}, "_values": {}}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a load; `checkpoint_id` of ``dcp.load`` replaces the URL."""
        if checkpoint_id is not None:
            self.url = checkpoint_id
        self._checkpoint = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint; its manifest is read on first use."""
        if self._checkpoint is None:
            storage = connect(self.url)
            self._checkpoint = Checkpoint(storage, read_manifest(storage))
        return self._checkpoint

    def _flatten(self) -> Any:
        """Names of torch for the checkpoint's tensors and values; returns torch's mapping."""
        names: dict[int, str] = {}

        def stand_in(name: str) -> Any:
            lazy = self.checkpoint[name]
            made = torch.empty(lazy.shape, dtype=torch_type(BY_NAME[lazy.dtype]), device="meta")
            names[id(made)] = name
            kept.append(made)
            return made

        kept: list[Any] = []
        state = unflatten(self.checkpoint.manifest.structure, stand_in)
        if not isinstance(state, dict):
            raise CorruptionError(f"{self.url} holds a {type(state).__name__}, not a state dict")
        flat, mappings = flatten_state_dict(state)
        self._names = {fqn: names[id(one)] for fqn, one in flat.items() if id(one) in names}
        self._values = {fqn: one for fqn, one in flat.items() if id(one) not in names}
        return mappings

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What torch plans with; each tensor is one piece of which any part can be read."""
        del args, kwargs
        mappings = self._flatten()
        entries: dict[str, Any] = {fqn: BytesStorageMetadata() for fqn in self._values}
        for fqn, name in self._names.items():
            lazy = self.checkpoint[name]
            size = torch.Size(lazy.shape)
            whole = ChunkStorageMetadata(torch.Size([0] * len(size)), size)
            properties = TensorProperties(dtype=torch_type(BY_NAME[lazy.dtype]))
            entries[fqn] = TensorStorageMetadata(properties, size, [whole])
        meta = StorageMeta(checkpoint_id=str(self.url))
        return Metadata(entries, planner_data=mappings, storage_meta=meta)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Ranks that were sent the metadata read the manifest themselves, once."""
        del metadata, is_coordinator, args, kwargs
        if self._checkpoint is None:
            self._flatten()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it could be the place of a checkpoint."""
        return isinstance(checkpoint_id, (str, os.PathLike))

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the parts of the plan."""
        codecs.warm(array.codec for array in self.checkpoint.manifest.arrays.values())
        whole: list[Task] = []
        parts: list[Part] = []
        commits: list[tuple[Any, Any]] = []
        for item in plan.items:
            fqn = item.storage_index.fqn
            if item.type == LoadItemType.BYTE_IO:
                stream = io.BytesIO()
                torch.save(self._values[fqn], stream)  # planners unpickle; storage holds JSON
                stream.seek(0)
                planner.load_bytes(item, stream)
                continue
            lazy = self.checkpoint[self._names[fqn]]
            target = planner.resolve_tensor(item).detach()
            lengths = tuple(item.lengths)
            if tuple(target.shape) != lengths:
                raise ValueError(f"{fqn}: {lengths} do not fit a tensor of {tuple(target.shape)}")
            commits.append((item, target))
            if lengths == lazy.shape:
                array = self.checkpoint.manifest.arrays[
                    self.checkpoint.manifest.tensors[lazy.name].array
                ]
                whole.append(fill(leaf(lazy.name, (), target), array))
            elif target.numel():
                offsets = item.storage_offsets
                box = tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))
                parts.append(Part(lazy, box, target))
        storage = self.checkpoint.storage
        read_tensors(storage, whole, lambda _: None)
        with Workers(storage.workers) as workers:
            workers.map(_read_part, _with_roundings(parts))
        for item, target in commits:
            planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future


class Part(NamedTuple):
    """A part of a tensor, and where it belongs."""

    lazy: LazyTensor
    box: tuple[slice, ...]
    target: Any


def _with_roundings(parts: Iterable[Part]) -> Iterable[tuple[Part, list[Part]]]:
    """Parts to read, each with the same part of tensors that are its roundings: they are read once."""
    grouped: dict[Any, tuple[list[Part], list[Part]]] = defaultdict(lambda: ([], []))
    for part in parts:
        array = part.lazy.array
        source = array if array.rounding is None else array.rounding.source
        place = tuple((along.start, along.stop) for along in part.box)
        grouped[source.path, place][array is not source].append(part)
    for exact, rounded in grouped.values():
        yield from ((part, []) for part in exact[1:])
        if exact:
            yield exact[0], rounded
        else:
            yield from ((part, []) for part in rounded)


def _read_part(job: tuple[Part, list[Part]]) -> None:
    """Read a part of a tensor to where it belongs, and what is rounded from it."""
    (lazy, box, target), rounded = job
    exact = lazy.numpy(box)
    target.copy_(to_torch(exact))
    for one in rounded:
        part = np.empty(exact.shape, BY_NAME[one.lazy.dtype].numpy)
        round_into(exact, part, one.lazy.dtype)
        one.target.copy_(to_torch(part))
