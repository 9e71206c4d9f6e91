# SPDX-License-Identifier: Apache-2.0
"""What the tuner's regression learns from, and what it says of the nearest tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NEIGHBOURS: Final = 5
PRIOR: Final = 2  # measurements that a sample counts for: one tensor may not be like its group
APART: Final = 1e3  # so far that ways are no neighbours of each other


class Cost(NamedTuple):
    """What encoding a tensor took."""

    family: str
    scale: int
    name: str
    way: str
    ratio: float
    """log of encoded over decoded bytes."""
    rate: float
    """log of seconds a byte."""


Group: TypeAlias = tuple[str, int]
"""Family and scale."""
Row: TypeAlias = tuple[str, int, float]


def gains(
    history: Sequence[Cost],
    samples: Sequence[Cost],
    own: Mapping[str, Mapping[str, float]],
    default: str,
) -> dict[str, list[Row]]:
    """What ratios are learned from: of the default they themselves, of other ways what they
    gain over it, where one tensor was encoded in both, or where none was, a sample.
    """
    groups = {one.name: (one.family, one.scale) for one in history}
    rows: dict[str, list[Row]] = {}
    for name, costs in own.items():
        start = costs.get(default)
        for way, ratio in costs.items():
            if way == default:
                rows.setdefault(way, []).append((*groups[name], ratio))
            elif start is not None:
                rows.setdefault(way, []).append((*groups[name], ratio - start))
    seen = {(way, *row[:2]) for way, known in rows.items() for row in known}
    drawn = {one.family: one.ratio for one in samples if one.way == default}
    for one in samples:
        if (one.way, one.family, one.scale) not in seen:
            gain = one.ratio - (0.0 if one.way == default else drawn[one.family])
            rows.setdefault(one.way, []).append((one.family, one.scale, gain))
    return rows


def rates(
    history: Sequence[Cost], samples: Sequence[Cost], groups: Sequence[Group]
) -> dict[str, list[Row]]:
    """What times are learned from: those measured, and until there are enough, what samples say.

    A sample takes longer for a byte than a tensor does: by as much as in the ways that were
    measured.
    """
    measured: dict[Group, dict[str, list[float]]] = {}
    for one in history:
        measured.setdefault(one[:2], {}).setdefault(one.way, []).append(one.rate)
    drawn: dict[str, dict[str, float]] = {}
    for one in samples:
        drawn.setdefault(one.family, {})[one.way] = one.rate
    rows: dict[str, list[Row]] = {}
    for group in dict.fromkeys([*measured, *groups]):
        there, sampled = measured.get(group, {}), drawn.get(group[0], {})
        both = [_typical(there[way]) - sampled[way] for way in there if way in sampled]
        shift = float(np.median(both)) if both else 0.0
        for way in dict.fromkeys([*there, *sampled]):
            found = there.get(way, [])
            guess = sampled[way] + shift if way in sampled and (both or not measured) else None
            if not found and guess is None:
                continue
            n = min(len(found), NEIGHBOURS)
            weight = 0 if guess is None or n == NEIGHBOURS else PRIOR
            rate = n * (_typical(found) if found else 0.0) + weight * (guess or 0.0)
            rows.setdefault(way, []).extend([(*group, rate / (n + weight))] * NEIGHBOURS)
    return rows


def _typical(rates: Sequence[float]) -> float:
    """The lower quartile: whatever disturbs a measurement makes it slower."""
    return float(np.quantile(rates, 0.25))


def nearest(
    rows: Mapping[str, Sequence[Row]],
    groups: Sequence[Group],
    features: Mapping[str, Sequence[float]],
) -> dict[str, dict[Group, float]]:
    """For each way and group, the mean of the nearest rows of that way."""
    from sklearn.neighbors import KNeighborsRegressor

    if not rows:
        return {}
    spread = np.ptp(np.array(list(features.values())), axis=0) + 1e-3
    places = {name: np.array(point) / spread for name, point in features.items()}
    at, found = [], []
    for number, known in enumerate(rows.values()):
        for family, scale, value in [*known] * -(-NEIGHBOURS // len(known)):
            at.append([*places[family], scale / 8, APART * number])
            found.append(value)
    points = [
        [*places[family], scale / 8, APART * number]
        for number in range(len(rows))
        for family, scale in groups
    ]
    model = KNeighborsRegressor(NEIGHBOURS, algorithm="brute")
    made = model.fit(at, found).predict(points).reshape(len(rows), len(groups)).tolist()
    return {
        way: dict(zip(groups, values, strict=True)) for way, values in zip(rows, made, strict=True)
    }
