# SPDX-License-Identifier: Apache-2.0
"""Saving a state dict as a checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import manifest as manifests
from .collect import collect, committed
from .kinds import kinds_of
from .leaves import identity
from .manifest import Manifest, Tensor
from .parallel import Workers
from .policy import Policy, policy_of
from .storage import connect
from .structure import flatten
from .write import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .storage import Storage


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
    policy: Policy | str = "lossless",
    *,
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
        How each tensor is encoded: "lossless", "resume", "archive" or a `Policy`.
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
    manifest, info = write(storage, state_dict, policy, metadata=metadata, progress=progress)
    storage.flush()
    storage.commit(manifests.NAME, manifest.to_bytes(), before)
    collect(storage)
    return info


def previous(storage: Storage, key: str) -> Any:
    """The version of the object that a commit will replace, or None."""
    try:
        return storage.read(key)[1]
    except FileNotFoundError:
        return None


def write(
    storage: Storage,
    state_dict: Any,
    policy: Policy | str,
    *,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Manifest, SaveInfo]:
    """Write all arrays of a checkpoint, and make its manifest, which is not written yet."""
    started = time.perf_counter()
    chosen = policy_of(policy)
    flat = flatten(state_dict)
    kinds = kinds_of(flat)
    first: dict[Any, str] = {}
    same_as = {
        leaf.name: first.setdefault(identity(leaf.source), leaf.name) for leaf in flat.leaves
    }
    own = [leaf for leaf in flat.leaves if same_as[leaf.name] == leaf.name]
    configs = [
        chosen.config(leaf.name, kinds[leaf.name], leaf.dtype.name, leaf.shape) for leaf in own
    ]
    with Workers(storage.workers) as workers:
        writer = Writer(storage, workers, committed(storage), progress or (lambda _: None))
        pairs = zip(own, configs, strict=True)
        paths = {leaf.name: path for leaf, path in zip(own, writer.write(pairs), strict=True)}
    tensors = {
        leaf.name: Tensor(
            paths[same_as[leaf.name]],
            kinds[leaf.name],
            leaf.library,
            None if same_as[leaf.name] == leaf.name else same_as[leaf.name],
        )
        for leaf in flat.leaves
    }
    extra = {"metadata": dict(metadata or {}), "policy": chosen.name}
    manifest = Manifest(flat.tree, tensors, writer.arrays, extra)
    info = SaveInfo(
        manifest.id,
        len(tensors),
        sum(leaf.nbytes for leaf in own),
        sum(array.encoded_bytes for array in writer.arrays.values()),
        writer.written_bytes,
        time.perf_counter() - started,
    )
    return manifest, info
