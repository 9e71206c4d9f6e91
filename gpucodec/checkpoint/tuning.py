# SPDX-License-Identifier: Apache-2.0
"""A `gpucodec.tune.Tuner` as policy: what it is shown, and what it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import GpucodecError
from ..tune import Subject
from . import manifest as manifests
from .read import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from ..tune import Tuner
    from .leaves import Leaf
    from .storage import Storage

KEY: Final = "tuner"
SHOWN_BYTES: Final = 1 << 20  # of a tensor that has to be copied to be seen


def recall(tuner: Tuner, storage: Storage, key: str = manifests.NAME) -> None:
    """Give a new tuner what one of the same run knew, from a checkpoint that is there."""
    if tuner.rounds:
        return
    try:
        manifest = read_manifest(storage, key)
    except (GpucodecError, FileNotFoundError):
        return
    tuner.recall(manifest.extra.get(KEY) or {})


def plan(tuner: Tuner, leaves: Sequence[Leaf], kinds: Mapping[str, str]) -> dict[str, Any]:
    """A configuration for each tensor, by name."""
    return tuner.plan(
        [Subject(leaf.name, kinds[leaf.name], _shown(leaf), leaf.nbytes) for leaf in leaves]
    )


def _shown(leaf: Leaf) -> np.ndarray[Any, Any]:
    """The elements, without a copy, or those of some rows in the middle."""
    if leaf.is_view or leaf.nbytes <= SHOWN_BYTES or not leaf.shape:
        return leaf.chunk(...)  # type: ignore[arg-type]
    row_bytes = max(1, leaf.nbytes // leaf.shape[0])
    n = max(1, min(leaf.shape[0], SHOWN_BYTES // row_bytes))
    start = (leaf.shape[0] - n) // 2
    return leaf.chunk((slice(start, start + n),))
