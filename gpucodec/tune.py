# SPDX-License-Identifier: Apache-2.0
"""Choosing how each tensor is encoded: from samples first, then from what earlier checkpoints cost.

A `Tuner` is a policy of `gpucodec.checkpoint.save`. For tensors that it has not seen, it encodes
samples; after each checkpoint it is told measured sizes and times, which are stored with the
checkpoint. From these, scikit-learn's nearest-neighbours regression predicts every way of encoding
every tensor, and a few tensors try ways that may be better: a contextual bandit that explores
where its prediction is close. Given the same history and seed, it chooses the same.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import exp, log
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import tune_model as model
from .config import DEFAULT_CONFIG, TensorConfig
from .missing import needs
from .tune_features import FEATURES, features, has_zeros, sample
from .tune_model import Cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .quant import ErrorBound

    Array = np.ndarray[Any, np.dtype[Any]]

WAYS: Final = (
    DEFAULT_CONFIG,
    TensorConfig(profile="auto"),
    TensorConfig(profile="fast"),
    TensorConfig(profile="plain"),
    TensorConfig(lz=True),
    TensorConfig(lz=False),
    TensorConfig(block_size=16384),
)
"""Lossless ways to encode a tensor; the first is the default."""
BOUNDED: Final = ("int8", "int4", "nf4", "mxfp8_e4m3", "log8")
"""Formats that are tried if a bound is given, which each of them keeps."""
EXPLORE_ROUNDS: Final = 5
EXPLORE_BYTES: Final = 0.1  # part of a checkpoint that may try something
CLOSE: Final = {"smallest": 1.02, "fastest": 2.0, "durable": 1.5}
"""What is predicted within this factor of the best may turn out the best: times are noisy."""
SAMPLE_PART: Final = 0.01  # of a family's bytes, over all ways
MIN_SAMPLE: Final = 1 << 15  # bytes: calls have a cost of their own
LOADING: Final = 0.01  # seconds: a sample that takes longer had to load kernels
CAUTION: Final = 0.99  # what beats the default by less than 1 % is not taken
MAX_HISTORY: Final = 2048
GOALS: Final = ("smallest", "fastest", "durable")


@dataclass(frozen=True)
class Objective:
    """What is minimized: bytes, seconds of encoding, or seconds until the bytes are written.

    Parameters
    ----------
    goal
        "smallest", "fastest" or "durable".
    bandwidth
        Bytes a second of the storage, for "durable".
    bound
        Lossy ways are allowed that keep this bound for every value; for weights, moments and
        gradients. Without it, nothing is lossy.

    Raises
    ------
    ValueError
        No such goal, or "durable" without a bandwidth.

    """

    goal: str = "smallest"
    bandwidth: float | None = None
    bound: ErrorBound | None = None

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ValueError(f"goal is one of {', '.join(GOALS)}, not {self.goal!r}")
        if self.goal == "durable" and not (self.bandwidth or 0) > 0:
            raise ValueError(f"durable needs a bandwidth in bytes a second, not {self.bandwidth}")

    def value(self, nbytes: float, seconds: float) -> float:
        """The figure to make small."""
        if self.goal == "smallest":
            return nbytes
        if self.goal == "fastest":
            return seconds
        assert self.bandwidth is not None
        return seconds + nbytes / self.bandwidth

    def ways(self, kind: str, dtype: str) -> list[Any]:
        """The configurations that a tensor may get."""
        found: list[Any] = list(WAYS)
        if self.bound is None or kind in {"other", "buffer"}:
            return found
        from .quant import QuantizeConfig, StateFormatError, check_state_format

        if dtype not in {"float32", "float64", "float16", "bfloat16"}:
            return found
        for name in BOUNDED:
            config = QuantizeConfig(name, bound=self.bound)
            try:
                check_state_format(kind, config)
            except StateFormatError:
                continue
            if name != "log8" or kind == "exp_avg_sq":
                found.append(config)
        return found


@dataclass(frozen=True)
class Subject:
    """A tensor that is to be encoded: what it is, and its elements or a part of them."""

    name: str
    kind: str
    array: Array
    nbytes: int

    @cached_property
    def family(self) -> str:
        """Tensors that are encoded alike until they prove different."""
        zeros = " with zeros" if has_zeros(self.array) else ""
        return f"{self.kind} {self.array.dtype}{zeros}"

    @cached_property
    def scale(self) -> int:
        """log4 of its size: small tensors take longer for a byte."""
        return self.nbytes.bit_length() // 2


@dataclass
class Tuner:
    """Chooses configurations; keeps what they cost.

    Needs ``gpucodec[tune]``.

    >>> Tuner(Objective("durable", bandwidth=1e9)).rounds
    0
    """

    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    rounds: int = 0
    """Checkpoints seen."""
    seconds: float = 0.0
    """What the last `plan` took, of the calling thread."""
    _features: dict[str, list[float]] = field(default_factory=dict)
    """By family."""
    _planned: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _samples: list[Cost] = field(default_factory=list)
    _history: list[Cost] = field(default_factory=list)

    def plan(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """A configuration for each tensor, by name."""
        with needs("sklearn", "tune"):
            _warm()
        started = time.thread_time()
        families: dict[str, list[Subject]] = {}
        for one in subjects:
            families.setdefault(one.family, []).append(one)
            self._planned[one.name] = (one.family, one.scale, one.nbytes)
        for family, members in families.items():
            if family not in self._features:
                largest = max(members, key=lambda one: one.array.nbytes)
                self._features[family] = features(largest.array)
                self._sample(largest, sum(one.nbytes for one in members))
        guesses = self._predict(subjects)
        chosen = {one.name: self._best(one, guesses[one.name]) for one in subjects}
        if self.rounds < EXPLORE_ROUNDS:
            self._explore(subjects, guesses, chosen)
        self.seconds = time.thread_time() - started
        return chosen

    def observe(self, name: str, config: Any, encoded: int, seconds: float) -> None:
        """Say what a planned tensor cost: bytes, and seconds of one thread."""
        family, scale, nbytes = self._planned[name]
        if nbytes and encoded and seconds > 0:
            self._history.append(_cost(family, scale, name, config, encoded, seconds, nbytes))

    def end_round(self) -> None:
        """A checkpoint is complete."""
        self.rounds += 1
        self._history = self._history[-MAX_HISTORY:]

    def to_json(self) -> dict[str, Any]:
        """What it knows, to be stored with a checkpoint."""
        return {
            "rounds": self.rounds,
            "features": self._features,
            "samples": [list(one) for one in self._samples],
            "history": [list(one) for one in self._history],
        }

    def recall(self, known: Mapping[str, Any]) -> None:
        """Take over what `to_json` gave; what does not read is ignored, as it is only advice."""
        try:
            samples, history = (
                [
                    Cost(str(a), int(b), str(c), str(d), float(e), float(f))
                    for a, b, c, d, e, f in known[key]
                ]
                for key in ("samples", "history")
            )
            points = {str(k): [float(x) for x in v] for k, v in known["features"].items()}
            rounds = int(known["rounds"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return
        fits = all(len(v) == FEATURES and np.isfinite(v).all() for v in points.values())
        costs = [*samples, *history]
        if fits and all(c.family in points and np.isfinite(c[4:]).all() for c in costs):
            self._samples, self._history = samples, history
            self._features, self.rounds = points, rounds

    def _sample(self, one: Subject, nbytes: int) -> None:
        """Encode a part of a tensor in every way."""
        from .codec import encode
        from .quant import encode_quantized

        ways = self.objective.ways(one.kind, one.array.dtype.name)
        budget = SAMPLE_PART * nbytes / len(ways)
        if self.objective.bound is not None:  # there is more to gain than time to lose
            budget = max(budget, MIN_SAMPLE)
        if budget < MIN_SAMPLE:
            return
        part = sample(one.array, int(budget))
        for config in ways:
            run = encode if isinstance(config, TensorConfig) else encode_quantized
            for _ in range(2):
                started = time.thread_time()
                encoded = run(part, config, threads=1).nbytes
                seconds = max(time.thread_time() - started, 1e-9)
                if seconds < LOADING:
                    break
            where = (one.family, one.scale, one.name)
            self._samples.append(_cost(*where, config, encoded, seconds, part.nbytes))

    def _best(self, one: Subject, values: Mapping[str, float]) -> Any:
        """The way that is predicted best, if it clearly beats the default."""
        default = values.get(_DEFAULT)
        if default is None:
            return DEFAULT_CONFIG
        ways = self.objective.ways(one.kind, one.array.dtype.name)
        best = min(ways, key=lambda config: values.get(_key(config), np.inf))
        return best if values[_key(best)] < CAUTION * default else DEFAULT_CONFIG

    def _explore(
        self,
        subjects: Sequence[Subject],
        guesses: Mapping[str, Mapping[str, float]],
        chosen: dict[str, Any],
    ) -> None:
        """Let a few tensors be encoded in ways that may be the best, for all that is known."""
        left = EXPLORE_BYTES * sum(one.nbytes for one in subjects)
        tried = {(*one[:2], one.way) for one in self._history}
        close = CLOSE[self.objective.goal]
        moved = False
        for i in np.random.default_rng([self.seed, self.rounds]).permutation(len(subjects)):
            one = subjects[int(i)]
            values = guesses[one.name]
            if one.nbytes > left and moved:
                continue
            limit = close * min(values.values(), default=0.0)
            for config in self.objective.ways(one.kind, one.array.dtype.name):
                key = _key(config)
                is_default = config == DEFAULT_CONFIG
                place = (one.family, one.scale, key)
                if place not in tried and (is_default or values.get(key, 0.0) <= limit):
                    chosen[one.name] = config
                    tried.add(place)
                    left -= one.nbytes
                    moved = moved or not is_default
                    break

    def _predict(self, subjects: Sequence[Subject]) -> dict[str, dict[str, float]]:
        """For each tensor: the objective of every way that something is known of.

        Sizes of a tensor that was encoded so before are those; all else is the mean of the
        nearest tensors that were.
        """
        guesses: dict[str, dict[str, float]] = {one.name: {} for one in subjects}
        groups = list(dict.fromkeys((one.family, one.scale) for one in subjects))
        own: dict[str, dict[str, float]] = {}
        for cost in self._history:
            own.setdefault(cost.name, {})[cost.way] = cost.ratio
        known = self._history, self._samples
        rates = model.nearest(model.rates(*known, groups), groups, self._features)
        gains = model.nearest(model.gains(*known, own, _DEFAULT), groups, self._features)
        if _DEFAULT not in gains:
            return guesses
        base = gains.pop(_DEFAULT)
        for one in subjects:
            group, mine = (one.family, one.scale), own.get(one.name, {})
            start = mine.get(_DEFAULT)
            if start is None:
                way = next((way for way in mine if way in gains), None)
                start = base[group] if way is None else mine[way] - gains[way][group]
            found = {_DEFAULT: start, **{way: start + near[group] for way, near in gains.items()}}
            for way, ratio in {**found, **mine}.items():
                if way in rates:
                    size, seconds = (exp(x) * one.nbytes for x in (ratio, rates[way][group]))
                    guesses[one.name][way] = self.objective.value(size, seconds)
        return guesses


def _cost(
    family: str, scale: int, name: str, config: Any, encoded: int, seconds: float, nbytes: int
) -> Cost:
    ratio, rate = round(log(encoded / nbytes), 5), round(log(seconds / nbytes), 3)
    return Cost(family, scale, name, _key(config), ratio, rate)


@cache
def _key(config: Any) -> str:
    """A configuration as text."""
    return json.dumps(config.to_json(), sort_keys=True)


_DEFAULT: Final = _key(DEFAULT_CONFIG)


@cache
def _warm() -> None:
    """Load scikit-learn, which takes a second, and what it loads with the first prediction."""
    from sklearn.neighbors import KNeighborsRegressor

    KNeighborsRegressor(1, algorithm="brute").fit([[0.0]], [0.0]).predict([[0.0]])
