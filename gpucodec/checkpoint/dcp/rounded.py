# SPDX-License-Identifier: Apache-2.0
"""Shards that are shards of another tensor rounded: bf16 weights beside their fp32 masters.

No rank sees all of a tensor, so each proves what it has: the same part of both. If all parts of a
tensor are roundings of one other tensor, it is a reference. Else those parts that nobody has
written are made from their masters in the end.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ..rounding import EXACT, MIN_NUMEL, ROUNDED, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import SavePlan

    from ..leaves import Leaf
    from ..parallel import Workers
    from .layout import Shard


def likely_masters(leaves: Mapping[str, Leaf], kinds: Mapping[str, str]) -> dict[str, str]:
    """By torch's names of 16-bit weights: what is likely their master, if anything.

    A guess from shapes and order, by which parts of both are given to one rank; it proves nothing.
    """
    rounded, exact = defaultdict(list), defaultdict(list)
    for fqn, leaf in leaves.items():
        kind = kinds[leaf.name]
        if leaf.dtype.name in ROUNDED and kind == "param":
            rounded[leaf.shape].append(fqn)
        elif leaf.dtype.name == EXACT and kind in {"master_weight", "param"}:
            exact[leaf.shape, kind].append(fqn)
    pairs: dict[str, str] = {}
    for shape, copies in rounded.items():
        masters = exact.get((shape, "master_weight")) or exact.get((shape, "param"), [])
        if len(masters) == 1:  # of tied weights, too
            pairs |= dict.fromkeys(copies, masters[0])
        elif len(masters) == len(copies):
            pairs |= zip(copies, masters, strict=True)
    return pairs


def bring_together(
    plans: Sequence[SavePlan], had: Sequence[set[MetadataIndex]], masters: Mapping[str, str]
) -> list[SavePlan]:
    """Give a rank that writes a part of a master that of its copy, too, if it has that.

    Parameters
    ----------
    plans
        Of all ranks; of replicated parts, one rank has each.
    had
        What each rank had before replicas were taken away.
    masters
        As `likely_masters` says.

    """
    writer = {item.index: rank for rank, plan in enumerate(plans) for item in plan.items}
    places = {(index.fqn, index.offset): rank for index, rank in writer.items()}
    items: list[list[Any]] = [[] for _ in plans]
    for rank, plan in enumerate(plans):
        for item in plan.items:
            master = masters.get(item.index.fqn)
            other = rank if master is None else places.get((master, item.index.offset), rank)
            items[other if item.index in had[other] else rank].append(item)
    return [replace(plan, items=mine) for plan, mine in zip(plans, items, strict=True)]


def find_parts(
    parts: Iterable[tuple[Leaf, Shard, tuple[int, ...]]],
    hints: Mapping[str, str],
    workers: Workers,
) -> dict[tuple[str, Shard], str]:
    """Which parts are roundings: names of the tensors of which they are, by name and shard.

    Parameters
    ----------
    parts
        Elements, place and whole shape, of tensors that are encoded losslessly.
    hints
        By names of tensors, what to try first.
    workers
        Threads.

    """
    groups: dict[Any, list[Leaf]] = defaultdict(list)
    for leaf, shard, shape in parts:
        if prod(shape) >= MIN_NUMEL and 0 not in shard.sizes:
            groups[shape, shard].append(leaf)
    return {
        (name, shard): source
        for (_, shard), leaves in groups.items()
        for name, source in find(leaves, workers, hints, min_numel=1).items()
    }
