# SPDX-License-Identifier: Apache-2.0
"""What is known of families of tensors: what they look like, and what encoding them cost."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from math import exp, isfinite, log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .subject import FEATURES

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TENSORS: Final = (
    64  # of a family that are remembered: cost of planning and manifest are bounded
)
MEMORY: Final = 4  # measurements that a mean has at most: tensors change
LOADING: Final = 0.01, 5e7  # seconds, bytes a second: what is slower has loaded kernels
SAMPLE: Final = "(sample)"
"""The name of the tensor that a sample of a family is."""


class Cost(NamedTuple):
    """What encoding a tensor in one way took."""

    nbytes: int
    encoded: int
    seconds: float
    """Geometric mean of the last few."""
    n: int = 1

    def then(self, encoded: int, seconds: float) -> Cost:
        """With one more measurement."""
        n = min(self.n + 1, MEMORY)
        mean = exp(log(self.seconds) + (log(seconds) - log(self.seconds)) / n)
        return Cost(self.nbytes, encoded, round(mean, 9), n)


Costs = dict[str, dict[str, Cost]]
"""By tensor, then by way."""


@dataclass
class Family:
    """Tensors that are encoded alike."""

    features: list[float]
    costs: Costs = field(default_factory=dict)

    def add(self, name: str, way: str, nbytes: int, encoded: int, seconds: float) -> None:
        """One more measurement; those that cannot be true and those of too many tensors are left."""
        if min(nbytes, encoded) <= 0 or seconds <= 0:
            return
        if seconds > LOADING[0] and nbytes / seconds < LOADING[1]:
            return
        if name not in self.costs:
            self.costs[name] = {}
            if len(self.costs) > MAX_TENSORS:
                del self.costs[max((x for x in self.costs if x != SAMPLE), key=_order)]
        ways = self.costs.get(name)
        if ways is not None:
            known = ways.get(way)
            fits = known is not None and known.nbytes == nbytes
            ways[way] = (
                known.then(encoded, seconds)
                if known is not None and fits
                else Cost(nbytes, encoded, round(seconds, 9))
            )

    @property
    def ways(self) -> set[str]:
        """Those that were measured."""
        return {way for known in self.costs.values() for way in known}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "features": self.features,
            "costs": {
                name: {way: list(cost) for way, cost in ways.items()}
                for name, ways in self.costs.items()
            },
        }

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> Family:
        """Inverse of `to_json`.

        Raises
        ------
        ValueError, TypeError, KeyError, AttributeError
            That is not what `to_json` gives.

        """
        features = [float(x) for x in known["features"]]
        costs = {
            str(name): {
                str(way): Cost(int(a), int(b), float(c), int(d))
                for way, (a, b, c, d) in ways.items()
            }
            for name, ways in known["costs"].items()
        }
        good = all(
            min(one.nbytes, one.encoded, one.n) > 0 and one.seconds > 0 and isfinite(one.seconds)
            for ways in costs.values()
            for one in ways.values()
        )
        if len(features) != FEATURES or not all(map(isfinite, features)) or not good:
            raise ValueError("figures of a family that cannot be")
        return cls(features, costs)


def _order(name: str) -> tuple[int, str]:
    """Which tensors of too many stay: some from everywhere, the same in every process."""
    return zlib.crc32(name.encode(errors="surrogatepass")), name
