# SPDX-License-Identifier: Apache-2.0
"""The tuner beside exhaustive search, on the benchmark's tensors.

``python -m bench.tuner``: a training state is encoded in every way; the tuner sees five
checkpoints without every third tensor, then chooses for those it has never seen. The best is the
best way for each family of tensors; "search over itself" is how far a search by half of the
measurements is from one by the other half, judged by the latter: the noise that no tuner can beat.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gpucodec
from gpucodec.tune import Objective, Subject, Tuner
from gpucodec.tune.objective import WAYS, key

from .corpus import open_corpus
from .record import record

KINDS = {
    "weights bfloat16": "param",
    "weights float32": "master_weight",
    "exp_avg float32": "exp_avg",
    "exp_avg_sq float32": "exp_avg_sq",
    "gradients bfloat16": "grad",
    "post-ReLU bfloat16": "other",
    "pruned weights bfloat16": "param",
    "pruned weights float32": "master_weight",
}
OBJECTIVES = {
    "smallest": Objective(),
    "fastest": Objective("fastest"),
    "durable at 0.1 GB/s": Objective("durable", bandwidth=1e8),
    "durable at 1 GB/s": Objective("durable", bandwidth=1e9),
    "durable at 5 GB/s": Objective("durable", bandwidth=5e9),
}
CHECKPOINTS = 5
MISS = 0.01  # of the whole, from which on a choice is printed that was not the best


Exact = dict[tuple[str, str], tuple[int, float]]
"""Bytes and seconds by tensor and way."""


def measure(subject: Subject, config: Any) -> tuple[int, float]:
    """Bytes and CPU seconds."""
    started = time.thread_time()
    nbytes = gpucodec.encode(subject.array, config, threads=1).nbytes
    return nbytes, time.thread_time() - started


def value(objective: Objective, exact: Exact, chosen: dict[str, Any]) -> float:
    """Of a choice for each tensor, all together."""
    return sum(objective.value(*exact[name, key(config)]) for name, config in chosen.items())


def search(objective: Objective, exact: Exact, subjects: list[Subject]) -> dict[str, Any]:
    """The best way for each family."""
    best = {}
    for family in {one.family for one in subjects}:
        names = [one.name for one in subjects if one.family == family]
        way = min(WAYS, key=lambda c, n=names: value(objective, exact, dict.fromkeys(n, c)))
        best |= dict.fromkeys(names, way)
    return best


def learn(
    tuner: Tuner, seen: list[Subject], exact: Exact
) -> tuple[list[float], list[tuple[float, float]]]:
    """Five checkpoints: of each what it cost beside the default, and planning beside encoding."""
    default = dict.fromkeys([one.name for one in seen], WAYS[0])
    over, plans = [], []
    for _ in range(CHECKPOINTS):
        chosen = tuner.plan(seen)
        times = [
            sum(exact[name, key(c)][1] for name, c in made.items()) for made in (chosen, default)
        ]
        plans.append((tuner.seconds / times[0], tuner.seconds / times[1]))
        over.append(value(tuner.objective, exact, chosen) / value(tuner.objective, exact, default))
        for one in seen:
            tuner.observe(one.name, chosen[one.name], *measure(one, chosen[one.name]))
        tuner.end_round()
    chosen = tuner.plan(seen)
    over.append(value(tuner.objective, exact, chosen) / value(tuner.objective, exact, default))
    return over, plans


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tuner", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    corpus = open_corpus(options.size)
    subjects = [
        Subject(f"{label}/{name}", kind, array, array.nbytes)
        for label, kind in KINDS.items()
        for name, array in corpus.tensors(label).items()
    ]
    taken: dict[tuple[str, str], tuple[int, list[float]]] = {}
    for config in WAYS:  # a pass over all tensors, as a checkpoint is
        for i in range(options.rounds + 1):
            for one in subjects:
                nbytes, seconds = measure(one, config)
                if i:  # the first loads kernels
                    taken.setdefault((one.name, key(config)), (nbytes, []))[1].append(seconds)
    exact = {where: (n, statistics.median(times)) for where, (n, times) in taken.items()}
    halves = [
        {where: (n, statistics.median(times[i::2])) for where, (n, times) in taken.items()}
        for i in range(2)
    ]
    held = [one for i, one in enumerate(subjects) if i % 3 == 2]
    seen = [one for i, one in enumerate(subjects) if i % 3 != 2]
    total = sum(one.nbytes for one in subjects)
    print(f"{len(subjects)} tensors, {total / 1e6:.1f} MB, {len(held)} held back")
    print(
        "| objective | held back: over the best | search over itself | default over the best "
        "| seen: over default |"
    )
    print("|---|---|---|---|---|")
    plans, misses = [], []
    for label, objective in OBJECTIVES.items():
        tuner = Tuner(objective)
        over, found = learn(tuner, seen, exact)
        plans.append(found)
        searched, chosen = search(objective, exact, held), tuner.plan(held)
        best = value(objective, exact, searched)
        ours = value(objective, exact, chosen) / best
        plain = value(objective, exact, dict.fromkeys([one.name for one in held], WAYS[0])) / best
        twice = [value(objective, halves[1], search(objective, half, held)) for half in halves]
        print(
            f"| {label} | {ours:.4f} | {twice[0] / twice[1]:.4f} | {plain:.4f} "
            f"| {', '.join(f'{x:.4f}' for x in over[:-1])}; then {over[-1]:.4f} |"
        )
        for family in dict.fromkeys(one.family for one in held):
            names = [one.name for one in held if one.family == family]
            costs = [value(objective, exact, {n: c[n] for n in names}) for c in (chosen, searched)]
            if costs[0] - costs[1] > MISS * best:
                took, better = (key(c[names[0]]) for c in (chosen, searched))
                misses.append(
                    f"{label}: {family}: {took} instead of {better}: "
                    f"{100 * (costs[0] - costs[1]) / best:+.1f} %"
                )
        record("tuner", label, held=ours, noise=twice[0] / twice[1], seen=over[-1])
    print(*misses, sep="\n")
    for i, label in enumerate(("as chosen", "in the default way")):
        first = max(found[0][i] for found in plans)
        later = max(one[i] for found in plans for one in found[1:])
        print(
            f"planning, of the time of encoding {label}: {100 * first:.1f} % at most in the "
            f"first checkpoint, {100 * later:.1f} % at most in others"
        )
        record("tuner", f"planning, {label}", first=first, later=later)


if __name__ == "__main__":
    main()
