# SPDX-License-Identifier: Apache-2.0
"""The tuner beside exhaustive search, on the benchmark's tensors.

``python -m bench.tuner``: a training state is encoded in every way; the tuner sees five
checkpoints without every third tensor, then chooses for those it has never seen. The best is the best way for each kind of tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gpucodec
from gpucodec.tune import Objective, Subject, Tuner, _key

from .corpus import open_corpus

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


def measure(subject: Subject, config: Any, rounds: int) -> tuple[int, float]:
    """Bytes, and the median of CPU seconds."""
    taken = []
    for _ in range(rounds):
        started = time.thread_time()
        nbytes = gpucodec.encode(subject.array, config, threads=1).nbytes
        taken.append(time.thread_time() - started)
    return nbytes, statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tuner", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    corpus = open_corpus(options.size)
    subjects = [
        Subject(f"{label}/{name}", kind, array, array.nbytes)
        for label, kind in KINDS.items()
        for name, array in corpus.tensors(label).items()
    ]
    ways = Objective().ways("param", "float32")
    exact = {}
    for one in subjects:
        for config in ways:
            measure(one, config, 1)  # warm
            exact[one.name, _key(config)] = measure(one, config, options.rounds)
    held = [one for i, one in enumerate(subjects) if i % 3 == 2]
    seen = [one for i, one in enumerate(subjects) if i % 3 != 2]
    total = sum(one.nbytes for one in subjects)
    print(f"{len(subjects)} tensors, {total / 1e6:.1f} MB, {len(held)} held back")
    print("| objective | held back: over the best | default over the best | seen: over default |")
    print("|---|---|---|---|")
    costs, default = [], []
    for label, objective in OBJECTIVES.items():

        def value(names: dict[str, Any], objective: Objective = objective) -> float:
            return sum(objective.value(*exact[name, _key(c)]) for name, c in names.items())

        tuner = Tuner(objective)
        over = []
        for _ in range(CHECKPOINTS):
            chosen = tuner.plan(seen)
            encode = sum(exact[name, _key(c)][1] for name, c in chosen.items())
            costs.append(tuner.seconds / encode)
            default.append(tuner.seconds / sum(exact[one.name, _key(ways[0])][1] for one in seen))
            for one in seen:
                config = chosen[one.name]
                tuner.observe(one.name, config, *measure(one, config, 1))
            tuner.end_round()
            over.append(value(chosen) / value({one.name: ways[0] for one in seen}))
        chosen = tuner.plan(held)
        best = {}
        for family in {one.family for one in held}:
            names = [one.name for one in held if one.family == family]
            way = min(ways, key=lambda c, n=names: value(dict.fromkeys(n, c)))
            best |= dict.fromkeys(names, way)
        final = value(tuner.plan(seen)) / value({one.name: ways[0] for one in seen})
        print(
            f"| {label} | {value(chosen) / value(best):.4f} "
            f"| {value({one.name: ways[0] for one in held}) / value(best):.4f} "
            f"| {', '.join(f'{x:.4f}' for x in over)}; then {final:.4f} |"
        )
    for label, found in (("as chosen", costs), ("in the default way", default)):
        later = max(share for i, share in enumerate(found) if i % CHECKPOINTS)
        print(
            f"planning, of the time of encoding {label}: {100 * max(found[::CHECKPOINTS]):.1f} % "
            f"at most in the first checkpoint, {100 * later:.1f} % at most in others"
        )


if __name__ == "__main__":
    main()
