# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: what to spend on which tensor, within a budget of harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Option:
    """A way to store a tensor."""

    key: Any
    nbytes: float
    harm: float
    """What it costs in quality; harms of several tensors are taken to add up."""


def allocate(table: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option]:
    """One option for each tensor: few bytes, harms that sum up to `budget` at most.

    From the least harmful options on, the step that saves most bytes for its harm is taken as long
    as the budget lasts, along the lower convex hull of each tensor's options (Shoham and Gersho
    1988). Deterministic; ties go to the first tensor.

    >>> a = [Option("exact", 100, 0.0), Option("8 bits", 25, 0.1), Option("4 bits", 12, 1.0)]
    >>> b = [Option("exact", 100, 0.0), Option("8 bits", 25, 0.3), Option("4 bits", 12, 0.5)]
    >>> {name: option.key for name, option in allocate({"a": a, "b": b}, 0.7).items()}
    {'a': '8 bits', 'b': '4 bits'}
    """
    hulls = {name: _hull(options) for name, options in table.items()}
    chosen = dict.fromkeys(hulls, 0)
    left = budget
    while True:
        steps = []
        for name, at in chosen.items():
            if at + 1 < len(hulls[name]):
                here, there = hulls[name][at : at + 2]
                harm = there.harm - here.harm
                if harm <= left:
                    steps.append(((here.nbytes - there.nbytes) / max(harm, 1e-300), name, harm))
        if not steps:
            return {name: hulls[name][at] for name, at in chosen.items()}
        _, name, harm = max(steps, key=lambda step: step[0])
        chosen[name] += 1
        left -= harm


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options worth taking, from the least harmful to the smallest."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda one: (one.harm, one.nbytes)):
        if hull and option.nbytes >= hull[-1].nbytes:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _above(a: Option, b: Option, c: Option) -> bool:
    """Whether b lies above the line from a to c."""
    return (a.nbytes - b.nbytes) * (c.harm - a.harm) <= (a.nbytes - c.nbytes) * (b.harm - a.harm)
