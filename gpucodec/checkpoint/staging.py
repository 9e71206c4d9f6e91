# SPDX-License-Identifier: Apache-2.0
"""Copies of tensors in host memory, so that training goes on while a checkpoint is written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from . import leaves

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .leaves import Leaf


def stage(tensors: Iterable[Leaf], limit: int | None) -> tuple[list[Leaf], list[Leaf]]:
    """Copy tensors as long as all copies together have at most `limit` bytes.

    Returns
    -------
    The copies, and the tensors for which there was no room.

    """
    copies: list[Leaf] = []
    rest: list[Leaf] = []
    total = 0
    for leaf in tensors:
        if limit is not None and total + leaf.nbytes > limit:
            rest.append(leaf)
            continue
        total += leaf.nbytes
        copies.append(replace(leaf, source=_copy(leaf)))
    return copies, rest


def _copy(leaf: Leaf) -> object:
    if leaf.library == "numpy":
        return np.array(leaf.source, order="C")
    made, _ = leaves.empty(leaf.dtype, leaf.shape, "torch")
    made.copy_(leaf.source.detach())
    return made
