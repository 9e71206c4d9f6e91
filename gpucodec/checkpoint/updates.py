# SPDX-License-Identifier: Apache-2.0
"""Publishing weights as differences, as reinforcement learning does after every update.

A trainer publishes versions to a place; workers there bring their weights up to date and fetch
only what changed. Nobody has to know what the other has: tensors are recognised by their contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptionError
from . import codecs, leaves, manifest as manifests
from .grid import chunk_keys
from .load import fill, load_from, read_tensors
from .parallel import Workers
from .read import apply, fetch
from .save import Job, SaveInfo, commit
from .series import CheckpointSeries
from .storage import connect
from .structure import flatten
from .write import Plan

if TYPE_CHECKING:
    from .leaves import Leaf
    from .manifest import Array
    from .storage import Storage


@dataclass(frozen=True)
class UpdateInfo:
    """What `apply_delta` did."""

    version: int
    n_current: int
    """Tensors that were up to date."""
    n_changed: int
    """Tensors to which differences were added."""
    n_loaded: int
    """Tensors that were loaded in full."""
    fetched_bytes: int
    """Of chunks; the manifest comes on top."""


def publish_delta(
    state_dict: Any, url: Any, version: int, *, anchor_every: int = 16, keep: int = 4
) -> SaveInfo:
    """Publish a version of weights: what did not change is not stored, the rest as differences.

    Parameters
    ----------
    state_dict, url
        As for `gpucodec.checkpoint.save`.
    version
        A number above all earlier ones.
    anchor_every
        A tensor that changes is stored in full after this many versions.
    keep
        How many versions to keep.

    Raises
    ------
    ValueError
        There is a later version already.
    OSError, TypeError, UnsupportedError
        As `gpucodec.checkpoint.save`.

    """
    with CheckpointSeries(url, keep=keep, delta=max(0, anchor_every - 1)) as series:
        steps = series.steps()
        if steps and steps[-1] >= version:
            raise ValueError(f"version {version} is not above {steps[-1]}, which is published")
        return series.save(state_dict, version)


def apply_delta(state_dict: Any, url: Any, version: int | None = None) -> UpdateInfo:
    """Bring the tensors of `state_dict`, in place, to a published version, by default the latest.

    Tensors are recognised by a hash of their contents, so they may be of any earlier version, or
    of none; the result is hashed too.

    Raises
    ------
    FileNotFoundError
        There is no such version.
    ValueError
        A tensor is not in it, or of another shape or type.
    CorruptionError
        An object is missing, damaged or another's; tensors may hold anything then.

    """
    series = CheckpointSeries(url, keep=None)
    steps = series.steps()
    if not steps or (version is not None and version not in steps):
        raise FileNotFoundError(f"no version {version or ''} at {series.storage.url}")
    chosen = steps[-1] if version is None else version
    manifest = series.open(chosen).manifest
    counts = [0, 0, 0, 0]
    codecs.warm(array.codec for array in manifest.arrays.values())
    with Workers(series.storage.workers) as workers:
        for leaf in flatten(state_dict).leaves:
            if leaf.name not in manifest.tensors:
                raise ValueError(f"version {chosen} has no tensor {leaf.name}")
            array = manifest.arrays[manifest.tensors[leaf.name].array]
            if (leaf.dtype.name, leaf.shape) != (array.dtype, array.shape):
                raise ValueError(
                    f"{leaf.name} is {leaf.dtype.name} {leaf.shape}, in version {chosen} "
                    f"{array.dtype} {array.shape}"
                )
            kind, fetched = _update(series.storage, leaf, array, workers)
            counts[kind] += 1
            counts[3] += fetched
    return UpdateInfo(chosen, *counts)


def _update(storage: Storage, leaf: Leaf, array: Array, workers: Workers) -> tuple[int, int]:
    """Bring a tensor to the contents of an array; how, and how many bytes that took."""
    chain = array.chain
    config = codecs.from_json((array if array.rounding else chain[-1]).codec)
    have = _content(leaf, config, workers)
    missing = next((i for i, one in enumerate(chain) if one.content == have), None)
    if missing == 0:
        return 0, 0
    if array.rounding is not None:
        read_tensors(storage, [fill(leaf, array)], lambda _: None)
        _check(leaf.name, _content(leaf, config, workers), array)
        return 2, sum(o.size for one in chain for o in one.objects)
    made, out = leaves.empty(leaf.dtype, leaf.shape, leaf.library)
    plan = Plan(leaf, config)
    changes = chain[: len(chain) if missing is None else missing]
    keys = list(chunk_keys(array.shape, array.chunks))

    def work(i: int) -> None:
        box = plan.boxes[i]
        whole = np.zeros(array.chunks, out.dtype)
        inside = tuple(slice(0, part.stop - part.start) for part in box)
        if missing is not None:
            whole[inside] = leaf.chunk(box)
        for one in reversed(changes):
            key = f"{one.path}/{keys[i]}"
            raw = fetch(storage, key, one.objects[i])
            if one.delta is None:
                codecs.decode_into(raw, whole, one.dtype, f"{storage.url}/{key}")
                continue
            change = np.empty(array.chunks, one.stored_dtype)
            codecs.decode_into(raw, change, one.stored_dtype, f"{storage.url}/{key}")
            apply(one.delta.op, change, whole)
        out[box] = whole[inside]

    workers.map(work, range(len(plan.boxes)))
    found = _content(leaves.leaf(leaf.name, leaf.path, made), config, workers)
    if chain[-1].codec["name"] == codecs.LOSSLESS:
        _check(leaf.name, found, array)
    if leaf.library == "numpy":
        leaf.source[...] = made
    else:
        leaf.source.detach().copy_(made)
    return (2 if missing is None else 1), sum(o.size for one in changes for o in one.objects)


def _check(name: str, found: str, array: Array) -> None:
    if found != array.content:
        raise CorruptionError(f"{name} has contents {found}, not {array.content}")


def _content(leaf: Leaf, config: Any, workers: Workers) -> str:
    """The path that an array with the contents of a tensor would have."""
    plan = Plan(leaf, config)
    workers.map(plan.hash_chunk, range(len(plan.boxes)))
    return plan.content()


def compact(url: Any) -> SaveInfo:
    """Store the tensors of a checkpoint in full that are stored as differences.

    The state dict is read into memory. Raises as `load` and `save`.
    """
    storage = connect(url)
    data, version = storage.read(manifests.NAME)
    manifest = manifests.parse(data, f"{storage.url}/{manifests.NAME}")
    job = Job(storage, load_from(storage, manifest, None), metadata=manifest.extra["metadata"])
    job.max_depth = 0
    return commit(job, manifests.NAME, version)
