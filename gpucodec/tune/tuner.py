# SPDX-License-Identifier: Apache-2.0
"""The policy that learns: which way each family of tensors is encoded, and what is tried."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..config import DEFAULT_CONFIG, TensorConfig
from ..errors import MALFORMED
from .estimate import expected, posterior
from .history import LOADING, SAMPLE, Family
from .objective import DEFAULT, Objective, key
from .subject import Subject, features, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

EXPLORE_ROUNDS: Final = 5
EXPLORE_BYTES: Final = 0.1  # part of a checkpoint that may try something, beside one of each family
NOISE: Final = {"smallest": 0.02, "fastest": 0.2, "durable": 0.2}
"""Standard deviation of the log of a measurement."""
DOUBT: Final = 1.0  # standard deviations by which a way that is tried may be better than it seems
CAUTION: Final = 0.01  # what beats the default by less is not taken
SAMPLE_PART: Final = 0.0075  # of a checkpoint's bytes that are encoded as samples, in all ways
SAMPLE_BYTES: Final = 1 << 17, 1 << 20  # of a sample, at least and at most


@dataclass
class Tuner:
    """Chooses configurations; keeps what they cost.

    >>> Tuner(Objective("durable", bandwidth=1e9)).rounds
    0
    """

    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    rounds: int = 0
    """Checkpoints seen."""
    seconds: float = 0.0
    """What the last `plan` took, of the calling thread."""
    _families: dict[str, Family] = field(default_factory=dict)
    _planned: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By name: family and bytes."""

    def plan(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """A configuration for each tensor, by name."""
        started = time.thread_time()
        members: dict[str, list[Subject]] = {}
        for one in subjects:
            members.setdefault(one.family, []).append(one)
            self._planned[one.name] = (one.family, one.nbytes)
        self._look(members)
        beliefs = dict(self._beliefs(members))
        chosen = {
            one.name: beliefs[family].best for family, found in members.items() for one in found
        }
        if self.rounds < EXPLORE_ROUNDS:
            self._explore(members, beliefs, chosen)
        self.seconds = time.thread_time() - started
        return chosen

    def observe(self, name: str, config: Any, encoded: int, seconds: float) -> None:
        """Say what a planned tensor cost: bytes, and seconds of one thread."""
        family, nbytes = self._planned[name]
        self._families[family].add(name, key(config), nbytes, encoded, seconds)

    def end_round(self) -> None:
        """A checkpoint is complete."""
        self.rounds += 1

    def to_json(self) -> dict[str, Any]:
        """What it knows, to be stored with a checkpoint."""
        families = {name: family.to_json() for name, family in self._families.items()}
        return {"rounds": self.rounds, "families": families}

    def recall(self, known: Mapping[str, Any]) -> None:
        """Take over what `to_json` gave; what does not read is ignored, as it is only advice."""
        try:
            families = {str(name): Family.from_json(one) for name, one in known["families"].items()}
            rounds = int(known["rounds"])
        except MALFORMED:
            return
        self._families, self.rounds = families, rounds

    def _look(self, members: Mapping[str, Sequence[Subject]]) -> None:
        """Describe families that are new, and encode samples of them, large families first."""
        new = {name: found for name, found in members.items() if name not in self._families}
        total = sum(one.nbytes for found in members.values() for one in found)
        left = SAMPLE_PART * total
        sizes = {name: sum(one.nbytes for one in found) for name, found in new.items()}
        for name in sorted(new, key=lambda name: -sizes[name]):
            largest = max(new[name], key=lambda one: one.array.nbytes)
            self._families[name] = Family(features(largest.array))
            ways = self.objective.ways(largest.kind, largest.array.dtype.name)
            least, most = SAMPLE_BYTES
            nbytes = int(min(most, SAMPLE_PART * sizes[name] / len(ways)))
            if len(ways) * max(nbytes, least) <= left and largest.array.nbytes >= least:
                part = sample(largest.array, max(nbytes, least))
                left -= len(ways) * part.nbytes
                for config in ways:
                    cost = _encode(part, config)
                    self._families[name].add(SAMPLE, key(config), part.nbytes, *cost)

    def _beliefs(self, members: Mapping[str, Sequence[Subject]]) -> Iterator[tuple[str, Belief]]:
        """What is believed of each family: what it has measured, or else similar ones have."""
        gains: list[tuple[str, Sequence[float], dict[str, float]]] | None = None
        for name, found in members.items():
            configs = self.objective.ways(found[0].kind, found[0].array.dtype.name)
            ways = [key(config) for config in configs]
            family, prior = self._families[name], np.zeros(len(ways))
            if not family.ways.issuperset(ways):
                gains = list(self._gains()) if gains is None else gains
                others = [(point, known) for other, point, known in gains if other != name]
                prior = expected(family.features, ways, others)
            yield name, Belief(configs, *posterior(family.costs, ways, prior, self.objective))

    def _gains(self) -> Iterator[tuple[str, Sequence[float], dict[str, float]]]:
        """Names, features and measured gains over the default, of each family that has them."""
        for name, family in self._families.items():
            ways = sorted(family.ways)
            if DEFAULT in ways:
                mean, _ = posterior(family.costs, ways, np.zeros(len(ways)), self.objective)
                beside = (mean - mean[ways.index(DEFAULT)]).tolist()
                yield name, family.features, dict(zip(ways, beside, strict=True))

    def _explore(
        self,
        members: Mapping[str, Sequence[Subject]],
        beliefs: Mapping[str, Belief],
        chosen: dict[str, Any],
    ) -> None:
        """Let a few tensors be encoded in ways that may be the best, for all that is known."""
        left = EXPLORE_BYTES * sum(one.nbytes for found in members.values() for one in found)
        noise = NOISE[self.objective.goal]
        trials = []
        random = np.random.default_rng([self.seed, self.rounds])
        waiting = {}
        for name, found in members.items():
            waiting[name] = [found[i] for i in random.permutation(len(found)).tolist()]
            nbytes = sum(one.nbytes for one in found)
            for config, hope in beliefs[name].hopes(DOUBT * noise):
                trials.append((hope * nbytes, name, config))
        trials.sort(key=lambda one: -one[0])
        tried = set()
        while trials:  # more of the same, as long as there are bytes for it
            for one in [*trials]:
                _, name, config = one
                fits = [x for x in waiting[name] if x.nbytes <= left or name not in tried]
                if not fits:
                    trials.remove(one)
                    continue
                waiting[name].remove(fits[0])
                chosen[fits[0].name] = config
                left -= fits[0].nbytes
                tried.add(name)


@dataclass(frozen=True)
class Belief:
    """What is believed of the ways of a family."""

    ways: list[Any]
    mean: np.ndarray[Any, np.dtype[Any]]
    covariance: np.ndarray[Any, np.dtype[Any]]

    @property
    def best(self) -> Any:
        """The way that is expected best, if it clearly beats the default, which is the first."""
        i = int(self.mean.argmin())
        return self.ways[i] if self.mean[i] < self.mean[0] - CAUTION else DEFAULT_CONFIG

    def hopes(self, noise: float) -> Iterator[tuple[Any, float]]:
        """Ways that may be better than the best, and by how much."""
        best = self.ways.index(self.best)
        spread = self.covariance.diagonal() + self.covariance[best, best]
        spread = noise * np.sqrt(np.maximum(spread - 2 * self.covariance[best], 0))
        for i, hope in enumerate((self.mean[best] - self.mean + spread).tolist()):
            if i != best and hope > 0:
                yield self.ways[i], hope


def _encode(part: np.ndarray[Any, np.dtype[Any]], config: Any) -> tuple[int, float]:
    """Bytes, and seconds without loading kernels."""
    run: Callable[..., Any]
    if isinstance(config, TensorConfig):
        from ..codec import encode as run
    else:  # which is not imported in vain
        from ..quant import encode_quantized as run
    for _ in range(2):
        started = time.thread_time()
        encoded = run(part, config, threads=1).nbytes
        seconds = max(time.thread_time() - started, 1e-9)
        if seconds < LOADING[0]:
            break
    return encoded, seconds
