# SPDX-License-Identifier: Apache-2.0
"""Bytes on disk: of a store, by what they are, and of stages that are kept as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gpucodec

from ..checkpoint import manifest as manifests
from ..checkpoint.read import read_manifest
from ..checkpoint.storage import connect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

    from .. import TensorConfig

    Array = np.ndarray[Any, np.dtype[Any]]


def keep(folder: Path, name: str, role: str, array: Array) -> None:
    """Leave a part of a stage as a file of its bytes; names may have any characters."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{quote(name, safe='')}.{role}").open("ab") as file:
        file.write(array.tobytes())


def groups(url: Any) -> dict[str, int]:
    """Bytes of a store's objects by what they hold; their sum is that of all its files."""
    storage = connect(url)
    manifest = read_manifest(storage)
    found: dict[str, int] = {}
    owners: dict[str, str] = {}
    for name, tensor in manifest.tensors.items():
        owners.setdefault(tensor.array, name.partition("/")[0])
    for path, array in manifest.arrays.items():
        group = owners[path]
        found[group] = found.get(group, 0) + sum(one.size for one in array.objects)
        found["metadata"] = found.get("metadata", 0) + array.metadata.size
    found["manifest"] = storage.size(manifests.NAME)
    return found


def coded_bytes(arrays: Iterable[Array], code: TensorConfig) -> int:
    """Bytes of tensors that are coded and nothing else."""
    return sum(gpucodec.encode(array, code).nbytes for array in arrays)
