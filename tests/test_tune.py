# SPDX-License-Identifier: Apache-2.0
"""The tuner chooses well, learns from checkpoints, and is deterministic."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

import gpucodec
from gpucodec import ErrorBound, QuantizeConfig, TensorConfig, checkpoint
from gpucodec.config import DEFAULT_CONFIG
from gpucodec.model.allocate import Option, allocate
from gpucodec.tune import Objective, Subject, Tuner
from gpucodec.tune.estimate import expected, posterior
from gpucodec.tune.history import LOADING, MAX_TENSORS, SAMPLE, Family
from gpucodec.tune.objective import DEFAULT, WAYS


def state(seed=0, rows=512):
    rng = np.random.default_rng(seed)
    found = {}
    for layer in range(4):
        dense = rng.normal(0, 0.02, (rows, 512)).astype(np.float32)
        found[f"model/{layer}.weight"] = dense.astype(ml_dtypes.bfloat16)
        pruned = np.where(np.abs(dense) > 0.03, dense, np.float32(0))
        found[f"model/{layer}.pruned"] = pruned
        scales = np.exp(rng.normal(0, 1, (rows, 1)) + rng.normal(0, 1, 512))
        found[f"model/{layer}.product"] = (scales * np.exp(dense)).astype(np.float32)
    return found


def subjects(tensors):
    return [Subject(name, "param", array, array.nbytes) for name, array in tensors.items()]


def size(array, config):
    run = gpucodec.encode if isinstance(config, TensorConfig) else gpucodec.encode_quantized
    return run(array, config).nbytes


def learn(tuner, tensors, seconds=lambda _config, nbytes: nbytes / 1e9):
    chosen = tuner.plan(subjects(tensors))
    for one in subjects(tensors):
        config = chosen[one.name]
        nbytes = size(one.array, config)
        tuner.observe(one.name, config, nbytes, seconds(config, one.nbytes))
    tuner.end_round()
    return chosen


def test_within_three_percent_of_exhaustive_search_on_tensors_never_seen():
    tuner = Tuner(Objective("smallest"))
    for round_ in range(5):
        learn(tuner, state(round_))
    unseen = {f"other/{name}": array for name, array in state(9).items()}
    chosen = tuner.plan(subjects(unseen))
    total = sum(size(array, chosen[name]) for name, array in unseen.items())
    best = sum(min(size(array, way) for way in WAYS) for array in unseen.values())
    default = sum(size(array, DEFAULT_CONFIG) for array in unseen.values())
    assert total <= 1.03 * best
    assert total <= 1.01 * default


def speeds(config, nbytes):
    """A machine on which "plain" is three times as fast as all else."""
    return nbytes / (3e9 if config == TensorConfig(profile="plain") else 1e9)


def test_measured_times_decide_where_time_counts():
    tuner = Tuner(Objective("fastest"))
    for round_ in range(5):
        learn(tuner, state(round_), speeds)
    chosen = tuner.plan(subjects(state(6)))
    taken = sum(speeds(chosen[one.name], one.nbytes) for one in subjects(state(6)))
    best = sum(one.nbytes / 3e9 for one in subjects(state(6)))
    assert taken <= 1.03 * best
    slow = Tuner(Objective("durable", bandwidth=1e3))
    for round_ in range(5):
        learn(slow, state(round_), speeds)
    chosen = slow.plan(subjects(state(6)))  # bytes are all that counts
    sizes = {name: size(array, chosen[name]) for name, array in state(6).items()}
    default = {name: size(array, DEFAULT_CONFIG) for name, array in state(6).items()}
    assert sum(sizes.values()) <= 1.01 * sum(default.values())


def test_the_same_history_and_seed_choose_the_same():
    runs = []
    for _ in range(2):
        tuner = Tuner(seed=3)
        choices = []
        for round_ in range(4):
            choices.append({k: v.to_json() for k, v in learn(tuner, state(round_)).items()})
            again = Tuner(seed=3)
            again.recall(json.loads(json.dumps(tuner.to_json())))
            assert again.plan(subjects(state(7))) == tuner.plan(subjects(state(7)))
        runs.append(choices)
    assert runs[0] == runs[1]
    assert len({json.dumps(choice, sort_keys=True) for choice in runs[0]}) > 1  # it explored


@pytest.mark.parametrize("bound", [ErrorBound(abs=1e-3), ErrorBound(rel=0.05)])
def test_a_bound_is_kept_and_pays(bound):
    tensors = {k: v for k, v in state().items() if "pruned" not in k}
    tuner = Tuner(Objective(bound=bound))
    for round_ in range(6):
        learn(tuner, {k: v for k, v in state(round_).items() if "pruned" not in k})
    chosen = tuner.plan(subjects(tensors))
    assert any(isinstance(config, QuantizeConfig) for config in chosen.values())
    for name, array in tensors.items():
        config = chosen[name]
        if isinstance(config, QuantizeConfig):
            assert config.bound == bound
            again = gpucodec.decode(gpucodec.encode_quantized(array, config))
            error = np.abs(again.astype(np.float64) - array.astype(np.float64))
            limit = bound.abs or bound.rel * np.abs(array.astype(np.float64))
            assert (error <= limit * (1 + 1e-9)).all()
    other = Subject("rng", "other", np.zeros(9999, np.float32), 39996)
    assert isinstance(tuner.plan([other])["rng"], TensorConfig)


def test_what_it_learns_is_stored_with_the_checkpoint(tmp_path):
    folder = tmp_path / "run"
    for round_ in range(3):
        tensors = state(round_)
        tuner = Tuner()  # as in a new process
        checkpoint.save(tensors, folder, tuner)
        assert tuner.rounds == round_ + 1
        loaded = checkpoint.load(None, folder)
        for name, array in tensors.items():
            assert loaded[name].tobytes() == array.tobytes()
    known = checkpoint.open(folder).manifest.extra["tuner"]
    assert known["rounds"] == 3
    names = [name for family in known["families"].values() for name in family["costs"]]
    assert {*names} - {SAMPLE} == {*state()}
    assert checkpoint.verify(folder)


def test_a_series_goes_on_where_it_was(tmp_path):
    for step in range(2):
        tuner = Tuner()
        with checkpoint.CheckpointSeries(tmp_path / "run", policy=tuner) as series:
            assert tuner.rounds == step
            series.save(state(step, rows=64), step)
    assert tuner.rounds == 2


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"rounds": "x", "families": {}},
        {"rounds": 1, "families": []},
        {"rounds": 1, "families": {"f": {"features": [1.0], "costs": {}}}},
        {"rounds": 1, "families": {"f": {"features": [float("nan")] * 6, "costs": {}}}},
        {"rounds": 1, "families": {"f": {"features": [1.0] * 6, "costs": {"n": {"{}": [1, 1]}}}}},
        {
            "rounds": 1,
            "families": {"f": {"features": [1.0] * 6, "costs": {"n": {"{}": [1, 1, 0, 1]}}}},
        },
    ],
)
def test_what_does_not_read_is_forgotten(damage):
    tuner = Tuner()
    tuner.recall(damage)
    assert tuner.rounds == 0
    assert tuner.plan(subjects(state(rows=64)))


def test_what_is_remembered_is_bounded():
    family = Family([0.0] * 6)
    for i in range(3 * MAX_TENSORS):
        family.add(f"layer.{i}", DEFAULT, 1000, 600, 1e-6)
    assert len(family.costs) == MAX_TENSORS
    again = Family([0.0] * 6)
    for i in reversed(range(3 * MAX_TENSORS)):
        again.add(f"layer.{i}", DEFAULT, 1000, 600, 1e-6)
    assert {*again.costs} == {*family.costs}  # whatever the order


def test_the_time_that_loading_kernels_takes_is_not_learned():
    family = Family([0.0] * 6)
    family.add("a", DEFAULT, 1 << 20, 1 << 19, 2 * LOADING[0] + (1 << 20) / LOADING[1])
    assert not family.costs
    family.add("a", DEFAULT, 1 << 20, 1 << 19, 1e-3)
    assert family.costs["a"][DEFAULT].seconds == 1e-3


def test_noise_and_tensors_that_differ_do_not_mislead():
    """Times off by a third, tensors by a factor of six, ways by a tenth."""
    rng = np.random.default_rng(0)
    gains = {DEFAULT: 1.0, "slow": 1.5, "fast": 0.9}
    family = Family([0.0] * 6)
    for i in range(MAX_TENSORS):
        size, speed = int(rng.integers(1 << 18, 1 << 22)), np.exp(rng.uniform(0, np.log(6)))
        for way in rng.choice([*gains], 2, replace=False):
            seconds = size / 1e9 * speed * gains[way] * np.exp(rng.normal(0, 0.3))
            family.add(str(i), str(way), size, size // 2, float(seconds))
    ways = [*gains]
    mean, covariance = posterior(family.costs, ways, np.zeros(3), Objective("fastest"))
    spread = 0.2 * np.sqrt(covariance[2, 2] + covariance[0, 0] - 2 * covariance[2, 0])
    assert mean[2] < mean[0] < mean[1]
    assert abs(mean[2] - mean[0] - np.log(0.9)) < 3 * spread < 0.3


def test_similar_families_say_what_to_expect_of_a_new_one():
    known = [([0.0] * 6, {"a": -1.0}), ([9.0] * 6, {"a": 1.0, "b": 0.5})]
    near = expected([0.1] * 6, ["a", "b", "c"], known)
    assert near[0] < -0.5
    assert 0 < near[1] < 0.1  # from far away
    assert near[2] == 0


def test_wrong_objectives_are_refused():
    with pytest.raises(ValueError, match="goal"):
        Objective("best")
    with pytest.raises(ValueError, match="bandwidth"):
        Objective("durable")


def test_allocation_is_optimal_on_small_tables():
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = {
            name: [Option("exact", 100.0, 0.0)]
            + [Option(i, float(rng.integers(1, 100)), float(rng.random())) for i in range(3)]
            for name in "abc"
        }
        budget = float(rng.random() * 2)
        chosen = allocate(table, budget)
        assert sum(one.harm for one in chosen.values()) <= budget + 1e-9
        best = min(
            a.nbytes + b.nbytes + c.nbytes
            for a in table["a"]
            for b in table["b"]
            for c in table["c"]
            if a.harm + b.harm + c.harm <= budget
        )
        found = sum(one.nbytes for one in chosen.values())
        largest_step = 100  # greedy on hulls is off by one step at most (Shoham and Gersho)
        assert best <= found <= best + largest_step
