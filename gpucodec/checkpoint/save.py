# SPDX-License-Identifier: Apache-2.0
"""Saving a state dict as a checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from ..config import DEFAULT_CONFIG, TensorConfig
from ..errors import GpucodecError
from ..tune import Tuner
from . import codecs, manifest as manifests, rounding, tuning
from .collect import collect, committed
from .kinds import kinds_of
from .leaves import identity
from .manifest import Manifest, Tensor
from .parallel import Workers
from .policy import Policy, policy_of
from .read import read_manifest
from .storage import connect
from .structure import flatten
from .write import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .leaves import Leaf
    from .manifest import Array
    from .storage import Storage
    from .write import Reference


@dataclass(frozen=True)
class SaveInfo:
    """What `save` did."""

    id: str
    """The checkpoint's identity: SHA-256 of its contents and of the hashes of all objects."""
    n_tensors: int
    decoded_bytes: int
    """Bytes of all tensors; of those that share memory, once."""
    encoded_bytes: int
    """Bytes of all arrays of the checkpoint."""
    written_bytes: int
    """Of these, what was not stored already."""
    seconds: float

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / max(1, self.encoded_bytes)


def save(
    state_dict: Any,
    url: Any,
    policy: Policy | Tuner | str = "lossless",
    *,
    delta: int = 0,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> SaveInfo:
    """Save a state dict; the checkpoint that was there before stays until this one is complete.

    Parameters
    ----------
    state_dict
        Tensors (torch, on any device; NumPy arrays) and plain values in dicts, lists and tuples,
        nested as they come. Tensors that are the same memory are stored once and tied again by
        `load`.
    url
        A path, a URL of fsspec (``s3://bucket/run/step-100``, ``memory://...``) or an obstore
        store. One process at a time writes there.
    policy
        How each tensor is encoded: "lossless", "resume", "archive", a `Policy`, or a
        `gpucodec.tune.Tuner`, which learns from the checkpoints that it sees and is stored there.
    delta
        Store tensors as differences to those of the checkpoint that was there before, where that
        is smaller: with 0 never, else in chains of at most that many differences.
    metadata
        Values to keep beside it, as JSON: `Checkpoint.metadata`.
    progress
        Called with the bytes of tensors as they are finished, from several threads.

    Raises
    ------
    TypeError
        The state dict holds something else.
    UnsupportedError
        A tensor that cannot be encoded, such as a DTensor (see `gpucodec.checkpoint.dcp`).
    FileExistsError
        Another process wrote to the same place meanwhile; its checkpoint stays.
    OSError
        Whatever the storage says; the previous checkpoint stays.

    """
    storage = connect(url)
    before = previous(storage, manifests.NAME)
    job = Job(storage, state_dict, policy, metadata=metadata, progress=progress)
    if before is not None:
        job.use_base(manifests.NAME, delta)
    return commit(job, manifests.NAME, before)


def commit(job: Job, key: str, before: Any = None) -> SaveInfo:
    """Write all tensors that are left, then the manifest over the version `before`, then tidy up."""
    job.write(job.own)
    manifest, info = job.finish()
    job.storage.flush()
    job.storage.commit(key, manifest.to_bytes(), before)
    collect(job.storage)
    return info


def previous(storage: Storage, key: str) -> Any:
    """The version of the object that a commit will replace, or None."""
    try:
        return storage.read(key)[1]
    except FileNotFoundError:
        return None


class Job:
    """A state dict on its way to a checkpoint: taken apart at once, written in parts."""

    def __init__(
        self,
        storage: Storage,
        state_dict: Any,
        policy: Policy | Tuner | str = "lossless",
        *,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.started = time.perf_counter()
        self.storage = storage
        self.tuner = policy if isinstance(policy, Tuner) else None
        self.policy = Policy(name="tuned") if isinstance(policy, Tuner) else policy_of(policy)
        self._tuned: dict[str, Any] = {}
        if self.tuner is not None:
            tuning.recall(self.tuner, storage, manifests.NAME)
        self.metadata = dict(metadata or {})
        self.progress = progress or (lambda _: None)
        flat = flatten(state_dict)
        self.tree = flat.tree
        self.kinds = kinds_of(flat)
        self.libraries = {leaf.name: leaf.library for leaf in flat.leaves}
        first: dict[Any, str] = {}
        self.owner = {
            leaf.name: first.setdefault(identity(leaf.source), leaf.name) for leaf in flat.leaves
        }
        self.own = [leaf for leaf in flat.leaves if self.owner[leaf.name] == leaf.name]
        """Tensors to write: of those that are the same memory, the first."""
        self.nbytes = sum(leaf.nbytes for leaf in self.own)
        self.max_depth: float = inf
        """Differences in the chain of an array that is there already, to use it again."""
        self._bases: dict[str, Array] = {}
        self._paths: dict[str, str] = {}
        self._arrays: dict[str, Array] = {}
        self._sources: dict[str, str] = {}
        """Of tensors that are roundings: what of."""
        self._references: dict[str, Reference] = {}
        self._written_bytes = 0

    def use_base(self, key: str, depth: int) -> None:
        """Store differences to the tensors of a checkpoint, in chains of at most `depth`."""
        if depth < 1:
            return
        try:
            base = read_manifest(self.storage, key)
        except (GpucodecError, FileNotFoundError):
            return  # what cannot be read is no base
        arrays = {name: base.arrays[one.array] for name, one in base.tensors.items()}
        self._bases = {name: array for name, array in arrays.items() if array.depth < depth}

    def _config(self, leaf: Leaf) -> Any:
        if leaf.name in self._tuned:
            return self._tuned[leaf.name]
        kind = self.kinds[leaf.name]
        return self.policy.config(leaf.name, kind, leaf.dtype.name, leaf.shape)

    def find_roundings(self, leaves: Sequence[Leaf], workers: Workers) -> None:
        """Find tensors that need not be written, as others of `leaves` are all there is to know."""
        exact = [leaf for leaf in leaves if isinstance(self._config(leaf), TensorConfig)]
        self._sources |= rounding.find(exact, workers)

    def write(self, leaves: Sequence[Leaf]) -> None:
        """Write some of the tensors."""
        if self.tuner is not None:
            self._tuned |= tuning.plan(self.tuner, leaves, self.kinds)
        configs = [self._config(leaf) for leaf in leaves]
        codecs.warm(map(codecs.to_json, {DEFAULT_CONFIG, *configs}))
        with Workers(self.storage.workers) as workers:
            self.find_roundings(leaves, workers)
            known = {
                path: array
                for path, array in committed(self.storage).items()
                if array.depth <= self.max_depth
            }
            writer = Writer(self.storage, workers, known, self.progress, self._bases)
            pairs = list(zip(leaves, configs, strict=True))
            stored = [pair for pair in pairs if pair[0].name not in self._sources]
            for (leaf, _), path in zip(stored, writer.write(stored), strict=True):
                self._paths[leaf.name] = path
            rounded = [pair for pair in pairs if pair[0].name in self._sources]
            references = workers.map(lambda pair: writer.refer(*pair), rounded)
            for (leaf, _), reference in zip(rounded, references, strict=True):
                self._references[leaf.name] = reference
        if self.tuner is not None:
            for leaf, config in stored:
                array = writer.arrays[self._paths[leaf.name]]
                if array.delta is None:
                    nbytes = array.encoded_bytes - array.metadata.size
                    seconds = writer.seconds.get(array.path, 0.0)  # 0 of what was there already
                    self.tuner.observe(leaf.name, config, nbytes, seconds)
        self._arrays |= writer.arrays
        self._written_bytes += writer.written_bytes

    def finish(self) -> tuple[Manifest, SaveInfo]:
        """The manifest of what was written, which is not written yet."""
        for name, reference in self._references.items():
            array = reference.to(self._arrays[self._paths[self._sources[name]]])
            self._arrays[array.path] = array
            self._paths[name] = array.path
        tensors = {
            name: Tensor(
                self._paths[owner],
                self.kinds[name],
                self.libraries[name],
                None if owner == name else owner,
            )
            for name, owner in self.owner.items()
        }
        extra: dict[str, Any] = {"metadata": self.metadata, "policy": self.policy.name}
        if self.tuner is not None:
            self.tuner.end_round()
            extra[tuning.KEY] = self.tuner.to_json()
        manifest = Manifest(self.tree, tensors, self._arrays, extra)
        info = SaveInfo(
            manifest.id,
            len(tensors),
            self.nbytes,
            sum(array.encoded_bytes for array in self._arrays.values()),
            self._written_bytes,
            time.perf_counter() - self.started,
        )
        return manifest, info
