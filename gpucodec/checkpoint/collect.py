# SPDX-License-Identifier: Apache-2.0
"""What is committed at a place, and the removal of all else that checkpoints left there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ..errors import GpucodecError
from . import manifest as manifests
from .read import read_manifest
from .storage.local import TEMPORARY, Local
from .write import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .manifest import Array, Manifest
    from .storage import Storage

STEPS: Final = "steps"
# Only names that this package gives are ever deleted.
_OURS: Final = re.compile(rf"{FOLDER}/[0-9a-f]{{16,64}}(\.\d+)*/(zarr\.json|c(\.\d+)*)")
_STEP: Final = re.compile(rf"{STEPS}/\d{{12}}\.json")
_LEFT: Final = re.compile(
    rf"({re.escape(manifests.NAME)}|{STEPS}/\d{{12}}\.json)\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}"
)


def manifest_keys(storage: Storage) -> Iterator[str]:
    """The keys of all manifests at a place: of the checkpoint itself, and of a series' steps."""
    try:
        storage.size(manifests.NAME)
    except FileNotFoundError:
        pass
    else:
        yield manifests.NAME
    yield from step_keys(storage)


def step_keys(storage: Storage) -> list[str]:
    """The keys of the manifests of a series' steps, in order."""
    return sorted(key for key in storage.list(f"{STEPS}/") if _STEP.fullmatch(key))


def _all(storage: Storage) -> Iterator[Manifest]:
    for key in manifest_keys(storage):
        yield read_manifest(storage, key)


def committed(storage: Storage) -> dict[str, Array]:
    """The arrays of all checkpoints at a place; of damaged ones, none."""
    arrays: dict[str, Array] = {}
    for key in manifest_keys(storage):
        try:
            arrays |= read_manifest(storage, key).arrays
        except (GpucodecError, FileNotFoundError):  # what cannot be read is not reused
            continue
    return arrays


def collect(storage: Storage) -> int:
    """Delete objects that no manifest names; returns how many.

    Nothing is deleted while there is a manifest that cannot be read: it may name anything.
    """
    try:
        named = set[str]().union(*(manifest.keys() for manifest in _all(storage)))
    except GpucodecError:
        return 0
    unnamed = [
        key for key in storage.list(f"{FOLDER}/") if _OURS.fullmatch(key) and key not in named
    ]
    unnamed += [key for key in (*_beside(storage),) if _LEFT.fullmatch(key)]
    for key in unnamed:
        storage.delete(key)
    return len(unnamed)


def remove(storage: Storage) -> None:
    """Delete a checkpoint, manifest first; what steps of a series refer to stays."""
    storage.delete(manifests.NAME)
    storage.flush()  # before what it names is deleted
    collect(storage)
    if isinstance(storage, Local):
        storage.remove_root()


def _beside(storage: Storage) -> Iterator[str]:
    if isinstance(storage, Local):  # elsewhere a commit leaves nothing
        yield from storage.names("")
        yield from storage.names(f"{STEPS}/")
